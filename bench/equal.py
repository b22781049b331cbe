"""Two score tables of the same images: how far are they apart?

python -m bench.equal RUN RUN    # directories of finished runs, such as one on a CPU, one on a GPU
"""

import argparse
from pathlib import Path

from src.metrics.score_table import Scores

TOLERANCE = 1e-4  # of the standard deviation of a detector's scores


def main() -> None:
    """Prints the largest difference of each detector that exceeds the tolerance."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN")
    options = parser.parse_args()
    one, other = (Scores.load(run / "scores.npz") for run in options.runs)
    assert one.detectors == other.detectors, "expected runs of the same detectors"
    assert one.index.equal(other.index), "expected runs of the same images"
    apart = (one.score - other.score).abs() / one.score.std(dim=0)
    largest = apart.amax(dim=0)
    further = {name: i for i, name in enumerate(one.detectors) if not largest[i] <= TOLERANCE}
    print(
        f"{len(largest) - len(further)} of {len(largest)} detectors agree within {TOLERANCE} "
        f"standard deviations on {len(apart)} images; "
        f"{(one.prediction != other.prediction).sum()} predictions differ"
    )
    for name, i in sorted(further.items(), key=lambda pair: -largest[pair[1]]):
        print(f"  {name}: largest {largest[i]:.1e}, median {apart[:, i].median():.1e}")


if __name__ == "__main__":
    main()

"""How far the AUROC of a run would move with other images of the same kind: bootstrap intervals.

python -m bench.intervals RUN

It prints a CSV file with a row for each detector: its average AUROC, its lead over FeatureNorm at
the selected block, and the 95 % interval of both over 2,000 draws of the test images, the same for
all detectors.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.records.columns import FEATURE_NORM

DRAWS = 2000
Array = NDArray[np.float64]


def main() -> None:
    """Prints the table of a run directory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    rows = intervals(parser.parse_args().run / "scores.npz")
    table = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)


def intervals(file: Path) -> list[dict[str, str]]:
    """Returns detector, AUROC and lead over FeatureNorm with the ends of their intervals."""
    with np.load(file) as table:
        score, source, names = table["score"], table["source"], table["detectors"].tolist()
    draws = np.random.default_rng(0)
    counts = np.bincount(source)
    weights = [draws.multinomial(n, np.full(n, 1 / n), DRAWS) / n for n in counts]
    once = [np.full((1, n), 1 / n) for n in counts]
    whole, drawn = (
        {
            name: np.mean(
                [
                    auroc(score[source == 0, at], score[source == s, at], weight[0], weight[s])
                    for s in range(1, len(counts))
                ],
                axis=0,
            )
            for at, name in enumerate(names)
        }
        for weight in (once, weights)
    )
    return [
        {"detector": name}
        | spread("auroc", whole[name], drawn[name])
        | spread("lead", whole[name] - whole[FEATURE_NORM], drawn[name] - drawn[FEATURE_NORM])
        for name in names
    ]


def auroc(id_score: Array, ood_score: Array, id_weight: Array, ood_weight: Array) -> Array:
    """Returns the (R,) AUROC of draws with (R, N) and (R, M) weights of the images."""
    wins = (id_score[:, None] > ood_score) + 0.5 * (id_score[:, None] == ood_score)
    area: Array = np.einsum("rm,rm->r", id_weight @ wins, ood_weight)
    return area


def spread(name: str, whole: Array, drawn: Array) -> dict[str, str]:
    """Returns a value of all images, and the ends of its 95 % interval."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {name: f"{whole[0]:.5f}", f"{name}_low": f"{low:.5f}", f"{name}_high": f"{high:.5f}"}


if __name__ == "__main__":
    main()

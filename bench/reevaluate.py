"""Evaluates a checkpoint again: how far are its metrics from those that were kept?

python -m bench.reevaluate METRICS.json checkpoint=... [key=value ...]    # as src.evaluate
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.kill_and_resume import flat


def main() -> None:
    """Runs src.evaluate once, compares what both have: accuracy, NormRatio, each detector."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kept", type=Path, help="a metrics.json")
    options, overrides = parser.parse_known_args()
    with TemporaryDirectory() as run:
        command = [sys.executable, "-m", "src.evaluate", *overrides, f"hydra.run.dir={run}"]
        subprocess.run(command, check=True)
        kept, new = (
            numbers(json.loads(path.read_text()))
            for path in (options.kept, Path(run) / "metrics.json")
        )
    both = [key for key in kept if key in new]
    pairs = [pair for key in both for pair in zip(flat(kept[key]), flat(new[key]), strict=True)]
    apart = max(abs(a - b) for a, b in pairs)
    print(f"{len(pairs)} numbers of {len(both) - 2} detectors differ by at most {apart:.1e}")


def numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns what has to repeat."""
    return {**{key: metrics[key] for key in ("id_accuracy", "norm_ratio")}, **metrics["detectors"]}


if __name__ == "__main__":
    main()

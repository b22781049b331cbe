"""The same benchmark on 1, 2, 3 and 4 processes: do the scores and the metrics differ?

python -m bench.processes [--most 4] [key=value ...]    # overrides of src.train
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from bench.kill_and_resume import flat


def main() -> None:
    """Trains the quickstart once, benchmarks its checkpoint on 1 to N gloo processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=4)
    parser.add_argument("--detectors", default="paper", help="group of conf/detectors")
    options, overrides = parser.parse_known_args()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # one thread each: sums in one order
    with TemporaryDirectory() as folder:
        start = [sys.executable, "-m", "src.train", "trainer.max_epochs=2", *overrides]
        subprocess.run(
            [*start, f"hydra.run.dir={folder}/train"],
            check=True, capture_output=True, env=environment,
        )  # fmt: skip
        one: Path | None = None
        for count in range(1, options.most + 1):
            run = Path(folder) / str(count)
            launch = ["-m", "torch.distributed.run", f"--nproc-per-node={count}"]
            trainer = ["trainer=ddp_cpu", f"trainer.devices={count}"] if count > 1 else []
            command = [
                sys.executable, *launch, "-m", "src.evaluate", f"hydra.run.dir={run}", *trainer,
                f"checkpoint={folder}/train/checkpoints/last.ckpt",
                f"detectors={options.detectors}",
            ]  # fmt: skip
            began = perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds = perf_counter() - began
            one = one or run
            scores, metrics = difference(one, run)
            print(f"{count} processes, {seconds:.0f} s: metrics differ by at most {metrics:.1e}")
            unequal = {name: value for name, value in scores.items() if value}
            print(f"  scores equal bit for bit: {len(scores) - len(unequal)} of {len(scores)}")
            for name, value in unequal.items():
                print(f"  {name}: at most {value:.1e} of the score's spread")


def difference(one: Path, other: Path) -> tuple[dict[str, float], float]:
    """Returns the largest difference of each detector's scores, and of all metrics."""
    with np.load(one / "scores.npz") as a, np.load(other / "scores.npz") as b:
        for name in ("source", "index", "label", "prediction", "detectors", "sources"):
            np.testing.assert_array_equal(a[name], b[name])
        spread = np.ptp(a["score"], axis=0)
        apart = np.abs(a["score"] - b["score"]).max(axis=0) / spread
        scores = dict(zip(a["detectors"].tolist(), apart.tolist(), strict=True))
    results = [
        flat(json.loads((run / "metrics.json").read_text())["detectors"]) for run in (one, other)
    ]
    return scores, max(abs(x - y) for x, y in zip(*results, strict=True))


if __name__ == "__main__":
    main()

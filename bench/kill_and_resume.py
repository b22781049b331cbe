"""Kills a training at random moments, resumes it each time, and compares it with one left alone.

python -m bench.kill_and_resume [--kills 10] [key=value ...]    # overrides of src.train
"""

import argparse
import csv
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter
from typing import Any

import torch

SHORTEST = 5.0  # seconds that a start takes, before which a kill shows nothing


def main() -> None:
    """Prints when each kill came and what differs in the end; begins anew until there were all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options, overrides = parser.parse_known_args()
    folder = Path(mkdtemp(prefix="resume"))
    whole = folder / "whole"
    start = perf_counter()
    train(*overrides, f"hydra.run.dir={whole}").wait()
    seconds = perf_counter() - start
    print(f"left alone: {seconds:.1f} s")
    rng, kills, runs = random.Random(options.seed), 0, 0
    while kills < options.kills:
        runs += 1
        killed = folder / f"killed_{runs}"
        arguments = [*overrides, f"hydra.run.dir={killed}"]
        while not (killed / "metrics.json").exists():
            after = rng.uniform(SHORTEST, max(SHORTEST + 1, 0.8 * seconds))
            process = train(*arguments)
            try:
                process.wait(after if kills < options.kills else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                left = sorted(str(path.relative_to(killed)) for path in killed.rglob("*.*"))
                print(f"kill {kills}, after {after:.1f} s, left {', '.join(left) or 'nothing'}")
            if (killed / "config.yaml").exists():
                arguments = [f"resume={killed}", f"hydra.run.dir={folder}/command"]
        for name, difference in compare(whole, killed).items():
            print(f"run {runs}, {name}: {difference}")
    shutil.rmtree(folder)


def train(*arguments: str) -> "subprocess.Popen[bytes]":
    """Starts a training."""
    command = [sys.executable, "-m", "src.train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Returns what differs: weights, NormRatio curves, metrics."""
    both = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (one, other)]
    states = [checkpoint["state_dict"] for checkpoint in both]
    weights = max(
        (states[0][key].double() - states[1][key].double()).abs().max().item()
        for key in states[0]
        if isinstance(states[0][key], torch.Tensor)
    )
    curves = [history(run / "norm_ratio.csv") for run in (one, other)]
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (one, other)]
    results = [flat(each["detectors"]) for each in metrics]
    return {
        "largest difference of a weight": weights,
        "epochs": [checkpoint["epoch"] for checkpoint in both],
        "NormRatio curves are equal": curves[0] == curves[1],
        "largest difference of a metric": max(abs(a - b) for a, b in zip(*results, strict=True)),
        "curves of metrics.csv are equal": logged(one) == logged(other),
    }


def history(path: Path) -> dict[tuple[str, str], str]:
    """Returns NormRatio by epoch and block; a repeated epoch counts once."""
    with path.open(newline="") as file:
        return {(row["epoch"], row["block"]): row["ratio"] for row in csv.DictReader(file)}


def logged(run: Path) -> dict[tuple[str, str], str]:
    """Returns each value that was logged by epoch; a repeated epoch counts once."""
    with (run / "metrics.csv").open(newline="") as file:
        return {
            (row["epoch"], key): value
            for row in csv.DictReader(file)
            for key, value in row.items()
            if value and row["epoch"] and not key.startswith(("step", "lr"))
        }


def flat(results: Any) -> list[float]:
    """Returns all numbers of nested mappings."""
    if isinstance(results, dict):
        return [number for each in results.values() for number in flat(each)]
    return [results]


if __name__ == "__main__":
    main()

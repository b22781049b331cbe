"""Measures one library in this process.

python -m bench.runners NAME FOLDER OUTPUT              # its tasks in FOLDER/tasks.json
python -m bench.runners NAME FOLDER OUTPUT --metrics    # its metrics of many scores
"""

import importlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C import _functorch

from bench.runners.case import Case, read_tasks

SIZES = (10**5, 10**6, 10**7)
VALUES = 3 * 32 * 32  # of an image


@contextmanager
def counted(count: list[int]) -> Iterator[None]:
    """Counts the images that enter the first convolution of any network."""

    def look(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        image = inputs[0]
        while _functorch.is_batchedtensor(image):  # of a gradient for each image
            image = _functorch.get_unwrapped(image)
        count.append(image.numel() // VALUES)

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            look(module, inputs, output)

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def forget_peak() -> None:
    """Starts the peak of this process's memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Returns the peak of this process's memory since then, in GiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def measured(runner: Any, case: Case, task: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Returns seconds, images and peak memory of a task, and its outcome."""
    case.fit_on(task["fit_images"])
    count: list[int] = []
    forget_peak()
    with counted(count):
        start = time.perf_counter()
        outcome = runner.run(case, task["detectors"], task["sets"])
        seconds = time.perf_counter() - start
    metrics = {"/".join(pair): list(map(float, each)) for pair, each in outcome.metrics.items()}
    row = {"seconds": seconds, "images": sum(count), "GiB": peak(), "metrics": metrics}
    return row, outcome


def run_tasks(runner: Any, folder: Path, output: Path, tasks: list[dict[str, Any]]) -> None:
    """Runs each task, and keeps the scores of those that ask for it."""
    case, rows = Case(folder), []
    with torch.no_grad():
        case.classifier()(torch.rand(case.batch, 3, 32, 32))  # not counted
    for number, task in enumerate(tasks):
        row, outcome = measured(runner, case, task)
        rows.append(row | {"since_start": time.time() - float(os.environ["BEGAN"])})
        if task["keep_scores"]:
            scores = {"/".join(pair): each.numpy() for pair, each in outcome.scores().items()}
            np.savez(output.with_suffix(f".{number}.npz"), **scores)
        output.write_text(json.dumps(rows))


def run_metrics(runner: Any, output: Path) -> None:
    """Computes the metrics of more and more scores, until it is stopped."""
    rows: dict[str, Any] = {}
    for size in SIZES:
        generator = np.random.default_rng(0)
        known = generator.normal(1, 1, size // 2).astype(np.float32)
        unknown = generator.normal(0, 1, size - size // 2).astype(np.float32)
        forget_peak()
        start = time.perf_counter()
        figures = runner.metrics(torch.from_numpy(known), torch.from_numpy(unknown))
        seconds = time.perf_counter() - start
        rows[str(size)] = {"seconds": seconds, "GiB": peak(), "figures": list(map(float, figures))}
        output.write_text(json.dumps(rows))


def main() -> None:
    """Runs what the command line names."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    name, folder, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    runner = importlib.import_module(f"bench.runners.{name}")
    if "--metrics" in sys.argv:
        run_metrics(runner, output)
    else:
        run_tasks(runner, folder, output, read_tasks(folder, name))


if __name__ == "__main__":
    main()

"""Runs commands in forks of one process that has already imported what they need.

A command starts at once instead of after seconds of imports, and ends as any process does: with
its exit code, its exit handlers and its traceback. Each order is a line of JSON on stdin: the
command, its environment, and a folder for what it prints. The answer is its exit code.
"""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch

import src.benchmark
import src.block_selection
import src.classifier
import src.report.results
import src.run.session  # noqa: F401


def follow(order: dict[str, Any]) -> None:
    """Becomes the process that an order asks for."""
    os.environ.clear()
    os.environ.update(order["environment"])
    streams = [os.open(os.devnull, os.O_RDONLY)]
    for name in ("stdout", "stderr"):
        streams.append(os.open(Path(order["folder"], name), os.O_WRONLY | os.O_CREAT))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    torch.set_num_threads(1)
    module, *sys.argv[1:] = order["command"]
    sys.argv[0] = module
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            follow(json.loads(line))
            break
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, flush=True)  # noqa: T201

"""What Weights & Biases itself reads back from an offline run."""

import subprocess
import sys
from pathlib import Path

import pytest
import wandb


def inspect(run: Path, *options: str) -> str:
    """One line of JSON per record of the run; `--summary`: one object of it all."""
    if tuple(map(int, wandb.__version__.split(".")[:2])) < (0, 31):
        pytest.skip("wandb reads records back as JSON from 0.31 on")
    command = (sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(run))
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

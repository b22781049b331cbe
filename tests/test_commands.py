"""Help, configurations and completion come without torch; long work shows bars to people alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HYDRA = ("src.train", "src.evaluate", "src.data")
COMMANDS = [
    *[(module, "--help") for module in (*HYDRA, "src.compare", "src.search", "src.page")],
    *[(module, "--cfg", "job") for module in HYDRA],
    *[(module, "-sc", "query=bash") for module in HYDRA],
]
HEAVY = {"torch", "torchvision", "lightning", "torchmetrics", "matplotlib", "wandb", "optuna"}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_needs_no_torch_imports_none(command: tuple[str, ...]) -> None:
    environment = os.environ | {"COMP_LINE": f"{command[0]} data=open"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert command[0] in done.stdout or "data" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pathlib" in imported  # the list is what it is taken for
    assert not imported & HEAVY


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("python -m src.train data=openood_i", ["openood_imagenet", "openood_imagenet200"]),
        ("python -m src.data benchmark=paper_", ["paper_cifar10", "paper_imagenet"]),
        ("torchrun -m src.train data=digits trainer.max", ["trainer.max_epochs="]),
        ("python -m src.search --tri", ["--trials"]),
        ("python -m src.page lo", []),  # files: the shell's own
        ("python script.py da", []),
    ],
)
def test_the_shell_completes(line: str, offered: list[str]) -> None:
    script = 'source docs/completion.bash; _block_selection_completion; echo "${COMPREPLY[*]}"'
    environment = os.environ | {
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == offered, done.stderr

"""Help, configurations and completion come without torch; long work shows bars to people alone."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from src.data import ImageFolder
from src.data.verify import contents
from tests import REPOSITORY, TINY

HYDRA = ("src.train", "src.evaluate", "src.data", "src.serve")
OTHERS = ("src.compare", "src.search", "src.report", "src.release")
COMMANDS = [
    *[(module, "--help") for module in (*HYDRA, *OTHERS)],
    ("src.detect", "--help"),
    *[(module, "--cfg", "job") for module in HYDRA],
    *[(module, "-sc", "query=bash") for module in HYDRA],
]
HEAVY = {"torch", "torchvision", "lightning", "torchmetrics", "matplotlib", "wandb", "optuna"}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_needs_no_torch_imports_none(command: tuple[str, ...]) -> None:
    environment = os.environ | {"COMP_LINE": f"{command[0]} data=open"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    known = "gate: " if command == ("src.serve", "--cfg", "job") else "data"
    assert command[0] in done.stdout or known in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pathlib" in imported  # the list is what it is taken for
    assert not imported & HEAVY


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("python -m src.train data=openood_i", ["openood_imagenet", "openood_imagenet200"]),
        ("python -m src.data data=paper_", ["paper_cifar10", "paper_imagenet"]),
        ("torchrun -m src.train data=digits trainer.max", ["trainer.max_epochs="]),
        ("python -m src.search --tri", ["--trials"]),
        ("python -m src.report lo", []),  # files: the shell's own
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
        ["bash", "-c", script], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == offered, done.stderr


class Watched:
    """What a person sees on a terminal of 100 columns that stands for stderr in the block."""

    def __enter__(self) -> "Watched":
        self.read, self.write = pty.openpty()
        termios.tcsetwinsize(self.write, (40, 100))
        self.said, self.before = b"", sys.stderr
        self.reader = threading.Thread(target=self.listen)
        self.reader.start()
        sys.stderr = os.fdopen(self.write, "w")
        return self

    def listen(self) -> None:
        with contextlib.suppress(OSError):  # nobody writes any more
            while piece := os.read(self.read, 2**16):
                self.said += piece

    def __exit__(self, *error: object) -> None:
        sys.stderr.close()
        sys.stderr = self.before
        self.reader.join()
        os.close(self.read)


RATE = r"(\?| *[\d.]+)( batches/s|s/ batches)"  # the latter where one takes over a second
RUN = (
    *("src.train", *TINY, "trainer.max_epochs=2"),
    *("data.train.classes=[0,1]", "data.test.classes=[0,1]"),
    *("net.net.num_classes=2", "data.validation_size=50", "data.ood.noise.count=30"),
    *("data.ood.photographs.count=30", "data.batch_size=25"),
    *("selection.bootstrap=0", "selection.stability_seeds=0"),
    "+detectors.knn={_target_: src.detectors.KNN, k: 1}",
)


@pytest.mark.slow
def test_long_work_shows_rate_and_time_left_on_a_terminal(
    command: Callable[..., None], tmp_path: Path
) -> None:
    with Watched() as terminal:
        command(*RUN, f"hydra.run.dir={tmp_path / 'run'}")
    said = terminal.said.decode()
    tasks = ("training, epoch 1/2", "training, epoch 2/2", "validation", "fitting on train")
    for task in (*tasks, "scoring id", "scoring noise"):
        assert re.search(rf"{task}: +\d+%.*\d+/\d+ \[.*{RATE}", said), task
    assert re.search(rf"\d+/18 \[[\d:]+<[\d:]+, +{RATE}", said)  # of both epochs
    assert "val/accuracy=" in said


@pytest.mark.slow
def test_long_work_is_quiet_elsewhere(
    command: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command(*RUN, "benchmark=false", f"hydra.run.dir={tmp_path / 'run'}")
    said = capfd.readouterr()
    assert not said.err
    first, second = said.out.splitlines()
    assert first.startswith("epoch 0: selected block")
    assert second.startswith("epoch 1: selected block")


def test_verification_shows_a_bar_on_a_terminal(image_folders: Path) -> None:
    with Watched() as terminal:
        contents(ImageFolder(image_folders / "cifar10/train", 32), "train")
    assert re.search(r"train: .*/20 \[.*( images/s|s/ images)", terminal.said.decode())

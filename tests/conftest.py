"""One thread, a machine where nobody has logged in to anything, and one finished run."""

import hashlib
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

REPOSITORY = Path(__file__).parent.parent
# what a launcher, W&B or Lightning leave in the environment; it would change what a test starts
FOREIGN = (
    "WANDB_",
    "TORCHELASTIC_",
    "SLURM_",
    "PL_",
    "HYDRA_",
    "MASTER_",
    "RANK",
    "LOCAL_",
    "NODE_RANK",
    "GROUP_",
    "WORLD_SIZE",
)
Command = Callable[..., None]
Process = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def clean_process() -> Iterator[None]:
    """No test sees the environment or the Hydra of another one."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """`python -m module argument...` within this process: quick, and errors come as raised."""

    def run(module: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'src.* found in sys.modules", RuntimeWarning)
            runpy.run_module(module, run_name="__main__", alter_sys=True)

    return run


@pytest.fixture(scope="session")
def process(tmp_path_factory: pytest.TempPathFactory) -> Process:
    """`python -m module argument...` as a user without any account would run it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    environment |= {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",  # waiting processes leave the cores to the others
    }

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )

    return run


@pytest.fixture(scope="session")
def finished_run(process: Process, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a quickstart of two epochs. Read it, leave it as it is."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    done = process("src.train", "trainer.max_epochs=2", "logger=wandb", f"hydra.run.dir={run_dir}")
    assert done.returncode == 0, done.stderr
    return run_dir


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, str]]:
    """What is in a folder: relative path of each file -> digest of its bytes."""

    def read(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return read

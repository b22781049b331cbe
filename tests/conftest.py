"""One thread, a machine where nobody has logged in to anything, and one finished run."""

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests import REPOSITORY, TINY

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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
PATIENT = "600"  # seconds that W&B waits for its own process on a busy machine
OOD_FOLDERS = ("svhn", "textures", "tiny_imagenet", "scenes_resize", "scenes_crop")
Command = Callable[..., None]
Refused = Callable[..., str]
Process = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that starts a run, W&B or a browser, or that builds the documentation, is slow."""
    slow = {"process", "forked", "no_key", "browser", "site", "server", "gate_file"}
    for item in items:
        if slow & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def clean_process() -> Iterator[None]:
    """No test sees the environment or the Hydra of another one."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    os.environ["WANDB_X_SERVICE_WAIT"] = PATIENT
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """`python -m module argument...` within this process: quick, and errors come as raised."""

    def run(module: str, *arguments: str) -> None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        run_as_main(monkeypatch, module, *arguments)

    return run


def run_as_main(monkeypatch: pytest.MonkeyPatch, module: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'src.* found in sys.modules", RuntimeWarning)
        runpy.run_module(module, run_name="__main__", alter_sys=True)


@pytest.fixture
def refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: Callable[[Path], dict[str, str]],
    request: pytest.FixtureRequest,
) -> Iterator[Refused]:
    """`python -m module argument...` that must fail; returns what the user sees, in one line.

    It runs within this process, but ends as it does for a user: an exit code, and words on
    stderr. Its exit code is 1; no optimizer steps; no file comes, goes or changes in `tmp_path`,
    where it works, nor in the finished run if the test has one.
    """
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    steps: list[Any] = []
    hook = register_optimizer_step_pre_hook(lambda *step: steps.append(step))

    def run(module: str, *arguments: str) -> str:
        kept = [tmp_path]
        if "finished_run" in request.fixturenames:
            kept.append(request.getfixturevalue("finished_run"))
        before = [content(folder) for folder in kept]
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run_as_main(monkeypatch, module, *arguments)
        said = capsys.readouterr()
        assert stopped.value.code == 1, said.err
        assert not steps
        assert [content(folder) for folder in kept] == before
        return " ".join((said.err or said.out).split())

    yield run
    hook.remove()


@pytest.fixture
def image_folders(tmp_path: Path) -> Path:
    """A data_dir for `data=cifar10_folder`: two images of each class, one of each OOD set."""
    for part, count in (("train", 2), ("test", 1)):
        for name in range(10):
            save_images(tmp_path / f"data/cifar10/{part}/{name}", count)
    for number, name in enumerate(OOD_FOLDERS):
        save_images(tmp_path / f"data/ood32/{name}", 1, grey=100 + number)
    return tmp_path / "data"


def save_images(folder: Path, count: int, *, grey: int = 0) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (32, 32), (grey, number, 0)).save(folder / f"{number}.png")


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user without any account."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    return environment | {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",  # waiting processes leave the cores to the others
        "WANDB_X_SERVICE_WAIT": PATIENT,
    }


@pytest.fixture(scope="session")
def process(user: dict[str, str]) -> Process:
    """`python -m module argument...` as a user would run it. It ends, or its test times out."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=REPOSITORY,
            env=user,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def forked(user: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """As `process`, but forked from a process that has imported everything: see tests.forked."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.forked"],
        cwd=REPOSITORY,
        env=user,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:

        def run(*command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
            assert server.stdin
            assert server.stdout
            folder = tmp_path_factory.mktemp("said")
            order = {"command": command, "environment": user | variables, "folder": str(folder)}
            print(json.dumps(order), file=server.stdin, flush=True)
            code = int(server.stdout.readline())
            said = [(folder / name).read_text() for name in ("stdout", "stderr")]
            return subprocess.CompletedProcess(command, code, *said)

        yield run


@pytest.fixture(scope="session")
def finished_run(
    process: Process, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Path:
    """The run directory of two epochs on tiny images. Read it, leave it as it is."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":  # one run for all workers of pytest-xdist
        folder = folder.parent
    run_dir = folder / "finished" / "run"
    with FileLock(folder / "finished.lock"):
        if not (run_dir / "metrics.json").exists():
            arguments = ("trainer.max_epochs=2", "logger=wandb", f"hydra.run.dir={run_dir}")
            done = process("src.train", *TINY, *arguments)
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


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """The system's Chromium, driven by Playwright; pages time out with their test alone.

    It ends with the module: while it lives, no other event loop can run in this thread.
    """
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox"],  # root has none
            timeout=0,
        ) as browser,
    ):
        yield browser

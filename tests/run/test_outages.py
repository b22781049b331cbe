"""Training goes on without network and without room on the disk, and says so once."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import TINY
from tests.run.wandb_server import wandb_server

pytestmark = pytest.mark.slow
SHORT = (
    *(*TINY, "trainer.max_epochs=2", "+trainer.limit_train_batches=5"),
    *("~data.ood.photographs", "data.ood.noise.count=40"),
    *("selection.bootstrap=0", "selection.stability_seeds=0"),
)


# without a network, W&B itself may keep what it cannot send
@pytest.mark.parametrize(("lost", "warnings"), [("network", {0, 1}), ("service", {1})])
def test_a_w_and_b_that_is_lost_in_mid_run_costs_no_number(
    lost: str,
    warnings: set[int],
    forked: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
) -> None:
    run, requests = tmp_path / "run", tmp_path / "requests"
    with wandb_server(requests) as (address, server):
        done = forked(
            *("tests.run.mishap", lost, *SHORT, "logger=wandb", f"hydra.run.dir={run}"),
            *("logger.wandb.init_timeout=300", "logger.wandb.finish_timeout=3"),
            WANDB_BASE_URL=address,
            WANDB_API_KEY="0" * 40,
            MISHAP_SERVER=str(server),
        )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("WandbLogger failed") in warnings
    assert "upsertBucket" in requests.read_text()
    assert json.loads((run / "metrics.json").read_text())["detectors"]
    assert "norm_ratio/layer4.1" in (run / "metrics.csv").read_text()
    assert list((run / "wandb").glob("run-*/*.wandb"))  # what `wandb sync` sends later


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own, of the size asked for; asked again, it grows."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: str) -> Path:
        again = "remount," if os.path.ismount(disk) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{again}size={size}", "none", str(disk)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("only root can mount a file system")
        return disk

    yield mount
    subprocess.run(["umount", str(disk)], check=False)


def test_a_full_disk_ends_no_training_and_what_was_missing_is_written_when_there_is_room(
    forked: Callable[..., "subprocess.CompletedProcess[str]"],
    small_disk: Callable[[str], Path],
) -> None:
    run = small_disk("6m") / "run"  # room for one checkpoint of the two
    done = forked("src.train", *SHORT, "logger=wandb", f"hydra.run.dir={run}")
    assert done.returncode == 1
    assert done.stdout.count("the run continues, and writes what is missing when it can") == 1
    assert "featurenorm" in done.stdout  # the results, at least to read
    assert f"expected room for the results in {run}, got none; free some space" in done.stderr
    assert "layer4.1" in (run / "norm_ratio.csv").read_text()
    assert not (run / "metrics.json").exists()
    assert not list(run.rglob(".partial*"))

    small_disk("40m")
    done = forked("src.train", f"resume={run}")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "metrics.json").read_text())["detectors"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_training_without_benchmark_that_could_not_be_saved_is_an_error(
    command: Callable[..., None], small_disk: Callable[[str], Path]
) -> None:
    run = small_disk("1m") / "run"
    with pytest.raises(OSError, match=f"expected room for the checkpoints in {run}, got none"):
        command("src.train", *SHORT[:3], "benchmark=false", f"hydra.run.dir={run}")
    assert "layer4.1" in (run / "norm_ratio.csv").read_text()

"""Several processes give the numbers of one, and leave one run behind."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from tests import REPOSITORY, TINY

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


def metrics_of(run_dir: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text())
    return metrics


def assert_same_scores(ours: Path, theirs: Path) -> None:
    """Each bit of each score, and so each metric."""
    with np.load(ours / "scores.npz") as our, np.load(theirs / "scores.npz") as their:
        assert our.files == their.files
        for key in our.files:
            np.testing.assert_array_equal(our[key], their[key])
    for key in ("detectors", "counts", "id_accuracy", "selected_block"):
        assert metrics_of(ours)[key] == metrics_of(theirs)[key]


def weights_of(run_dir: Path) -> dict[str, float]:
    """The last point of each curve of a profile."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("norm_profile/energy/logits")]
    return {key: float(rows[-1][key]) for key in rows[-1] if key.startswith("norm_profile/")}


def test_torchrun_trains_one_run_whose_scores_one_process_repeats(
    tmp_path: Path, process: Callable[..., Any], command: Callable[..., None]
) -> None:
    runs = tmp_path / "runs"
    done = process(
        *("torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "src.train"),
        *(*TINY, "trainer=ddp_cpu", "trainer.max_epochs=1", "data.eval_batch_size=64"),
        "+trainer/callbacks=profile_curves",
        f"hydra.run.dir={runs}/${{oc.env:RANK}}",  # as if they had started in different seconds
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in runs.iterdir()] == ["0"]
    assert sorted(path.name for path in (runs / "0/checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]
    with (runs / "0/norm_ratio.csv").open(newline="") as file:
        assert [row["depth"] for row in csv.DictReader(file)] == [*"12345678"]
    assert any(count % (2 * 64) for count in metrics_of(runs / "0")["counts"].values())
    assert done.stdout.count("results in") == 1

    command(
        *("src.evaluate", f"checkpoint={runs / '0/checkpoints/last.ckpt'}", "trainer=default"),
        *("selection=default", "+trainer/callbacks=profile_curves"),
        f"hydra.run.dir={tmp_path / 'one'}",
    )
    assert_same_scores(tmp_path / "one", runs / "0")
    assert weights_of(tmp_path / "one") == pytest.approx(weights_of(runs / "0"), rel=1e-6)


def test_processes_that_lightning_starts_score_and_select_as_one_does(
    finished_run: Path, tmp_path: Path, process: Callable[..., Any]
) -> None:
    done = process(
        *("src.evaluate", f"checkpoint={finished_run / 'checkpoints/last.ckpt'}"),
        *("trainer=ddp_cpu", "selection=default", f"hydra.run.dir={tmp_path / 'two'}"),
    )
    assert done.returncode == 0, done.stderr
    assert_same_scores(tmp_path / "two", finished_run)
    # the same summands, added in another order
    first, second = (metrics_of(run)["norm_ratio"] for run in (finished_run, tmp_path / "two"))
    assert second == pytest.approx(first, rel=1e-12)


def test_another_criterion_selects_as_one_process_does(
    finished_run: Path, tmp_path: Path, process: Callable[..., Any]
) -> None:
    said = []
    for trainer in ("default", "ddp_cpu"):
        done = process(
            *("src.evaluate", f"checkpoint={finished_run / 'checkpoints/last.ckpt'}"),
            *(f"trainer={trainer}", "selection=paired_t", "benchmark=false"),
            f"hydra.run.dir={tmp_path / trainer}",
        )
        assert done.returncode == 0, done.stderr
        names = ("selection.json", "selection_stability.json")
        said.append([json.loads((tmp_path / trainer / name).read_text()) for name in names])
    assert said[0] == said[1]  # each bit: all of it is computed from the norms of all images


@pytest.mark.parametrize("mishap", ["death", "standstill"])
def test_a_process_that_dies_or_is_stuck_ends_the_run(
    mishap: str, user: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = [*TINY, "trainer=ddp_cpu", "trainer.max_epochs=2", f"hydra.run.dir={run}"]
    said = tmp_path / "said"
    with (
        said.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "tests.run.mishap", mishap, *arguments],
            cwd=REPOSITORY, env=user, start_new_session=True, stdout=output, stderr=output,
        ) as first,
    ):  # fmt: skip
        first.wait()
        with suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)  # the second, if it is stopped
    assert first.returncode != 0
    assert f"mishap: {mishap}" in said.read_text()
    assert (run / "norm_ratio.csv").exists()  # of the first epoch
    assert not (run / "metrics.json").exists()


def test_a_stuck_process_is_waited_for_as_long_as_configured() -> None:
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose("train", ["trainer=ddp_cpu", "trainer.strategy.timeout.minutes=7"])
    assert instantiate(cfg.trainer.strategy)._timeout == timedelta(minutes=7)


@pytest.mark.skipif(
    shutil.which("sinfo") is None
    or subprocess.run(["sinfo"], capture_output=True).returncode != 0,
    reason="no SLURM is running: .ci/slurm starts one on this machine",
)
def test_tasks_of_slurm_train_one_run_whose_scores_one_process_repeats(
    tmp_path: Path, command: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    done = subprocess.run(
        ["srun", "--ntasks-per-node=2", sys.executable, "-m", "src.train", *TINY,
         "trainer=ddp_cpu", "trainer.max_epochs=1", f"hydra.run.dir={run}"],
        cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results in") == 1
    command(
        *("src.evaluate", f"checkpoint={run / 'checkpoints/last.ckpt'}", "trainer=default"),
        f"hydra.run.dir={tmp_path / 'one'}",
    )
    assert_same_scores(tmp_path / "one", run)


def test_a_sweep_of_many_process_runs_is_refused_without_torchrun(
    tmp_path: Path, command: Callable[..., None]
) -> None:
    sweep = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    with pytest.raises(RuntimeError, match=r"one-process runs, got .* 2 processes.*torchrun --np"):
        command("src.train", "-m", "trainer=ddp_cpu", "seed=0,1", sweep)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["multirun.yaml"]  # Hydra's


def test_a_sweep_of_one_process_runs_gives_each_job_a_run_of_its_own(
    tmp_path: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    command(
        *("src.train", "-m", "seed=0,1", *TINY, "trainer.max_epochs=1", "logger=wandb"),
        *("+trainer.limit_train_batches=5", "~data.ood.photographs", "~data.ood.noise"),
        f"hydra.sweep.dir={tmp_path}",
    )
    first, second = (tmp_path / f"{seed}_quickstart_{seed}" for seed in (0, 1))
    assert metrics_of(first)["norm_ratio"] != metrics_of(second)["norm_ratio"]
    for run in (first, second):
        assert len(list(run.glob("wandb/offline-run-*"))) == 1

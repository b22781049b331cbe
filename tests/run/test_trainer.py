"""What the trainer is told is used or refused, and however a training ends, its parts agree."""

import csv
import json
import re
import signal
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from src.run.settings import REFUSED
from tests import REPOSITORY, TINY

Command = Callable[..., None]
Refused = Callable[..., str]

SHORT = (
    *TINY,
    "trainer.max_epochs=3",
    "+trainer.limit_train_batches=4",
    "~data.ood.photographs",
    "~data.ood.noise",
    "selection.bootstrap=10",
    "selection.stability_seeds=1",
    "net.net.width=4",
    "~detectors.maxlogit",
    "~detectors.energy",
)
STOP = (
    "+trainer.callbacks=[{_target_: lightning.pytorch.callbacks.EarlyStopping, "
    "monitor: val/accuracy, mode: max, stopping_threshold: 0.0}]"
)


def metrics_of(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def last_of(run: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return checkpoint


def epochs_of(run: Path) -> list[int]:
    with (run / "norm_ratio.csv").open(newline="") as file:
        return sorted({int(row["epoch"]) for row in csv.DictReader(file)})


# how a training ends -> settings, steps of the last checkpoint, epochs with a selection
ENDS: dict[str, tuple[list[str], int | None, list[int] | None]] = {
    "in its last epoch": ([], 12, [0, 1, 2]),
    "after an epoch without validation": (["+trainer.check_val_every_n_epoch=2"], 12, [1, 2]),
    "before the first validation": (["+trainer.check_val_every_n_epoch=9"], 12, [2]),
    "after validations in the middle": (["+trainer.val_check_interval=3"], 12, [0, 1, 2]),
    "with averaged weights": (["+trainer/callbacks=ema"], 12, [0, 1, 2]),
    "after validations across epochs": (
        ["+trainer.val_check_interval=5", "+trainer.check_val_every_n_epoch=null"],
        12,
        [1, 2],
    ),
    "with validations by the clock": (
        ["+trainer.val_check_interval=00:01:00:00"],
        12,
        [2],
    ),
    "at a step in an epoch": (["+trainer.max_steps=6"], 6, [0, 1]),
    "at a step at an epoch's end": (["+trainer.max_steps=8"], 8, [0, 1]),
    "at a step, with no number of epochs": (
        ["trainer.max_epochs=-1", "+trainer.max_steps=6"],
        6,
        [0, 1],
    ),
    "in time": (
        ["trainer.max_epochs=-1", "+trainer.max_time=00:00:00:03", "optim=multistep"],
        None,
        None,
    ),
    "by a callback": ([STOP], 4, [0]),
    "by a callback, later": ([STOP, "+trainer.min_epochs=2"], 8, [0, 1]),
    "with few images": (
        ["+trainer.limit_val_batches=1", "+trainer.limit_test_batches=1"],
        12,
        [0, 1, 2],
    ),
    "with steps of several batches": (["+trainer.accumulate_grad_batches=3"], 6, [0, 1, 2]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "steps", "epochs"), [pytest.param(*case, id=name) for name, case in ENDS.items()]
)
def test_however_a_training_ends_its_last_checkpoint_repeats_its_results(
    settings: list[str],
    steps: int | None,
    epochs: list[int] | None,
    command: Command,
    tmp_path: Path,
) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    command("src.train", *SHORT, *settings, f"hydra.run.dir={run}")
    checkpoint, first = last_of(run), metrics_of(run)
    if steps is not None:
        assert checkpoint["global_step"] == steps
        assert epochs_of(run) == epochs
    assert checkpoint["state_dict"]["network._extra_state"] == first["norm_ratio"] != {}
    stability = first["selection_stability"]
    assert stability["epoch"] == checkpoint["epoch"] == epochs_of(run)[-1]
    assert stability["bootstrap"]["replicates"]
    assert (run / "checkpoints/best.ckpt").exists()
    command(
        "src.evaluate", f"checkpoint={run / 'checkpoints/last.ckpt'}", f"hydra.run.dir={again}"
    )
    second = metrics_of(again)
    for key in ("selected_block", "norm_ratio", "detectors", "counts", "id_accuracy"):
        assert first[key] == second[key], key


def test_every_setting_of_lightnings_trainer_is_decided_and_documented() -> None:
    text = (REPOSITORY / "docs/commands.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (used|refused) \| (.+) \|$", text, re.MULTILINE)
    settings = signature(L.Trainer.__init__).parameters.keys() - {"self"}
    assert [name for name, *_ in rows] == sorted(settings)
    assert {name: here for name, what, here in rows if what == "refused"} == REFUSED


GIVEN = {
    "barebones": "true",
    "default_root_dir": "elsewhere",
    "enable_autolog_hparams": "false",
    "enable_checkpointing": "false",
    "fast_dev_run": "true",
    "limit_predict_batches": "3",
    "logger": "true",
    "model_registry": "mine",
    "overfit_batches": "2",
    "plugins": "[]",
    "reload_dataloaders_every_n_epochs": "1",
    "use_distributed_sampler": "false",
}
SAID_OTHERWISE = {
    name: ([f"+trainer.{name}={value}"], [f"expected no trainer.{name}", REFUSED[name]])
    for name, value in GIVEN.items()
}
AT_ZERO = {
    f"{name}={zero}": ([f"+trainer.{name}={zero}"], [f"expected trainer.{name} above 0", says])
    for name, zero, says in (
        ("max_steps", "0", "python -m src.evaluate"),
        ("limit_train_batches", "0", "python -m src.evaluate"),
        ("limit_val_batches", "0", "the block is selected on validation images"),
        ("limit_val_batches", "0.0", "the block is selected on validation images"),
        ("limit_test_batches", "0", "benchmark=false"),
        ("val_check_interval", "0", "trainer.check_val_every_n_epoch=N"),
        ("check_val_every_n_epoch", "0", "raise it"),
        ("accumulate_grad_batches", "0", "batches of a step"),
    )
}
TOO_FEW = {
    "a limit below a batch of training": (
        [*TINY, "+trainer.limit_train_batches=0.01"],
        ["expected trainer.limit_train_batches to leave a batch, got 0.01 of the 12 batches"],
    ),
    "a limit below a batch of validation": (
        [*TINY, "+trainer.limit_val_batches=0.1"],
        ["expected trainer.limit_val_batches to leave a batch, got 0.1 of the 2 batches"],
    ),
    "a limit below a batch of the benchmark": (
        [*TINY, "+trainer.limit_test_batches=0.2"],
        ["expected trainer.limit_test_batches to leave a batch, got 0.2 of the 2", "'validation'"],
    ),
    "validations after more batches than there are": (
        [*TINY, "+trainer.val_check_interval=13"],
        ["trainer.val_check_interval of at most the 12 batches", "check_val_every_n_epoch=null"],
    ),
}
MISFITS = {
    "no time": (
        ["+trainer.max_time=00:00:00:00"],
        ["expected trainer.max_time above 0, got 0", "python -m src.evaluate"],
    ),
    "no end, and a schedule over steps": (
        ["trainer.max_epochs=-1"],
        ["optim.interval=step needs it", "trainer.max_steps=N", "optim=multistep"],
    ),
    "no end but a time, and a schedule over steps": (
        ["trainer.max_epochs=-1", "+trainer.max_time=00:00:00:05"],
        ["optim.interval=step needs it", "trainer.max_steps=N", "optim=multistep"],
    ),
    "a schedule that waits for a metric": (
        [
            "optim.interval=epoch",
            "~optim.scheduler",
            "+optim.scheduler={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, "
            "_partial_: true}",
        ],
        ["got ReduceLROnPlateau", "optim=multistep"],
    ),
    **{
        f"precision {precision}": (
            [f"trainer.precision={precision}"],
            ["expected trainer.precision as one of 32-true", f"got {precision}; choose one"],
        )
        for precision in ("bf16-true", "16-true", "64-true")
    },
    "a precision of GPUs": (
        ["trainer.precision=16-mixed", "trainer.accelerator=cpu"],
        ["that a cpu has, got 16-mixed; say trainer.precision=bf16-mixed"],
    ),
    **{
        f"strategy {strategy}": (
            ["trainer.accelerator=cpu", "trainer.devices=2", f"+trainer.strategy={strategy}"],
            ["got a trainer.strategy that spawns or forks them; say trainer=ddp"],
        )
        for strategy in ("ddp_spawn", "ddp_fork", "ddp_notebook")
    },
    "synchronised batch norm on the CPU": (
        ["trainer=ddp_cpu", "trainer.sync_batchnorm=true"],
        ["expected no trainer.sync_batchnorm on the CPU"],
    ),
    **{
        f"callback {name}": (
            [f"+trainer.callbacks=[{{_target_: lightning.pytorch.callbacks.{call}}}]"],
            [f"expected trainer.callbacks that fit, got {name}", "leave it out"],
        )
        for name, call in (
            ("StochasticWeightAveraging", "StochasticWeightAveraging, swa_lrs: 0.1"),
            ("EMAWeightAveraging", "EMAWeightAveraging"),
            ("TQDMProgressBar", "TQDMProgressBar"),
            ("BatchSizeFinder", "BatchSizeFinder"),
            ("LearningRateFinder", "LearningRateFinder"),
        )
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param(*case, id=name)
        for name, case in (SAID_OTHERWISE | AT_ZERO | TOO_FEW | MISFITS).items()
    ],
)
def test_what_would_not_be_used_is_refused_before_the_training(
    settings: list[str], says: list[str], refused: Refused
) -> None:
    seen = refused("src.train", *settings)
    for words in says:
        assert words in seen


def test_settings_in_the_environment_are_refused(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_TRAINER_FAST_DEV_RUN", "1")
    seen = refused("src.train")
    assert "got PL_TRAINER_FAST_DEV_RUN in the environment" in seen
    assert "say trainer.fast_dev_run=" in seen


def test_every_refused_setting_is_tried() -> None:
    assert GIVEN.keys() == REFUSED.keys()


@pytest.mark.parametrize(
    ("moment", "settings"),
    [
        pytest.param("training", ["+trainer.check_val_every_n_epoch=2"], id="no validation due"),
        pytest.param("training", ["+trainer.val_check_interval=3"], id="validated within"),
        pytest.param("benchmark", ["+trainer.max_steps=6"], id="ended within an epoch"),
        pytest.param("benchmark", [STOP, "+trainer.min_epochs=2"], id="ended by a callback"),
        pytest.param("training", ["+trainer/callbacks=ema"], id="averaged, killed while training"),
        pytest.param("benchmark", ["+trainer/callbacks=ema"], id="averaged"),
    ],
)
def test_a_killed_training_ends_where_it_would_have_ended(
    moment: str, settings: list[str], forked: Callable[..., Any], tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    asked = [each for each in SHORT if each != "~data.ood.noise"] + settings
    assert forked("src.train", *asked, f"hydra.run.dir={whole}").returncode == 0
    cut = forked("tests.run.mishap", moment, *asked, f"hydra.run.dir={killed}")
    assert cut.returncode == -signal.SIGKILL, cut.stderr
    resumed = forked("src.train", f"resume={killed}", "trust=true", f"hydra.run.dir={killed}.c")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("norm_ratio.csv", "ood.csv", "selection_stability.json"):
        assert (killed / name).read_text() == (whole / name).read_text(), name
    ours, theirs = last_of(killed), last_of(whole)
    assert ours["global_step"] == theirs["global_step"]
    for name, value in theirs["state_dict"].items():
        same = torch.equal if torch.is_tensor(value) else dict.__eq__  # the selection is a dict
        assert same(value, ours["state_dict"][name]), name


def test_a_checkpoint_between_validations_has_no_selection_of_older_weights(
    forked: Callable[..., Any], command: Command, tmp_path: Path
) -> None:
    killed, again = tmp_path / "killed", tmp_path / "again"
    asked = (*SHORT, "+trainer.check_val_every_n_epoch=2", f"hydra.run.dir={killed}")
    assert forked("tests.run.mishap", "training", *asked).returncode == -signal.SIGKILL
    assert last_of(killed)["state_dict"]["network._extra_state"] == {}
    checkpoint = f"checkpoint={killed / 'checkpoints/last.ckpt'}"
    command("src.evaluate", checkpoint, f"hydra.run.dir={again}")
    assert metrics_of(again)["selected_block"] in metrics_of(again)["norm_ratio"]


@pytest.mark.slow
def test_callbacks_and_profiler_are_used(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(
        "src.train", *SHORT, STOP, "+trainer.profiler=simple", "benchmark=false",
        f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert epochs_of(tmp_path) == [0]
    said = "".join(capsys.readouterr())
    assert said.count("epoch 0: selected block") == 1
    assert said.count("FIT Profiler Report") == said.count("VALIDATE Profiler Report") == 1
    assert "callbacks" not in last_of(tmp_path)["config"]["trainer"]


@pytest.mark.slow
def test_callbacks_may_have_names(command: Command, tmp_path: Path) -> None:
    stop = STOP.replace("callbacks=[", "callbacks.stop=").removesuffix("]")
    command(
        "src.train", *SHORT, "+trainer/callbacks=profile_curves", stop, "benchmark=false",
        f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert epochs_of(tmp_path) == [0]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        *_, weights = [row for row in csv.DictReader(file) if row["norm_profile/energy/logits"]]
    blocks = [*last_of(tmp_path)["state_dict"]["network._extra_state"]]
    assert all(weights[f"norm_profile/norm/{block}"] for block in blocks)


@pytest.mark.slow
def test_a_benchmark_without_ood_sets_reports_id_results(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    command("src.train", *SHORT, "~data.ood.digits_7_to_9", f"hydra.run.dir={run}")
    command("src.evaluate", f"checkpoint={run}/checkpoints/last.ckpt", f"hydra.run.dir={again}")
    metrics = metrics_of(run)
    assert metrics["counts"] == {"id": 251}
    assert 0 <= metrics["id_accuracy"] <= 1
    assert set(map(json.dumps, metrics["detectors"].values())) == {"{}"}
    said = capsys.readouterr().out
    assert f"{100 * metrics['id_accuracy']:.1f}" in said
    assert "no OOD set" in said
    figures = {path.stem for path in (run / "figures").iterdir()}
    assert {"norm_ratio_curves", "confusion"} <= figures
    assert not {"roc", "score_histograms"} & figures
    page = (run / "report.html").read_text()
    assert "tested on 251 ID images." in page
    assert "Detection of OOD images" not in page
    for key in ("detectors", "id_accuracy", "norm_ratio"):
        assert metrics_of(again)[key] == metrics[key]

"""W&B never blocks a run: without key, terminal or network it goes offline and logs so once."""

import json
import logging
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from src.loggers import wandb_logger
from src.metrics.score_table import Scores
from src.report.evidence import evidence_of
from src.report.media import media_of, to_size
from src.report.results import ood_results
from tests.loggers.wandb_records import inspect


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which nobody has ever logged in to W&B."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    wandb.teardown()
    yield tmp_path
    wandb.teardown()


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What our code logged, without what W&B tells itself."""
    return [record for record in caplog.records if record.name.startswith("src.loggers")]


def folder_of(logger: WandbLogger) -> Path:
    return Path(logger.experiment.dir).parent


def test_without_a_key_a_run_is_offline_and_says_once_how_to_sync(
    no_key: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = pty.openpty()[1]  # where W&B would ask for a key, and wait
    with (
        os.fdopen(terminal) as keyboard,
        os.fdopen(os.dup(terminal), "w") as screen,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdin", keyboard)
        patch.setattr(sys, "stderr", screen)
        logger = wandb_logger(project="p", save_dir=str(no_key))
    (record,) = said(caplog)
    assert "no API key" in record.message
    assert f"wandb sync {folder_of(logger)}" in record.message
    assert logger.experiment.offline
    assert os.environ.get("WANDB_MODE") is None
    logger.experiment.finish()


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_given_mode_or_wandb_mode_is_taken_without_a_word(
    no_key: Path, mode: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = wandb_logger(project="p", save_dir=str(no_key), mode=mode)
    given.experiment.finish()
    monkeypatch.setenv("WANDB_MODE", mode)
    from_environment = wandb_logger(project="p", save_dir=str(no_key))
    from_environment.experiment.finish()
    assert not said(caplog)
    assert len(list(no_key.glob("wandb/offline-run-*"))) == (2 if mode == "offline" else 0)


def test_other_ranks_log_nowhere(no_key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = wandb_logger(project="p", save_dir=str(no_key / "rank1"), mode="offline")
    logger.log_metrics({"loss": 1.0})
    assert not (no_key / "rank1").exists()
    assert wandb.run is None


def test_selection_curves_are_drawn_over_epochs_and_the_rest_over_steps(no_key: Path) -> None:
    logger = wandb_logger(
        project="p", save_dir=str(no_key), name="n", group="g", tags=["t"], mode="offline"
    )
    logger.log_metrics({"epoch": 0.0, "norm_ratio/layer1.0": 0.97, "selected_block": 2.0}, step=7)
    folder = folder_of(logger)
    logger.experiment.finish()

    run = json.loads(inspect(folder, "--summary"))
    assert (run["project"], run["name"], run["tags"], run["exit_code"]) == ("p", "n", ["t"], 0)
    records = [json.loads(line) for line in inspect(folder).splitlines()]
    (row,) = (record["history"]["item"] for record in records if record["type"] == "history")
    assert (row["trainer/global_step"], row["norm_ratio/layer1_0"]) == (7, 0.97)
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    axis = {m.get("name") or m.get("glob_name"): m.get("step_metric") for m in metrics}
    curves = ("train/*", "val/*", "norm_ratio/*", "norm_id/*", "norm_pseudo_ood/*")
    for name in (*curves, "selected_block", "norm_ratio_margin"):
        assert axis[name] == "epoch"
    assert axis["*"] == "trainer/global_step"


def test_media_do_not_grow_with_the_detectors(tmp_path: Path) -> None:
    def seen(detectors: tuple[str, ...]) -> set[str]:
        row = torch.tensor([[s, i, -1, 0] for s in (0, 1) for i in range(5)])
        score = torch.linspace(0, 1, len(row) * len(detectors), dtype=torch.float64)
        scores = Scores(detectors, ("id", "svhn"), score.view(len(row), -1), row)
        metrics = {
            "detectors": ood_results(scores), "norm_ratio": {}, "selected_block": "a", "data": {}
        }  # fmt: skip
        media = media_of(tmp_path, evidence_of(scores, metrics), (), blank)
        kinds = (media.figures, media.tables, media.lines, media.histograms, media.images)
        return {name for kind in kinds for name in kind}

    few = seen(("featurenorm", "msp"))
    assert few == seen(("featurenorm", "msp", *(f"detector{n}" for n in range(30))))
    assert {"roc/svhn", "scores/featurenorm", "scores/msp", "samples/svhn/highest"} < few


def blank(name: str, index: torch.Tensor) -> torch.Tensor:
    """Images that are larger than any that is logged."""
    return torch.zeros(len(index), 1, 300, 200, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("shape", "size"), [((300, 200), (64, 96)), ((30, 20), (60, 90)), ((8, 8), (96, 96))]
)
def test_logged_images_are_small(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert to_size(np.zeros((*shape, 1), np.uint8)).size == size


@pytest.mark.parametrize("asked", [False, True])
def test_the_best_checkpoint_is_an_artifact_if_it_is_asked_for(asked: bool, no_key: Path) -> None:
    (no_key / "best.ckpt").write_bytes(b"weights")
    logger = wandb_logger(project="p", save_dir=str(no_key), mode="offline", log_checkpoint=asked)
    logger.log_checkpoint(no_key / "best.ckpt", {"val/accuracy": 0.5})
    folder = folder_of(logger)
    logger.experiment.finish()
    records = [json.loads(line) for line in inspect(folder).splitlines()]
    kept = [record["artifact"] for record in records if record["type"] == "artifact"]
    assert [each["type"] for each in kept] == ["model"] * asked
    for each in kept:
        assert "best" in each["aliases"]
        assert json.loads(each["metadata"]) == {"val/accuracy": 0.5}


def test_an_unreachable_server_is_waited_for_as_long_as_configured(
    no_key: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    asked: list[wandb.Settings] = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **o: asked.append(o["settings"]) or init(**o))
    logger = wandb_logger(project="p", save_dir=str(no_key), init_timeout=0.5)
    assert asked[0].init_timeout == 0.5
    (record,) = said(caplog)
    assert record.message.startswith("W&B is offline (")
    assert f"wandb sync {folder_of(logger)}" in record.message
    assert logger.experiment.offline
    logger.experiment.finish()

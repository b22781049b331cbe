"""W&B never blocks a run: without key, terminal or network it goes offline and logs so once."""

import json
import logging
import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from src.loggers import wandb_logger
from src.metrics.score_table import Scores
from src.report.evidence import evidence_of
from src.report.media import media_of, to_size
from src.report.results import ood_results
from tests import REPOSITORY
from tests.loggers.wandb_records import inspect
from tests.run.wandb_server import HISTORY, wandb_server


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


@pytest.mark.parametrize(
    ("given", "tags"),
    [("debug", ["debug"]), (["a", 2], ["a", "2"]), (2024, ["2024"]), (None, []), ([], [])],
)
def test_one_word_is_one_tag(no_key: Path, given: Any, tags: list[str]) -> None:
    given = OmegaConf.create({"tags": given}).tags  # as Hydra gives it
    logger = wandb_logger(project="p", save_dir=str(no_key), mode="offline", tags=given)
    assert logger.experiment.tags == tuple(tags)
    logger.experiment.finish()


WATCHED = """
import sys
from src.loggers import finish, wandb_logger

sys.addaudithook(lambda event, with_: event == "socket.getaddrinfo" and print("asked", *with_))
mode = {"nothing": None}.get(sys.argv[2], sys.argv[2])
logger = wandb_logger(project="p", save_dir=sys.argv[1], mode=mode)
logger.log_metrics({"loss": 1.0}, step=1)
finish()
"""


@pytest.mark.parametrize("mode", ["nothing", "offline", "environment"])
def test_an_offline_run_looks_up_no_name_and_connects_to_nothing(no_key: Path, mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # which both parts of W&B would use
        proxy.settimeout(0.1)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        env = {key: os.environ[key] for key in os.environ if not key.lower().endswith("_proxy")}
        del env["WANDB_BASE_URL"]
        env |= {"HTTPS_PROXY": address, "HTTP_PROXY": address, "PYTHONPATH": str(REPOSITORY)}
        if mode == "environment":
            env["WANDB_MODE"], mode = "offline", "nothing"
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, str(no_key), mode],
            env=env, cwd=no_key, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "asked" not in done.stdout
        with pytest.raises(TimeoutError):
            proxy.accept()
    assert len(list(no_key.glob("wandb/offline-run-*/*.wandb"))) == 1


def test_sync_puts_two_offline_parts_of_a_run_one_after_the_other(
    no_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epochs in ((0, 1, 2), (3, 4)):
        logger = wandb_logger(
            project="p", save_dir=str(no_key), mode="offline", id_file=str(no_key / "id.txt")
        )
        for epoch in epochs:
            logger.log_metrics({"epoch": epoch, "norm_ratio/a": 1.0}, step=10 * epoch)
        logger.experiment.finish()
        time.sleep(1.1)  # W&B names the folder of a part after the second
    parts = sorted(map(str, no_key.glob("wandb/offline-run-*")))
    assert len(parts) == 2
    with wandb_server(no_key / "requests") as (address, _):
        env = {**os.environ, "WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
        command = (sys.executable, "-m", "wandb", "sync", *parts)
        subprocess.run(command, env=env, cwd=no_key, check=True)
    requests = map(json.loads, (no_key / "requests").read_text().splitlines())
    files = [request["body"].get("files") or {} for request in requests]
    sent = [each[HISTORY] for each in files if HISTORY in each]
    rows = [json.loads(row) for each in sent for row in each["content"]]
    assert sent[0]["offset"] == 0
    assert {each["offset"] for each in sent} == {0, 3}
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["_step"] for row in rows] == [0, 1, 2, 0, 1]  # the charts have x axes of ours


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

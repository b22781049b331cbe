"""Every logger but the CSV file: what it declares, how it fails and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only

from src.loggers import Dispensable, finish, needs
from src.run.targets import packages_of
from tests import REPOSITORY, TINY


def documented(path: Path) -> Any:
    """The logger of docs/add_logger.md."""
    page = (REPOSITORY / "docs/add_logger.md").read_text()
    names: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    return names["JSONLines"](str(path))


@pytest.mark.slow
def test_the_documented_logger_of_a_run_receives_values_and_results(
    tmp_path: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (REPOSITORY / "docs/add_logger.md").read_text()
    (tmp_path / "mine.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    run = tmp_path / "run"
    command(
        *("src.train", *TINY, "trainer.max_epochs=1", "+trainer.limit_train_batches=2"),
        *("~data.ood.photographs", f"hydra.run.dir={run}"),
        '+logger.json_lines={_target_: mine.JSONLines, path: "${run_dir}/metrics.jsonl"}',
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = json.loads((run / "metrics.json").read_text())
    assert rows[-1]["selected_block"] == metrics["selected_block"]
    msp = metrics["detectors"]["msp"]["noise"]
    assert rows[-1]["ood/noise/msp/auroc"] == msp["auroc"]
    assert any("norm_ratio/layer4.1" in row for row in rows[:-1])


def test_a_logger_that_fails_is_switched_off_after_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = documented(tmp_path / "no such folder/metrics.jsonl")
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    (record,) = caplog.records
    assert "JSONLines failed (FileNotFoundError" in record.message
    assert "is switched off; the run continues" in record.message


def test_other_ranks_log_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    documented(tmp_path / "metrics.jsonl").log_metrics({"loss": 1.0}, 0)
    assert not list(tmp_path.iterdir())


def test_a_logger_declares_the_packages_that_it_needs() -> None:
    @needs("this_package_is_not_there", extra="mine")
    class Mine(Dispensable):
        pass

    assert vars(Mine)["packages"] == {"this_package_is_not_there": "mine"}
    expected = {"src": None, "mlflow": "mlflow", "sqlalchemy": "mlflow", "alembic": "mlflow"}
    assert packages_of("src.loggers.mlflow_logger") == expected
    assert packages_of("src.loggers.TensorBoardLogger") == {
        "src": None,
        "tensorboard": "tensorboard",
    }
    assert packages_of("src.loggers.CSVLogger") == {"src": None}
    assert packages_of("timm.create_model") == {"timm": "timm"}


def test_the_end_of_a_run_ends_every_logger() -> None:
    ended = []

    class Mine(Dispensable):
        @classmethod
        def finish(cls) -> None:
            ended.append(cls)

    finish()
    assert ended == [Mine]


def test_only_the_room_of_the_loggers_names_them() -> None:
    names = ("tensorboard", "mlflow", "wandb", "w&b")
    for path in (REPOSITORY / "src").rglob("*.py"):
        if path.parent.name != "loggers":
            text = path.read_text().lower()
            assert not [name for name in names if name in text], path

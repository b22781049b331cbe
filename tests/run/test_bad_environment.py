"""Catalogue of bad input, environment: devices, launchers, packages and places to write.

The words of each case say what was expected, what was given, and what to do.
"""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow  # each case goes through all of a command
Refused = Callable[..., str]


def absent(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is not None, reason=f"{package} is installed")


TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}
HUGGING_FACE = "{_target_: src.data.HuggingFace, path: svhn, split: test, size: 24}"

CASES = [
    pytest.param(
        {},
        ["trainer.accelerator=gpu"],
        ["gpu", "trainer"],
        id="no GPU",
        marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
    ),
    pytest.param(
        {},
        ["trainer.accelerator=nothing"],
        ["accelerator", "'nothing'"],
        id="no such device",
    ),
    pytest.param(
        {},
        ["trainer.accelerator=cpu", "trainer.devices=0"],
        ["devices=0"],
        id="no devices",
    ),
    pytest.param(
        {},
        ["trainer=ddp_cpu", "trainer.strategy._target_=lightning.pytorch.strategies.DPStrategy"],
        ["lightning.pytorch.strategies.DPStrategy", "trainer"],
        id="no such strategy",
    ),
    pytest.param(
        TORCHRUN,
        [],
        ["a trainer of the 4 processes that torchrun started, got one of 1", "set trainer=ddp"],
        id="torchrun without trainer=ddp",
    ),
    pytest.param(
        {"WANDB_MODE": "sometimes"},
        ["logger=wandb"],
        ["'online', 'offline'", "'sometimes'", "logger.wandb"],
        id="no such mode of W&B",
    ),
    pytest.param(
        {},
        ["net=timm"],
        ["expected an installed package in net.net._target_", "no timm; pip install -e .[timm]"],
        id="no timm",
        marks=absent("timm"),
    ),
    pytest.param(
        {},
        ["~data.ood.noise", f"+data.ood.noise={HUGGING_FACE}"],
        ["expected the package datasets, which reads svhn", "pip install -e .[hf]"],
        id="no datasets",
        marks=absent("datasets"),
    ),
]


@pytest.mark.parametrize(("environment", "arguments", "says"), CASES)
def test_a_bad_environment_is_refused(
    environment: dict[str, str], arguments: list[str], says: list[str],
    refused: Refused, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    seen = refused("src.train", *arguments)
    for words in says:
        assert words in seen


@pytest.mark.parametrize(
    ("logger", "package"),
    [("tensorboard", "tensorboard"), ("mlflow", "mlflow"), ("mlflow", "sqlalchemy")],
)
def test_a_logger_whose_package_is_absent_is_refused(
    logger: str, package: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as Python marks what cannot be imported
    seen = refused("src.train", f"logger={logger}")
    assert f"expected an installed package in logger.{logger}._target_" in seen
    assert f"there is no {package}; pip install -e .[{logger}]" in seen


@pytest.mark.skipif(find_spec("mlflow") is None, reason="there is no mlflow")
def test_an_mlflow_that_is_not_there_is_refused(refused: Refused) -> None:
    seen = refused("src.train", "logger=mlflow", "logger.mlflow.tracking_uri=nowhere://store")
    assert "expected an MLflow store at nowhere://store, got" in seen
    assert "correct logger.mlflow.tracking_uri, or run without MLflow: logger=csv" in seen


@pytest.mark.parametrize("module", ["src.train", "src.evaluate"])
def test_a_used_run_directory_is_refused_and_left_alone(
    module: str, finished_run: Path, refused: Refused
) -> None:
    checkpoint = [f"checkpoint={finished_run / 'checkpoints/last.ckpt'}"]
    seen = refused(
        *(module, "logger=wandb", f"hydra.run.dir={finished_run}"),
        *(checkpoint if module == "src.evaluate" else []),
    )
    assert "expected a fresh run directory, got" in seen
    assert f"choose another hydra.run.dir, or resume that run: resume={finished_run}" in seen


def test_a_run_directory_that_is_a_file_is_refused(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run").write_text("notes")
    assert str(tmp_path / "run") in refused("src.train", f"hydra.run.dir={tmp_path / 'run'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "logs").mkdir(mode=0o500)
    seen = refused("src.train", f"hydra.run.dir={tmp_path / 'logs/run'}")
    assert str(tmp_path / "logs/run") in seen


def test_a_run_directory_stays_free_when_its_images_are_refused(
    image_folders: Path, tmp_path: Path, refused: Refused
) -> None:
    """So that the same command can be given again when they are there."""
    (image_folders / "ood32/svhn/0.png").write_text("not an image")
    again = (
        *("src.train", "data=cifar10_folder", f"data_dir={image_folders}", "data.batch_size=5"),
        *("data.validation_size=5", "data.cache_dir=null", f"hydra.run.dir={tmp_path / 'run'}"),
        *("net.net.in_channels=3", "net.net.num_classes=10", "net.image_shape=[3,32,32]"),
    )
    for _ in range(2):
        assert "svhn/0.png, which cannot be decoded" in refused(*again)

"""One run of a sweep, logged to W&B, TensorBoard and MLflow at once, and read back from each.

Also how each of them fails, and how it continues a resumed run.
"""

import csv
import json
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from src.loggers import Lines, Media, TensorBoardLogger, mlflow_logger
from src.records.git_state import git_state
from tests import TINY
from tests.loggers.wandb_records import inspect

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow
SHOWN = ("featurenorm", "msp")
SOURCES = ("id", "digits_7_to_9", "noise")
CONFIG = {"seed": 3, "detectors": {"featurenorm@here": {"at": "each_block"}}}
CHARTS = {"norm_ratio_by_depth", "norm_ratio_by_epoch", "norm_by_depth"}


@pytest.fixture(scope="module")
def run(
    process: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    sweep = tmp_path_factory.mktemp("logs") / "my_sweep"
    done = process(
        *("src.train", "-m", "seed=3", *TINY, "trainer.max_epochs=2"),
        *("+trainer.limit_train_batches=3", "~data.ood.photographs"),
        "+trainer/callbacks=profile_curves",
        "logger=[wandb,tensorboard,mlflow]",
        *("logger.wandb.log_checkpoint=true", "logger.mlflow.log_checkpoint=true"),
        f"hydra.sweep.dir={sweep}",
    )
    assert done.returncode == 0, done.stderr
    assert "is switched off" not in done.stdout
    return sweep / "0_quickstart_3"


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return content


def norm_ratios(run: Path) -> dict[tuple[str, int], float]:
    """(block, epoch) -> NormRatio."""
    with (run / "norm_ratio.csv").open(newline="") as file:
        return {(r["block"], int(r["epoch"])): float(r["ratio"]) for r in csv.DictReader(file)}


def charts_of_weights(metrics: dict[str, Any]) -> set[str]:
    return {f"block_weights/{name}" for name in metrics["block_weights"]}


def test_the_commit_is_recorded(metrics: dict[str, Any]) -> None:
    recorded, state = metrics["versions"].get("commit", ""), git_state()
    assert recorded.removesuffix("-dirty") == (state["commit"] if state else "")


def test_weights_and_biases_has_curves_charts_and_samples(
    run: Path, metrics: dict[str, Any]
) -> None:
    (folder,) = run.glob("wandb/offline-run-*")
    records = [json.loads(line) for line in inspect(folder).splitlines()]
    (started,) = (record["run"] for record in records if record["type"] == "run")
    assert (started["run_group"], started["job_type"]) == ("my_sweep", "train")
    assert started["display_name"] == "quickstart_ResNet_3"
    artifacts = [record["artifact"] for record in records if record["type"] == "artifact"]
    assert [artifact["type"] for artifact in artifacts if artifact["type"] == "model"] == ["model"]
    epochs = [
        record["history"]["item"]
        for record in records
        if record["type"] == "history" and "selected_block" in record["history"]["item"]
    ]
    for (block, epoch), ratio in norm_ratios(run).items():
        name = block.replace(".", "_")
        assert epochs[epoch][f"norm_ratio/{name}"] == pytest.approx(ratio)
        quotient = epochs[epoch][f"norm_id/{name}"] / epochs[epoch][f"norm_pseudo_ood/{name}"]
        assert f"norm_profile/norm/{name}" in epochs[epoch]
        assert quotient == pytest.approx(ratio, rel=0.2)  # a mean of ratios is not that of means

    summary = json.loads(inspect(folder, "--summary"))
    assert summary["config"].get("git") == git_state()
    logged: dict[str, Any] = summary["summary"]
    assert {f"{name}_table" for name in CHARTS | charts_of_weights(metrics)} <= logged.keys()
    assert logged["ood/average/featurenorm/auroc"] == pytest.approx(
        metrics["detectors"]["featurenorm"]["average"]["auroc"]
    )
    for detector in SHOWN:
        for source in SOURCES:
            assert logged[f"scores/{detector}/{source}"]["_type"] == "histogram"
    for source in SOURCES:
        for end in ("lowest", "highest"):
            assert logged[f"samples/{source}/{end}"]["count"] == 8
    assert {f"roc/{source}_table" for source in SOURCES[1:]} <= logged.keys()
    assert logged["confusion_table"]["nrows"] == 49
    assert {key for key in logged if key.startswith("figures/")} == {
        f"figures/{path.stem}" for path in run.glob("figures/*.png")
    }
    media = [path for path in folder.rglob("*.*") if path.suffix in (".png", ".json")]
    assert sum(path.stat().st_size for path in media) < 2**20


def test_tensorboard_has_curves_over_epochs_pictures_and_a_table_of_runs(
    run: Path, metrics: dict[str, Any]
) -> None:
    events = event_accumulator.EventAccumulator(
        str(run / "tensorboard"), {"images": 0, "histograms": 0, "scalars": 0, "tensors": 0}
    ).Reload()
    for (block, epoch), ratio in norm_ratios(run).items():
        curve = {event.step: event.value for event in events.Scalars(f"norm_ratio/{block}")}
        assert curve[epoch] == pytest.approx(ratio, rel=1e-6)
        weights = events.Scalars(f"norm_profile/mean/{block}")
        assert [event.step for event in weights] == [0, 1]
    tags = events.Tags()
    pictures = {tag.partition("/image")[0] for tag in tags["images"]}
    figures = {f"figures/{path.stem}" for path in run.glob("figures/*.png")}
    roc = {f"roc/{source}" for source in SOURCES[1:]}
    samples = {f"samples/{source}/{end}" for source in SOURCES for end in ("lowest", "highest")}
    assert pictures == figures | CHARTS | charts_of_weights(metrics) | roc | samples
    assert {f"scores/{d}/{s}" for d in SHOWN for s in SOURCES} == set(tags["histograms"])
    name = "ood/average/featurenorm/auroc"
    expected = metrics["detectors"]["featurenorm"]["average"]["auroc"]
    assert events.Scalars(name)[-1].value == pytest.approx(expected)
    texts = {tag.partition("/text_summary")[0] for tag in tags["tensors"]}
    assert {"config", "results", "tables/ood", "tables/norm_ratio"} <= texts


def test_mlflow_has_curves_files_and_tags(run: Path, metrics: dict[str, Any]) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{run / 'mlflow/mlflow.db'}")
    experiment = client.get_experiment_by_name("block-selection")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert (found.data.tags["group"], found.data.tags["job_type"]) == ("my_sweep", "train")
    assert found.data.tags["selected_block"] == metrics["selected_block"]
    commit = (git_state() or {}).get("commit")
    assert found.data.tags.get("mlflow.source.git.commit") == commit
    assert found.data.params["trainer/max_epochs"] == "2"
    for (block, epoch), ratio in norm_ratios(run).items():
        curve = client.get_metric_history(found.info.run_id, f"norm_ratio/{block}")
        assert {point.step: point.value for point in curve}[epoch] == pytest.approx(ratio)
    expected = metrics["detectors"]["msp"]["average"]["fpr95_id_pos"]
    assert found.data.metrics["ood/average/msp/fpr95_id_pos"] == pytest.approx(expected)
    files = {path.name for path in (run / "mlflow/artifacts").rglob("*") if path.is_file()}
    assert {"ood.csv", "norm_ratio.csv", "best.ckpt"} <= files
    assert {path.name for path in run.glob("figures/*.png")} <= files
    for path in (run / "mlflow/artifacts").rglob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 50


def store(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow/mlflow.db"


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """One with a database that need not be set up: that takes MLflow more than a second."""
    (tmp_path / "mlflow").mkdir()
    shutil.copy(run / "mlflow/mlflow.db", tmp_path / "mlflow")
    return tmp_path


def read_run(folder: Path) -> Any:
    return mlflow.MlflowClient(store(folder)).get_run((folder / "mlflow/id.txt").read_text())


def test_a_resumed_run_is_the_same_one_in_mlflow(folder: Path) -> None:
    options: Any = {
        "experiment": "e", "tracking_uri": store(folder), "id_file": f"{folder}/mlflow/id.txt"
    }  # fmt: skip
    for epoch, resume in enumerate((None, "here")):
        logger = mlflow_logger(**options)
        logger.log_hyperparams(CONFIG | {"resume": resume})
        logger.log_metrics({"norm_ratio/a": 1.5, "epoch": epoch}, step=100)
        logger.finalize("success")
    run = read_run(folder)
    client = mlflow.MlflowClient(store(folder))
    assert len(client.search_runs([run.info.experiment_id])) == 1
    history = client.get_metric_history(run.info.run_id, "norm_ratio/a")
    assert [point.step for point in history] == [0, 1]
    assert run.data.params == {
        "seed": "3", "detectors/featurenorm_here/at": "each_block", "resume": "None"
    }  # fmt: skip


def test_mlflow_takes_more_metrics_than_fit_into_one_request(folder: Path) -> None:
    logger: Any = mlflow_logger(
        experiment="e", tracking_uri=store(folder), id_file=f"{folder}/mlflow/id.txt",
        log_checkpoint=True,
    )  # fmt: skip
    scalars = {f"ood/average/detector{number}/auroc": 0.5 for number in range(1300)}
    logger.log_results(scalars, {"selected_block": "a", "id_accuracy": 0.5}, 7)
    (folder / "best.ckpt").write_bytes(b"weights")
    logger.log_checkpoint(folder / "best.ckpt", {})
    assert not logger.failed
    assert len(read_run(folder).data.metrics) == 1301
    assert list(folder.glob("mlflow/artifacts/*/artifacts/checkpoints/best.ckpt"))


@contextmanager
def no_room(folder: Path) -> Iterator[None]:
    """No file may grow beyond the largest in the folder, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# the thread of TensorBoard that writes
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_logger_that_fails_warns_once_and_is_switched_off(
    name: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger: Any
    if name == "mlflow":
        logger = mlflow_logger(experiment="e", tracking_uri=store(folder))
    else:
        logger = TensorBoardLogger(str(folder / "tensorboard"))
    logger.log_hyperparams(CONFIG)
    logger.log_metrics({"norm_ratio/a": 1.5, "epoch": 0}, step=1)
    logger.save()
    media = Media(lines={"chart": Lines("t", "x", [0, 1], {"a": [0.0, 1.0]})})
    with no_room(folder / name):
        for epoch in range(1, 100):
            logger.log_metrics({f"norm_ratio/{n}": 1.5 for n in range(100)} | {"epoch": epoch})
            logger.log_results({"ood/average/msp/auroc": 0.5}, {"selected_block": "a"}, 7)
            logger.log_media(media, 7)
            logger.save()
            if logger.failed:
                break
        logger.log_checkpoint(folder / "best.ckpt", {})
        logger.finalize("success")
    (record,) = [each for each in caplog.records if "is switched off" in each.message]
    assert "the run continues, and metrics.csv and metrics.json hold all" in record.message
    assert len(record.message.splitlines()) == 1


def test_other_ranks_log_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    mlflow = {"experiment": "e", "tracking_uri": store(tmp_path)}
    cfg = {
        "mlflow": {"_target_": "src.loggers.mlflow_logger", **mlflow},
        "tensorboard": {"_target_": "src.loggers.TensorBoardLogger", "save_dir": str(tmp_path)},
    }
    for logger in instantiate(cfg).values():
        logger.log_hyperparams(CONFIG)
        logger.log_metrics({"loss": 1.0}, 0)
        logger.save()
        logger.finalize("success")
    assert not list(tmp_path.iterdir())

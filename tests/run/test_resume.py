"""A training that was killed goes on as if nothing had happened."""

import csv
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf

from src.data import Batch, BatchSampler, ImageData, ImageFolder
from src.loggers import CSVLogger
from src.run.checkpoint import AtomicCheckpoints
from src.run.trainer import callbacks
from tests import TINY

SHORT = (
    *(*TINY, "trainer.max_epochs=2", "+trainer.limit_train_batches=3"),
    "~data.ood.photographs",
)


def rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


MOMENTS = ("training", "validation", "checkpoint", "benchmark", "report")


def test_a_run_that_was_killed_at_every_stage_ends_as_one_that_was_left_alone(
    finished_run: Path,
    forked: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    begin = [*TINY, "trainer.max_epochs=2", "logger=wandb", f"hydra.run.dir={run}"]
    resume = [f"resume={run}", f"hydra.run.dir={tmp_path / 'command'}"]
    for moment in MOMENTS:
        killed = forked("tests.run.mishap", moment, *(resume if run.exists() else begin))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert (run / "metrics.json").exists() == (moment == "report")
    asked = (run / "config.yaml").read_text()
    assert (run / "benchmark/scores.pt").exists()
    done = forked("src.train", *resume)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "command").exists()
    assert (run / "config.yaml").read_text() == asked

    files = [
        {path.relative_to(each) for path in each.rglob("*.*") if "wandb" not in path.parts}
        for each in (finished_run, run)
    ]
    assert files[0] == files[1]
    for name in ("norm_ratio.csv", "metrics.csv", "ood.csv"):
        assert (run / name).read_text() == (finished_run / name).read_text()
    one, other = (
        torch.load(each / "checkpoints/last.ckpt", weights_only=True)
        for each in (finished_run, run)
    )
    assert one["global_step"] == other["global_step"]
    for key, value in one["state_dict"].items():
        same = torch.equal if torch.is_tensor(value) else dict.__eq__  # the selection is a dict
        assert same(value, other["state_dict"][key]), key
    metrics = [json.loads((each / "metrics.json").read_text()) for each in (finished_run, run)]
    for key in ("detectors", "counts", "forward_passes", "id_accuracy", "norm_ratio"):
        assert metrics[0][key] == metrics[1][key]
    begun = list((run / "wandb").glob("offline-run-*"))
    assert len(begun) == len(MOMENTS) + 1
    assert len({path.name.rpartition("-")[2] for path in begun}) == 1  # one run, when synced


QUICK = (
    *(*TINY, "trainer.max_epochs=2", "+trainer.limit_train_batches=5"),
    *("~data.ood.photographs", "data.ood.noise.count=40"),
    *("selection.bootstrap=0", "selection.stability_seeds=0"),
)


def test_a_signal_at_any_stage_is_no_success_and_says_how_to_go_on(
    forked: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    order, codes = [*QUICK, f"hydra.run.dir={run}"], {"SIGTERM": 143, "SIGINT": 130}
    stages = ("decoding", "training", "benchmark", "report")
    for moment, name in zip(stages, ("SIGTERM", "SIGINT") * 2, strict=True):
        ended = forked("tests.run.mishap", moment, *order, MISHAP_SIGNAL=name)
        assert ended.returncode == codes[name], ended.stderr
        assert f"interrupted; to resume: python -m src.train resume={run}" in ended.stdout
        order = [f"resume={run}", f"hydra.run.dir={tmp_path / 'command'}"]
    for path in (run / "norm_ratio.csv", run / "metrics.csv"):
        path.write_bytes(path.read_bytes()[:-9])  # what a disk may do
    done = forked("src.train", *order)
    assert done.returncode == 0, done.stderr
    assert f"{run / 'norm_ratio.csv'} is damaged; it is made again" in done.stdout
    assert f"{run / 'metrics.csv'} is damaged; it goes on with" in done.stdout
    assert (run / "report.html").exists()
    assert not (run / "benchmark").exists()
    assert [row["epoch"] for row in rows(run / "norm_ratio.csv")] == ["0"] * 8 + ["1"] * 8
    assert not list(run.rglob(".partial*"))


def without_logs(content: dict[str, str]) -> dict[str, str]:
    """The files without the logs of W&B's own process, which ends after the run."""
    return {path: digest for path, digest in content.items() if "/logs/" not in path}


def test_a_copy_of_a_run_goes_on_where_it_is_and_leaves_the_original_alone(
    forked: Callable[..., "subprocess.CompletedProcess[str]"],
    content: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    begun, copy = tmp_path / "begun", tmp_path / "copy"
    found = [name for name in ("tensorboard", "mlflow") if find_spec(name)]
    loggers = [f"logger=[{','.join(['wandb', *found])}]"]
    forked("tests.run.mishap", "training", *QUICK, *loggers, f"hydra.run.dir={begun}")
    shutil.copytree(begun, copy)
    before = without_logs(content(begun))
    done = forked("src.train", f"resume={copy}", f"hydra.run.dir={tmp_path / 'command'}")
    assert done.returncode == 0, done.stderr
    assert without_logs(content(begun)) == before
    assert (copy / "report.html").exists()
    assert [row["epoch"] for row in rows(copy / "norm_ratio.csv")] == ["0"] * 8 + ["1"] * 8
    assert {row["epoch"] for row in rows(copy / "metrics.csv")} >= {"0", "1"}
    assert json.loads((copy / "metrics.json").read_text())["selection_stability"] is not None
    assert len(list((copy / "wandb").glob("offline-run-*"))) == 2
    saved = torch.load(copy / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    assert str(begun) not in str(saved)


def test_a_sweep_that_was_cut_off_goes_on_where_it_was(
    command: Callable[..., None],
    forked: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut_off = f"hydra.run.dir={tmp_path / '1_quickstart_1'}"
    killed = forked("tests.run.mishap", "validation", *SHORT, "seed=1", cut_off)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(rows(tmp_path / "1_quickstart_1/norm_ratio.csv")) == 8  # of one epoch
    sweep = [f"hydra.sweep.dir={tmp_path}", *SHORT, "resume=auto"]
    finished = []
    for seeds in ("0,1", "0,1,2"):
        command("src.train", "-m", f"seed={seeds}", *sweep)
        runs = sorted(path.parent for path in tmp_path.glob("*/metrics.json"))
        finished.append({run.name: (run / "metrics.json").stat().st_mtime_ns for run in runs})
    assert list(finished[0]) == ["0_quickstart_0", "1_quickstart_1"]
    assert list(finished[1]) == [*finished[0], "2_quickstart_2"]
    assert finished[0].items() <= finished[1].items()  # none was run again
    assert capsys.readouterr().out.count("is finished") == 2


def test_what_cannot_be_resumed_is_refused(command: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected the directory of a run, got .*nowhere"):
        command("src.train", f"resume={tmp_path / 'nowhere'}", f"hydra.run.dir={tmp_path / 'a'}")
    (tmp_path / "done").mkdir()
    for name in ("config.yaml", "metrics.json"):
        (tmp_path / "done" / name).write_text("{}")
    with pytest.raises(FileExistsError, match=r"an interrupted run, got .* which is finished"):
        command("src.train", f"resume={tmp_path / 'done'}", f"hydra.run.dir={tmp_path / 'b'}")


class Falls(L.LightningModule):
    """Its accuracy is best in the first epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/accuracy", 1.0 / (1 + self.current_epoch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_last_checkpoint_is_that_of_the_last_epoch_and_whole(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"run_dir": str(tmp_path)})
    saves = [each for each in callbacks(cfg) if isinstance(each, ModelCheckpoint)]
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", callbacks=saves, plugins=AtomicCheckpoints(),
        logger=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    images = torch.utils.data.DataLoader(torch.ones(2, 1))
    trainer.fit(Falls(), images, images)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    for name, epoch in (("best", 0), ("last", 2)):
        assert torch.load(folder / f"{name}.ckpt", weights_only=True)["epoch"] == epoch


def test_a_csv_log_is_gone_on_with(tmp_path: Path) -> None:
    for step, metrics in ((0, {"a": 1.0}), (1, {"a": 2.0, "b": 3.0})):
        logger = CSVLogger(tmp_path, name="", version="")
        logger.log_metrics(metrics, step)
        logger.save()
    found = [
        {key: value for key, value in row.items() if value}
        for row in rows(tmp_path / "metrics.csv")
    ]
    assert found == [{"a": "1.0", "step": "0"}, {"a": "2.0", "b": "3.0", "step": "1"}]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_sampler_told_of_its_epoch_after_it_was_opened_yields_that_epoch() -> None:
    sampler, other = (BatchSampler(20, 4, shuffle=True) for _ in range(2))
    opened = iter(sampler)
    for each in (sampler, other):
        each.set_epoch(3)
    assert torch.stack(list(opened)).equal(torch.stack(list(other)))


class Notes(Falls):
    """Notes the images of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.index: dict[int, list[int]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.index.setdefault(self.current_epoch, []).extend(batch.index.tolist())
        return self.layer(batch.image.mean().view(1, 1)).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass


@pytest.mark.slow
def test_workers_draw_the_images_of_a_resumed_epoch_in_its_own_order(
    image_folders: Path, tmp_path: Path
) -> None:
    def trained(epochs: int, checkpoint: Path | None) -> dict[int, list[int]]:
        train, test = (
            ImageFolder(image_folders / f"cifar10/{part}", size=32, in_memory=False)
            for part in ("train", "test")
        )
        data = ImageData(train, test, {}, batch_size=4, validation_size=4, workers=1)
        module = Notes()
        trainer = L.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[ModelCheckpoint(tmp_path, f"{epochs}")],
        )  # fmt: skip
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        return module.index

    whole = trained(4, None)
    assert len({tuple(index) for index in whole.values()}) == 4
    trained(2, None)
    assert trained(4, tmp_path / "2.ckpt") == {2: whole[2], 3: whole[3]}

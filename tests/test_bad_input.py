"""What a user gets wrong: said early and clearly, before anything is trained or written."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

Content = Callable[[Path], dict[str, str]]


@pytest.fixture
def nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Content
) -> Iterator[Path]:
    """A working folder; afterwards no optimizer has stepped and no file has come or changed."""
    steps: list[Any] = []
    hook = register_optimizer_step_pre_hook(lambda *step: steps.append(step))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    hook.remove()
    assert not steps
    assert not content(work)


@pytest.fixture
def broken(finished_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """The checkpoint of the finished run after a change, in a file of its own."""

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        checkpoint = torch.load(finished_run / "checkpoints/last.ckpt", weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, tmp_path / "broken.ckpt")
        return tmp_path / "broken.ckpt"

    return write


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A data_dir of image folders with ID images, and an empty folder of OOD images."""
    for folder in (f"{part}/{k}" for part in ("train", "test") for k in range(10)):
        path = tmp_path / "data/cifar10" / folder
        path.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(path / "0.png")
    (tmp_path / "data/ood32/svhn").mkdir(parents=True)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["experiment=resnet18"], ["experiment/resnet18", "resnet18_cifar10"]),
        (["trainer.max_epoch=3"], ["Could not override 'trainer.max_epoch'", "not in struct"]),
        (
            ["data=cifar10_folder", "net=resnet18", "data_dir=/nowhere"],
            ["expected images in /nowhere/cifar10/train", "no such folder", "set data_dir="],
        ),
    ],
    ids=["unknown experiment", "unknown key", "no data"],
)
def test_train_refuses_as_a_process(
    arguments: list[str],
    says: list[str],
    nothing_happens: Path,
    process: Callable[..., Any],
) -> None:
    done = process("src.train", *arguments, f"hydra.run.dir={nothing_happens / 'run'}")
    assert done.returncode != 0
    assert "epoch 0" not in done.stdout
    for words in says:
        assert words in done.stderr


def test_evaluate_refuses_a_file_that_is_no_checkpoint(
    nothing_happens: Path, command: Callable[..., None]
) -> None:
    says = rf"expected a checkpoint of src.train, .* got {__file__}, .*; load .* net.weights="
    with pytest.raises(ValueError, match=says) as caught:
        command("src.evaluate", f"checkpoint={__file__}", "hydra.run.dir=run")
    assert caught.value.__context__ is None  # there torch advises to trust the file


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (
            ["detectors.featurenorm.at=layer9.9"],
            ValueError,
            r"expected a block of ResNet, got 'layer9.9'; blocks are layer1.0, .*layer4.1",
        ),
        (["selection=none"], RuntimeError, "no block selected; .* or set at: <block>"),
        (
            ["selection.pseudo_ood.grid=40"],
            ValueError,
            "expected a jigsaw grid of at most 24, .* got 40; lower grid",
        ),
        (
            ["net.net.num_classes=5"],
            ValueError,
            "expected a network of 7 classes, .* got one of 5; choose data and net",
        ),
        (["trainer.accelerator=nothing"], Exception, "nothing"),
    ],
    ids=["unknown block", "nothing selects", "grid too fine", "wrong classes", "no such device"],
)
def test_train_refuses(
    arguments: list[str],
    error: type[Exception],
    says: str,
    nothing_happens: Path,
    command: Callable[..., None],
) -> None:
    with pytest.raises(error, match=f"(?s){says}"):
        command("src.train", *arguments, f"hydra.run.dir={nothing_happens / 'run'}")


def test_train_refuses_an_empty_folder_of_ood_images(
    folders: Path, nothing_happens: Path, command: Callable[..., None]
) -> None:
    with pytest.raises(Exception, match=r"expected images .*ood32/svhn, got none; .*laid out as"):
        command(
            *("src.train", "data=cifar10_folder", "net=resnet18", f"data_dir={folders}"),
            f"hydra.run.dir={nothing_happens / 'run'}",
        )


@pytest.mark.parametrize("module", ["src.train", "src.evaluate"])
def test_a_used_run_directory_is_refused_and_left_alone(
    module: str,
    finished_run: Path,
    nothing_happens: Path,
    command: Callable[..., None],
    content: Content,
) -> None:
    before = content(finished_run)
    checkpoint = [f"checkpoint={finished_run / 'checkpoints/last.ckpt'}"]
    with pytest.raises(FileExistsError, match=r"expected a fresh run directory, got .*; choose"):
        command(
            *(module, "logger=wandb", f"hydra.run.dir={finished_run}"),
            *(checkpoint if module == "src.evaluate" else []),
        )
    assert content(finished_run) == before


def test_evaluate_refuses_images_of_other_classes_before_it_downloads_any(
    finished_run: Path, nothing_happens: Path, command: Callable[..., None]
) -> None:
    with pytest.raises(ValueError, match=r"expected a network of 10 classes, .* got one of 7"):
        command(
            *("src.evaluate", f"checkpoint={finished_run / 'checkpoints/last.ckpt'}"),
            *("data=cifar10", "data_dir=data", "hydra.run.dir=run"),
        )


def test_evaluate_refuses_a_data_dir_without_images(
    finished_run: Path, nothing_happens: Path, command: Callable[..., None]
) -> None:
    with pytest.raises(Exception, match="expected images in /nowhere/cifar10/train"):
        command(
            *("src.evaluate", f"checkpoint={finished_run / 'checkpoints/last.ckpt'}"),
            *("data=cifar10_folder", "data_dir=/nowhere", "hydra.run.dir=run"),
        )


def test_evaluate_refuses_a_network_for_which_no_block_was_ever_selected(
    broken: Callable[..., Path], nothing_happens: Path, command: Callable[..., None]
) -> None:
    def forget(checkpoint: dict[str, Any]) -> None:
        del checkpoint["config"]["selection"]
        checkpoint["state_dict"]["network._extra_state"] = {}

    with pytest.raises(RuntimeError, match=r"no block selected; .* run evaluate with a selection"):
        command("src.evaluate", f"checkpoint={broken(forget)}", "hydra.run.dir=run")


def test_evaluate_refuses_a_checkpoint_without_a_configuration(
    broken: Callable[..., Path], nothing_happens: Path, command: Callable[..., None]
) -> None:
    path = broken(lambda checkpoint: checkpoint.pop("config"))
    with pytest.raises(ValueError, match=r"expected a checkpoint of src.train, .* got"):
        command("src.evaluate", f"checkpoint={path}", "hydra.run.dir=run")


def test_evaluate_refuses_half_a_checkpoint(
    finished_run: Path, tmp_path: Path, nothing_happens: Path, command: Callable[..., None]
) -> None:
    whole = (finished_run / "checkpoints/last.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"expected a checkpoint of src.train, .* is cut short"):
        command("src.evaluate", f"checkpoint={tmp_path / 'half.ckpt'}", "hydra.run.dir=run")


def test_evaluate_wants_a_checkpoint_that_is_there(
    nothing_happens: Path, command: Callable[..., None]
) -> None:
    with pytest.raises(ValueError, match=r"got neither a checkpoint nor weights of src.models"):
        command("src.evaluate", "hydra.run.dir=run")
    with pytest.raises(
        FileNotFoundError, match=r"expected a checkpoint, got no file at gone.ckpt"
    ):
        command("src.evaluate", "checkpoint=gone.ckpt", "hydra.run.dir=run")


def test_evaluate_refuses_an_experiment_beside_a_checkpoint(
    finished_run: Path, nothing_happens: Path, command: Callable[..., None]
) -> None:
    checkpoint = f"checkpoint={finished_run / 'checkpoints/last.ckpt'}"
    with pytest.raises(ValueError, match=r"checkpoint or an experiment, .*; choose single groups"):
        command("src.evaluate", checkpoint, "experiment=vgg11_cifar10", "hydra.run.dir=run")


def test_nan_scores_are_kept_to_look_at_but_never_become_a_result(
    broken: Callable[..., Path], tmp_path: Path, command: Callable[..., None]
) -> None:
    def spoil(checkpoint: dict[str, Any]) -> None:
        head = [name for name in checkpoint["state_dict"] if name.endswith("fc.weight")]
        checkpoint["state_dict"][head[0]][0, 0] = torch.nan

    run = tmp_path / "run"
    with pytest.raises(ValueError, match=r"finite scores, got NaN .*'msp' on 'id'; .* look there"):
        command("src.evaluate", f"checkpoint={broken(spoil)}", f"hydra.run.dir={run}")
    with np.load(run / "scores.npz") as table:
        columns = table["detectors"][np.isnan(table["score"]).any(axis=0)]
    assert set(columns) == {"msp", "maxlogit", "energy"}
    assert not {"metrics.json", "ood.csv"} & {path.name for path in run.iterdir()}


def test_evaluate_calls_nothing_that_a_checkpoint_brings_along(
    broken: Callable[..., Path], nothing_happens: Path, command: Callable[..., None]
) -> None:
    def poison(checkpoint: dict[str, Any]) -> None:
        checkpoint["config"]["net"]["net"] = {"_target_": "os.system", "command": "touch harmed"}

    path = broken(poison)
    with pytest.raises(ValueError, match=r"got net.net._target_: os.system; if you trust it"):
        command("src.evaluate", f"checkpoint={path}", "hydra.run.dir=run")
    assert not Path("harmed").exists()


def test_evaluate_refuses_a_checkpoint_of_a_later_version(
    broken: Callable[..., Path], nothing_happens: Path, command: Callable[..., None]
) -> None:
    path = broken(lambda checkpoint: checkpoint.update(format=99))
    with pytest.raises(ValueError, match=r"format 1 or before, got 99 in .* update this one"):
        command("src.evaluate", f"checkpoint={path}", "hydra.run.dir=run")


def test_evaluate_reads_a_checkpoint_from_before_formats_had_numbers(
    broken: Callable[..., Path], tmp_path: Path, command: Callable[..., None]
) -> None:
    path = broken(lambda checkpoint: checkpoint.pop("format"))
    command("src.evaluate", f"checkpoint={path}", f"hydra.run.dir={tmp_path / 'run'}")
    assert (tmp_path / "run/metrics.json").exists()


def test_a_loss_that_is_nan_ends_the_training_and_names_the_images(
    tmp_path: Path, command: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=r"NaN or infinity in epoch 0; .*nan_loss.json"):
        command(
            "src.train", "optim.optimizer.lr=1e30", "optim.scheduler.max_lr=1e30",
            f"hydra.run.dir={run}",
        )  # fmt: skip
    found = json.loads((run / "nan_loss.json").read_text())
    assert found["epoch"] == 0
    assert len(set(found["index"])) == 64
    assert not (run / "metrics.json").exists()

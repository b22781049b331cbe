"""Catalogue of bad input, checkpoints, weights and resume: refused before anything is written.

The words of each case say what was expected, what was given, and what to do.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import TINY
from tests.fakes import Harmful

pytestmark = pytest.mark.slow  # each case goes through all of a command
Change = Callable[[dict[str, Any]], object]
Refused = Callable[..., str]
HEAD = "network.net.fc.weight"


@pytest.fixture
def broken(finished_run: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """The checkpoint of the finished run after a change, in a file of its own."""

    def write(change: Change) -> Path:
        checkpoint = torch.load(finished_run / "checkpoints/last.ckpt", weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, tmp_path / "broken.ckpt")
        return tmp_path / "broken.ckpt"

    return write


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def forget_the_selection(checkpoint: dict[str, Any]) -> None:
    del checkpoint["config"]["selection"]
    checkpoint["state_dict"]["network._extra_state"] = {}


def name_a_command(checkpoint: dict[str, Any]) -> None:
    checkpoint["config"]["net"]["net"] = {"_target_": "os.system", "command": "touch harmed"}


def spoil_the_head(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"][HEAD][0, 0] = torch.nan


def overflow_in_the_head(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"][HEAD][0] = 3e38


NONE = ["expected a checkpoint of src.train", "which is none or is incomplete; use the other one"]

CHANGED = {
    "no configuration": (lambda c: c.pop("config"), [], [*NONE, "net=<network> net.weights="]),
    "no weights": (lambda c: c.pop("state_dict"), [], NONE),
    "code of somebody else": (
        lambda c: c.update(config=Harmful(Path("harmed"))),
        [],
        [*NONE, "net=<network> net.weights="],
    ),
    "a command in its configuration": (
        name_a_command,
        [],
        [
            "a checkpoint or run that builds what this project",
            "got net.net._target_: os.system",
            "trust",
        ],
    ),
    "a later version": (
        lambda c: c.update(format=99),
        [],
        ["expected a checkpoint of format 2 or before, got 99 in", "update this one"],
    ),
    "a weight missing": (
        lambda c: c["state_dict"].pop(HEAD),
        [],
        ["expected weights of ResNet as configured", f'"{HEAD}"', "leave out net="],
    ),
    "a weight that is NaN": (
        spoil_the_head,
        [],
        [f"expected finite weights, got NaN or infinity in {HEAD} of", "an earlier checkpoint"],
    ),
    "weights in a list": (lambda c: c.update(state_dict=[1]), [], NONE),
    "a wider network": (
        lambda c: None,
        ["net.net.width=8"],
        ["expected weights of ResNet as configured", "of another network", "leave out net="],
    ),
    "other blocks": (
        lambda c: None,
        ["net.blocks=layer4.0"],
        ["expected NormRatio of the blocks layer4.0, got layer1.0", "load into the network that"],
    ),
    "no selection": (
        forget_the_selection,
        [],
        ["no block selected; train with BlockSelection, run evaluate with a selection"],
    ),
    "images of other classes": (
        lambda c: None,
        ["data=cifar10", "data_dir=data"],
        ["expected a network of 10 classes", "got one of 7; choose data and net (or the check"],
    ),
    "no images": (
        lambda c: None,
        ["data=cifar10_folder", "data_dir=/nowhere"],
        ["expected images in /nowhere/cifar10/train", "got no such folder", "set data_dir="],
    ),
    "nothing to do": (
        lambda c: None,
        ["benchmark=false"],
        ["expected something to do, got benchmark=false and", "whose block is selected (layer"],
    ),
    "an experiment beside it": (
        lambda c: None,
        ["experiment=vgg11_cifar10"],
        ["a checkpoint or an experiment, got checkpoint and experiment; choose single groups"],
    ),
}


@pytest.mark.parametrize(
    ("change", "arguments", "says"),
    [pytest.param(*case, id=name) for name, case in CHANGED.items()],
)
def test_a_bad_checkpoint_is_refused(
    change: Change, arguments: list[str], says: list[str],
    broken: Callable[[Change], Path], refused: Refused,
) -> None:  # fmt: skip
    seen = refused("src.evaluate", f"checkpoint={broken(change)}", *arguments)
    for words in says:
        assert words in seen
    assert "Traceback" not in seen or "weights_only" not in seen  # torch advises to trust it


FILES = {
    "no file": (
        lambda path: None,
        ["expected a checkpoint, got no file at", "set checkpoint=", "or to a name: resnet18_"],
    ),
    "a folder": (Path.mkdir, ["expected a checkpoint, got no file at", "set checkpoint="]),
    "an empty file": (lambda path: path.write_bytes(b""), NONE),
    "a text": (lambda path: path.write_text("model:\n"), NONE),
}


@pytest.mark.parametrize(
    ("make", "says"), [pytest.param(*case, id=name) for name, case in FILES.items()]
)
def test_what_is_no_checkpoint_is_refused(
    make: Callable[[Path], object], says: list[str], tmp_path: Path, refused: Refused
) -> None:
    make(tmp_path / "last.ckpt")
    seen = refused("src.evaluate", f"checkpoint={tmp_path / 'last.ckpt'}")
    for words in says:
        assert words in seen


def test_half_a_checkpoint_is_refused_as_a_process(
    finished_run: Path, tmp_path: Path, process: Callable[..., Any]
) -> None:
    shutil.copy(finished_run / "checkpoints/last.ckpt", tmp_path / "half.ckpt")
    cut(tmp_path / "half.ckpt")
    run = tmp_path / "run"
    done = process("src.evaluate", f"checkpoint={tmp_path / 'half.ckpt'}", f"hydra.run.dir={run}")
    assert done.returncode == 1
    assert "or is incomplete; use the other one" in done.stderr
    assert not list(run.iterdir())


WEIGHTS = {
    "nothing trained": (
        lambda path: None,
        [],
        ["got neither a checkpoint nor weights of src.models.ResNet; set checkpoint=<file"],
    ),
    "no such file": (
        lambda path: None,
        ["net.weights=gone.pth"],
        ["expected a file of weights or a name in torchvision, got 'gone.pth'", "names look like"],
    ),
    "no such name in torchvision": (
        lambda path: None,
        ["net.weights=ResNet18_Weights.V9"],
        ["or a name in torchvision, got 'ResNet18_Weights.V9', which is neither; names look"],
    ),
    "a text": (
        lambda path: path.write_text("weights"),
        ["net.weights=${data_dir}/weights.pth"],
        ["expected a file of weights alone, got", "incomplete, no checkpoint", "fetch it again"],
    ),
    "a tensor": (
        lambda path: torch.save(torch.ones(3), path),
        ["net.weights=${data_dir}/weights.pth"],
        ["expected a state dict or a dict around one, got a Tensor; save net.state_dict()"],
    ),
    "another architecture": (
        lambda path: torch.save({"features.0.weight": torch.ones(3)}, path),
        ["net.weights=${data_dir}/weights.pth"],
        ["entries of ResNet, got", "Nothing is in common: choose the architecture"],
    ),
}


@pytest.mark.parametrize(
    ("make", "arguments", "says"),
    [pytest.param(*case, id=name) for name, case in WEIGHTS.items()],
)
def test_bad_weights_are_refused(
    make: Callable[[Path], object], arguments: list[str], says: list[str],
    tmp_path: Path, refused: Refused,
) -> None:  # fmt: skip
    make(tmp_path / "weights.pth")
    seen = refused("src.evaluate", f"data_dir={tmp_path}", *arguments)
    for words in says:
        assert words in seen


def test_weights_that_are_nan_or_of_another_head_are_refused(
    broken: Callable[[Change], Path], refused: Refused
) -> None:
    path = broken(lambda checkpoint: None)
    seen = refused("src.evaluate", f"net.weights={path}", "net.net.num_classes=10")
    assert "fc.weight (7, 128) instead of (10, 128)" in seen
    assert "Only the head differs: set net.net.num_classes=7" in seen
    seen = refused("src.evaluate", f"net.weights={broken(spoil_the_head)}")
    assert "expected finite weights, got NaN or infinity in fc.weight of" in seen
    assert "fetch it again, or take an earlier checkpoint" in seen


@pytest.fixture
def unfinished(finished_run: Path, tmp_path: Path) -> Path:
    """The finished run as if it had been cut off in its benchmark."""
    shutil.copytree(finished_run, tmp_path / "unfinished", ignore=shutil.ignore_patterns("wandb"))
    (tmp_path / "unfinished/metrics.json").unlink()
    return tmp_path / "unfinished"


def spoiled(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    spoil_the_head(checkpoint)
    torch.save(checkpoint, path)


def later_format(path: Path) -> None:
    torch.save(torch.load(path, weights_only=True) | {"format": 99}, path)


RESUMED = {
    "cut short": (cut, [], [*NONE, "(best.ckpt, last.ckpt)"]),
    "empty": (lambda path: path.write_bytes(b""), [], NONE),
    "a later version": (later_format, [], ["of format 2 or before, got 99 in", "update this one"]),
    "NaN": (spoiled, [], [f"expected finite weights, got NaN or infinity in {HEAD} of"]),
    "another wish beside it": (
        lambda path: None,
        ["trainer.max_epochs=50"],
        ["expected resume= alone", "got trainer.max_epochs=50 beside it; leave that out, or"],
    ),
}


@pytest.mark.parametrize(
    ("change", "arguments", "says"),
    [pytest.param(*case, id=name) for name, case in RESUMED.items()],
)
def test_a_run_that_cannot_go_on_is_left_as_it_is(
    change: Callable[[Path], object], arguments: list[str], says: list[str],
    unfinished: Path, refused: Refused,
) -> None:  # fmt: skip
    change(unfinished / "checkpoints/last.ckpt")
    seen = refused("src.train", f"resume={unfinished}", *arguments)
    for words in says:
        assert words in seen


def spoil_a_callback(checkpoint: dict[str, Any]) -> None:
    key = next(key for key in checkpoint["callbacks"] if key.startswith("ModelCheckpoint"))
    checkpoint["callbacks"][key] = 3


LOST = "of this run in .*, got what cannot be restored"
DAMAGED: dict[str, tuple[str, Change]] = {
    "no optimizer": (f"optimizers and schedulers {LOST}", lambda c: c.pop("optimizer_states")),
    "an optimizer without groups": (
        f"optimizers {LOST}", lambda c: c["optimizer_states"][0].update(param_groups=[])
    ),
    "an optimizer that is none": (f"optimizers {LOST}", lambda c: c.update(optimizer_states=[7])),
    "a schedule that is none": (f"lr schedulers {LOST}", lambda c: c.update(lr_schedulers=["a"])),
    "no loop": ("fit_loop in loops, got none, in", lambda c: c.update(loops={})),
    "a loop that is none": (
        "a dictionary at loops.fit_loop, got list", lambda c: c["loops"].update(fit_loop=[1, 2])
    ),
    "a negative epoch": (
        "a whole number at loops.fit_loop.epoch_progress.current.ready, got int -1",
        lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(ready=-1),
    ),
    "a callback whose state is none": (f"callbacks {LOST}", spoil_a_callback),
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "change"), [pytest.param(*case, id=name) for name, case in DAMAGED.items()]
)
def test_a_state_that_cannot_be_restored_is_named_and_the_run_resumes_with_a_good_one(
    what: str, change: Change, unfinished: Path, command: Callable[..., None]
) -> None:
    path = unfinished / "checkpoints/last.ckpt"
    whole = path.read_bytes()
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=f"expected .*{what}.*; put back a copy of"):
        command("src.train", f"resume={unfinished}")
    assert not (unfinished / "metrics.json").exists()
    path.write_bytes(whole)
    command("src.train", f"resume={unfinished}")
    assert (unfinished / "metrics.json").exists()


def test_a_run_cannot_go_on_that_is_not_there_or_is_finished(
    finished_run: Path, refused: Refused
) -> None:
    seen = refused("src.train", "resume=logs/gone")
    assert "expected the directory of a run, got logs/gone without a config.yaml" in seen
    assert "set resume=logs/<name>/<time>" in seen
    seen = refused("src.train", f"resume={finished_run / 'checkpoints/last.ckpt'}")
    assert "expected the directory of a run, got" in seen
    seen = refused("src.train", f"resume={finished_run}")
    assert "expected an interrupted run, got" in seen
    assert "which is finished; see its metrics.json, or start a new run" in seen


def test_nan_scores_are_kept_to_look_at_but_never_become_a_result(
    broken: Callable[[Change], Path], tmp_path: Path, command: Callable[..., None]
) -> None:
    run, path = tmp_path / "run", broken(overflow_in_the_head)
    named = r"finite scores, got NaN .*'norm_profile' on 'id'; .* inspect it"
    with pytest.raises(ValueError, match=named):
        command("src.evaluate", f"checkpoint={path}", f"hydra.run.dir={run}")
    with np.load(run / "scores.npz") as table:
        columns = table["detectors"][~np.isfinite(table["score"]).all(axis=0)]
    assert set(columns) == {"norm_profile", "msp", "maxlogit", "energy"}
    assert not {"metrics.json", "ood.csv"} & {path.name for path in run.iterdir()}


def test_a_checkpoint_from_before_formats_had_numbers_is_read(
    broken: Callable[[Change], Path], tmp_path: Path, command: Callable[..., None]
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
            "src.train", *TINY, "optim.optimizer.lr=1e30", "optim.scheduler.max_lr=1e30",
            f"hydra.run.dir={run}",
        )  # fmt: skip
    found = json.loads((run / "nan_loss.json").read_text())
    assert found["epoch"] == 0
    assert len(set(found["index"])) == 64
    assert not (run / "metrics.json").exists()

"""Catalogue of bad input, configuration: each is refused before anything is trained or written.

The words of each case say what was expected, what was given, and what to do.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import TINY

pytestmark = pytest.mark.slow  # each case goes through all of a command
Refused = Callable[..., str]

NAMES = {
    "unknown experiment": (
        ["experiment=resnet18"],
        ["experiment/resnet18", "resnet18_cifar10"],
    ),
    "unknown network": (
        ["net=resnet19"],
        ["net/resnet19", "resnet34"],
    ),
    "unknown data": (
        ["data=cifar11"],
        ["data/cifar11", "cifar10_folder"],
    ),
    "unknown logger": (
        ["logger=comet"],
        ["logger/comet", "wandb"],
    ),
    "misspelt key": (
        ["trainer.max_epoch=3"],
        ["trainer.max_epoch"],
    ),
    "unknown detector": (
        ["+detectors.odin={_target_: src.detectors.ODIN}"],
        ["src.detectors.ODIN", "detectors.odin"],
    ),
    "misspelt class": (
        ["net.net._target_=src.models.ResNett"],
        ["src.models.ResNett", "net.net"],
    ),
    "misspelt package": (
        ["net.net._target_=scr.models.ResNet"],
        [
            "expected an installed package in net.net._target_",
            "got scr.models.ResNet, but there is no scr",
            "correct it",
        ],
    ),
    "argument of another optimizer": (
        ["+optim.optimizer.betas=[0.9,0.99]"],
        ["optimizer and a scheduler", "'betas'", "correct optim."],
    ),
}

NUMBERS = {
    "no batch size": (
        ["data.batch_size=0"],
        ["expected data.batch_size to be a whole number of at least 1", "got 0", "set it"],
    ),
    "negative batch size for evaluation": (
        ["data.eval_batch_size=-4"],
        ["expected data.eval_batch_size to be a whole number", "got -4", "set it"],
    ),
    "batch larger than the training set": (
        ["data.batch_size=2000"],
        ["fills one batch", "got 813 images", "batch size 2000; lower the batch size"],
    ),
    "nothing held out": (
        ["data.validation_size=0"],
        ["expected data.validation_size to be a whole number of at least 1", "got 0", "set it"],
    ),
    "a share held out instead of a number": (
        ["data.validation_size=0.1"],
        ["expected data.validation_size to be a whole number", "got 0.1", "set it"],
    ),
    "more held out than there is": (
        ["data.validation_size=5000"],
        ["expected data.validation_size within 1..1012, as there are 1013", "got 5000; set it"],
    ),
    "no epoch": (
        ["trainer.max_epochs=0"],
        ["expected trainer.max_epochs of at least 1", "got 0", "python -m src.evaluate"],
    ),
    "one and a half epochs": (
        ["trainer.max_epochs=1.5"],
        ["expected trainer.max_epochs of at least 1", "got 1.5", "python -m src.evaluate"],
    ),
    "negative epochs": (
        ["trainer.max_epochs=-2"],
        ["max_epochs", "-2"],
    ),
    "negative seed": (
        ["seed=-1"],
        ["expected a seed within 0..4294967295, got -1; set seed=<number>"],
    ),
    "no seed": (
        ["seed=null"],
        ["expected a seed within 0..4294967295, got None; set seed=<number>"],
    ),
    "unknown precision": (
        ["trainer.precision=float8"],
        ["float8", "bf16-mixed"],
    ),
    "interval": (
        ["optim.interval=batch"],
        ["expected interval 'epoch' or 'step', got 'batch'; choose one"],
    ),
    "interval that the scheduler cannot take": (
        ["optim.interval=epoch"],
        ["that fit together, got: ", "total_steps", "or optim.interval"],
    ),
    "learning rate in words": (
        ["optim.optimizer.lr=fast"],
        ["optimizer and a scheduler that fit", "correct optim.optimizer"],
    ),
    "negative learning rate": (
        ["optim.optimizer.lr=-0.1"],
        ["optimizer and a scheduler that fit", "-0.1", "correct optim."],
    ),
}

NETWORKS = {
    "blocks that match nothing": (
        ["net.blocks=stage\\\\d"],
        ["expected modules of ResNet as blocks, got", "stage", "near it are"],
    ),
    "blocks that are no regular expression": (
        ["net.blocks='layer['"],
        ["expected blocks to be a regular expression", "got 'layer['", "correct it, or give a"],
    ),
    "no blocks": (
        ["net.blocks=[]"],
        ["expected blocks, got an empty list; name some, or null to find them"],
    ),
    "a block that is no feature map": (
        ["net.blocks=[layer4.1,fc]"],
        ["expected block 'fc' to return a feature map", "got (2, 7); choose another module"],
    ),
    "no linear head": (
        ["~net.net", "+net.net={_target_: torch.nn.Conv2d, _args_: [1, 7, 24]}"],
        ["whose last step is an nn.Linear", "got Conv2d, where none does", "wrap it"],
    ),
    "images of other channels than the network's": (
        ["net.image_shape=[3,24,24]"],
        ["takes images of image_shape (3, 24, 24)", "to have 1 channels", "correct image_shape"],
    ),
    "images of other size than the data's": (
        ["net.image_shape=[1,32,32]"],
        ["expected images of shape (1, 32, 32)", "got (1, 24, 24) in 'train'", "make the size"],
    ),
    "image shape without channels": (
        ["net.image_shape=[24,24]"],
        ["image_shape to be channels, height and width, got (24, 24); set it"],
    ),
    "normalisation of other channels": (
        ["net.mean=[0.5,0.5,0.5]"],
        ["expected mean and std of 1 channels, got 3 values; make them agree with image_shape"],
    ),
    "other classes than the data's": (
        ["net.net.num_classes=5"],
        ["expected a network of 7 classes", "got one of 5; choose data and net"],
    ),
}

BENCHMARKS = {
    "detector at a block that is not there": (
        ["detectors.featurenorm.at=layer9.9"],
        ["expected a block of ResNet, got 'layer9.9'; blocks are layer1.0", "layer4.1"],
    ),
    "detectors of blocks that are not there": (
        ["+detectors.fssd={_target_: src.detectors.FSSD, blocks: [layer4.0, nope]}"],
        ["expected a block of ResNet, got 'nope'; blocks are layer1.0", "layer4.1"],
    ),
    "wrapped detector at a block that is not there": (
        [
            "+detectors.odin={_target_: src.detectors.Perturbed, detector: {_target_: "
            "src.detectors.DividedByNAN, detector: {_target_: src.detectors.KNN, at: nope}}}"
        ],
        ["expected a block of ResNet, got 'nope'; blocks are layer1.0", "layer4.1"],
    ),
    "projection of fewer dimensions than channels": (
        ["+detectors.hdff={_target_: src.detectors.HDFF, hd_dim: 3}"],
        ["expected hd_dim of at least", "got 3; raise it, or set hd_dim=None"],
    ),
    "detector at the selected block, and no selection": (
        ["selection=none"],
        ["no block selected; train with BlockSelection", "or set at: <block>"],
    ),
    "jigsaw finer than the image": (
        ["selection.pseudo_ood.grid=40"],
        ["expected a jigsaw grid of at most 24", "got 40; lower grid"],
    ),
    "jigsaw of one tile": (
        ["selection.pseudo_ood.grid=1"],
        ["expected a grid of at least 2, got 1; the paper uses 3"],
    ),
    "selection on an unknown split": (
        ["selection.split=test"],
        ["expected split to be 'validation' or 'training', got 'test'; choose one"],
    ),
    "OOD set of a reserved name": (
        ["+data.ood.id={_target_: src.data.Noise, count: 9}"],
        ["OOD sets and groups of different names, none of", "got ['id']", "rename them"],
    ),
    "group of a set that is not there": (
        ["+data.groups={near: [digits_7_to_9], far: [lsun]}"],
        [
            "expected groups of the OOD sets digits_7_to_9",
            "got ['lsun']",
            "remove a set from data.groups",
        ],
    ),
}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        *[pytest.param(*case, id=name) for name, case in NAMES.items()],
        *[
            pytest.param([*TINY, *arguments], says, id=name)
            for name, (arguments, says) in (NUMBERS | NETWORKS | BENCHMARKS).items()
        ],
    ],
)
def test_a_bad_configuration_is_refused(
    arguments: list[str], says: list[str], refused: Refused
) -> None:
    seen = refused("src.train", *arguments)
    for words in says:
        assert words in seen


def test_an_unknown_experiment_is_refused_as_a_process(
    process: Callable[..., object], tmp_path: Path
) -> None:
    done = process("src.train", "experiment=resnet18", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1
    assert "resnet18_cifar10" in done.stderr  # one of those there are
    assert not Path(tmp_path, "run").exists()

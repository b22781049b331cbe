"""The operations of augmentation policies are those of torchvision."""

from collections.abc import Callable
from math import atan, degrees

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from src.data.operations import OPERATIONS, apply
from src.data.policies import strengths
from tests.data.test_augmentation import pictures

Operation = Callable[[Tensor, float], Tensor]


def affine(
    image: Tensor, *, x: float = 0, y: float = 0, move: tuple[float, float] = (0, 0)
) -> Tensor:
    shear = [degrees(atan(x)), degrees(atan(y))]
    center = [0.0, 0.0] if x or y else None
    return F.affine(image, 0, [int(each) for each in move], 1, shear, center=center)


THEIRS: dict[str, Operation] = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, strength: affine(image, x=strength),
    "shear_y": lambda image, strength: affine(image, y=strength),
    "translate_x": lambda image, strength: affine(image, move=(strength, 0)),
    "translate_y": lambda image, strength: affine(image, move=(0, strength)),
    "rotate": F.rotate,
    "brightness": lambda image, strength: F.adjust_brightness(image, 1 + strength),
    "color": lambda image, strength: F.adjust_saturation(image, 1 + strength),
    "contrast": lambda image, strength: F.adjust_contrast(image, 1 + strength),
    "sharpness": lambda image, strength: F.adjust_sharpness(image, 1 + strength),
    "posterize": lambda image, strength: F.posterize(image, int(strength)),
    "solarize": F.solarize,
    "autocontrast": lambda image, _: F.autocontrast(image),
    "equalize": lambda image, _: F.equalize(image),
}
EQUAL = ("identity", "translate_x", "translate_y", "posterize", "solarize", "equalize")
MOVED = ("shear_x", "shear_y", "rotate")


def strong(name: str, *, wide: bool, size: tuple[int, int]) -> Tensor:
    """Every second strength of an operation, both ways if it has two."""
    values = strengths(wide, *size, torch.device("cpu"))[OPERATIONS.index(name)][::2]
    if name == "rotate":  # a quarter turn of such an image has no nearest pixels
        values = values[values != 90]
    return torch.cat([values, -values]) if name in OPERATIONS[1:10] else values


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_operation_is_that_of_torchvision(name: str, channels: int) -> None:
    strength = strong(name, wide=True, size=(15, 20))
    noise = torch.randint(0, 256, (len(strength), channels, 15, 20), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(1))  # fmt: skip
    for image in (pictures(len(strength), channels, 15, 20), noise):
        ours = apply(image, torch.full((len(image),), OPERATIONS.index(name)), strength)
        theirs = torch.stack(
            [THEIRS[name](*each) for each in zip(image, strength.tolist(), strict=True)]
        )
        off = (ours.int() - theirs.int()).abs()
        if name in MOVED:  # where two pixels are equally near
            assert (off > 0).float().mean() < 0.01
        else:
            assert off.max() <= (0 if name in EQUAL else 2 if name == "color" else 1)


def test_images_of_one_value_stay() -> None:
    image = torch.full((2, 3, 6, 6), 77, dtype=torch.uint8)
    operation = torch.tensor([OPERATIONS.index(name) for name in ("autocontrast", "equalize")])
    assert apply(image, operation, torch.zeros(2).double()).equal(image)


@pytest.mark.parametrize(
    ("wide", "policy"), [(True, v2.TrivialAugmentWide()), (False, v2.RandAugment())]
)
def test_strengths_are_those_of_torchvision(wide: bool, policy: v2.Transform) -> None:
    space = policy._AUGMENTATION_SPACE
    names = [name.lower().replace("shear", "shear_").replace("late", "late_") for name in space]
    assert names == [*OPERATIONS]
    for ours, name in zip(strengths(wide, 24, 30, torch.device("cpu")), space, strict=True):
        theirs = space[name][0](31, 24, 30)
        if theirs is None:
            continue
        scale = 255 if name == "Solarize" else 1
        assert ours.tolist() == pytest.approx((theirs * scale).tolist(), abs=1e-4)

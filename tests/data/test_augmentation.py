"""Laws of all augmentations of training images, and of single ones."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from src.data import (
    Augmentation,
    Compose,
    CropFlip,
    Cutout,
    PixMix,
    RandAugment,
    TrivialAugment,
)
from src.data.fractals import draw_fractals
from src.data.operations import (
    OPERATIONS,
    _blended,
    _mapped,
    _moved,
    apply,
    change_some,
)

KINDS: dict[str, type[Augmentation]] = {
    "crop_flip": CropFlip,
    "cutout": Cutout,
    "trivial": TrivialAugment,
    "rand": RandAugment,
    "pixmix": PixMix,
}
SMALL: dict[str, dict[str, Any]] = {"cutout": {"size": 5}, "pixmix": {"pictures": 4}}


def made(name: str, seed: int = 3) -> Augmentation:
    if name == "compose":
        return Compose(**{each: made(each, seed) for each in KINDS}, none=None)
    return KINDS[name](**SMALL.get(name, {}), seed=seed)


def pictures(count: int = 24, channels: int = 3, height: int = 12, width: int = 14) -> Tensor:
    """Smooth random images, so that operations have something to move."""
    generator = torch.Generator().manual_seed(count)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (fine * 255).to(torch.uint8)


@pytest.mark.parametrize("name", [*KINDS, "compose"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_augmentation_is_a_function_of_seed_epoch_and_index_alone(
    name: str, channels: int
) -> None:
    image, index = pictures(channels=channels), torch.arange(24) * 11
    before, state = image.clone(), torch.get_rng_state()
    augmentation = made(name)
    whole = augmentation(image, index, 2)
    assert whole.dtype == torch.uint8
    assert whole.shape == image.shape
    assert not whole.equal(image)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    assert augmentation(image[order], index[order], 2).equal(whole[order])
    parts = [augmentation(a, b, 2) for a, b in zip(image.split(7), index.split(7), strict=True)]
    assert torch.cat(parts).equal(whole)
    assert made(name)(image, index, 2).equal(whole)
    assert not augmentation(image, index, 3).equal(whole)
    assert not augmentation(image, index + 1, 2).equal(whole)
    assert not made(name, seed=4)(image, index, 2).equal(whole)
    assert augmentation(image[:0], index[:0], 2).shape == image[:0].shape
    assert image.equal(before)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("change", [_moved, _blended, _mapped])
def test_what_an_accelerator_computes_for_all_is_what_the_cpu_computes_for_some(
    change: Any,
) -> None:
    image, number = pictures(64), torch.arange(64)
    operation, strength = number % len(OPERATIONS), 3.0 * number.double() - 96
    whole = change(image, operation, strength)  # of operations of other families, too
    for row in number.split(5):
        assert change(image[row], operation[row], strength[row]).equal(whole[row])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", [*KINDS, "compose"])
def test_an_image_is_the_same_on_every_device(name: str) -> None:
    image, index = pictures(512), torch.arange(512)
    augmentation = made(name)
    there = augmentation(image.cuda(), index.cuda(), 1)
    assert there.cpu().equal(augmentation(image, index, 1))


def test_every_class_draws_bits_of_its_own() -> None:
    index = torch.arange(50)
    drawn = [KINDS[name](seed=7).bits(index, 1, 2) for name in KINDS]
    for number, bits in enumerate(drawn):
        assert all(not (bits == other).any() for other in drawn[number + 1 :])
    assert CropFlip(seed=7).bits(index, 0, 2).equal(CropFlip(seed=7).bits(index, 0, 3)[:, :2])


def test_several_augmentations_run_in_their_order() -> None:
    image, index = pictures(), torch.arange(24)
    crop, cut = CropFlip(seed=1), Cutout(6, seed=1)
    expected = cut(crop(image, index, 5), index, 5)
    assert Compose(crop=crop, nothing=None, cut=cut)(image, index, 5).equal(expected)
    assert not Compose(cut=cut, crop=crop)(image, index, 5).equal(expected)
    assert Compose()(image, index, 5) is image
    text = f"Compose(crop={crop!r}, cut={cut!r})"
    assert repr(eval(text)) == text


def test_cutout_covers_a_square_around_any_pixel() -> None:
    count, size, side = 4000, 4, 10
    image = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    covered = Cutout(size, 9, seed=2)(image, torch.arange(count), 0)[:, 0] == 9
    rows, columns = covered.any(2).sum(1), covered.any(1).sum(1)
    assert covered.sum((1, 2)).equal(rows * columns)  # a rectangle
    assert {*rows.tolist()} == {*columns.tolist()} == {2, 3, 4}
    share = covered.float().mean(0)  # of images in which a pixel is covered
    assert share[2:8, 2:8].sub(size**2 / side**2).abs().max() < 0.035
    assert Cutout(99, 9)(image, torch.arange(count), 0).eq(9).all()


def test_every_operation_and_strength_is_drawn_about_equally_often() -> None:
    operation, strength, sign = TrivialAugment().bits(torch.arange(43_400), 0, 3).unbind(1)
    count = torch.bincount(operation % 14 * 31 + strength % 31, minlength=434)
    assert ((count - 100.0) ** 2 / 100).sum() < 433 + 6 * (2 * 433) ** 0.5
    assert abs((sign % 2).float().mean() - 0.5) < 0.015


def test_an_image_is_mixed_with_fractals_from_never_to_k_times() -> None:
    image, index = pictures(400), torch.arange(400)
    changed = {
        k: (PixMix(k, pictures=4)(image, index, 0) != image).flatten(1).any(1).float().mean()
        for k in (0, 4)
    }
    assert 0.35 < changed[0] < 0.5  # half are augmented, some by an operation that changes nothing
    assert 0.8 < changed[4] < 0.95  # a tenth is neither augmented nor mixed
    grey = PixMix(pictures=4)(pictures(40, 1).expand(-1, 3, -1, -1), index[:40], 0)
    assert (grey != grey[:, :1]).any()  # fractals are coloured


def test_fractals_are_a_function_of_seed_and_number_varied_and_structured() -> None:
    drawn = draw_fractals(40, (3, 16, 16), seed=5)
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (40, 3, 16, 16)
    assert draw_fractals(3, (3, 16, 16), seed=5).equal(drawn[:3])
    assert not draw_fractals(3, (3, 16, 16), seed=6).equal(drawn[:3])
    assert draw_fractals(2, (1, 8, 9)).shape == (2, 1, 8, 9)
    values = drawn.float().flatten(1)
    assert (values.std(1) > 10).all()
    alike = torch.corrcoef(values).fill_diagonal_(0)
    assert alike.max() < 0.95
    smooth = (drawn.float().diff(dim=3).abs().mean((1, 2, 3)) / values.std(1)).median()
    assert smooth < 0.8  # of noise it would be 1.13
    with pytest.raises(ValueError, match="at least one fractal, got 0"):
        draw_fractals(0, (3, 8, 8))


def test_the_choice_of_rows_keeps_the_others() -> None:
    image, chosen = pictures(4), torch.tensor([True, False, True, False])
    changed = change_some(image, chosen, lambda each, add: each ^ add, torch.ones_like(image))
    assert changed[~chosen].equal(image[~chosen])
    assert changed[chosen].equal(image[chosen] ^ 1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Cutout(0), "size of at least 1 and a fill within 0..255, got size=0"),
        (lambda: Cutout(4, 256), "got size=4 and fill=256; 16 and 128 are usual"),
        (lambda: RandAugment(0), "n of at least 1 and a magnitude within 0..30, got n=0"),
        (lambda: RandAugment(2, 31), "got n=2 and magnitude=31; 2 and 9 are usual"),
        (lambda: PixMix(-1), "k of at least 0, .* got k=-1"),
        (lambda: PixMix(beta=0), "beta above 0, .* beta=0"),
        (lambda: PixMix(severity=11), r"severity within 0\.1\.\.10 .* severity=11"),
        (lambda: PixMix(pictures=0), "at least one picture, got .* pictures=0"),
        (
            lambda: Compose(padding=2),  # type: ignore[arg-type]
            "expected augmentations by their names, got padding=2; give one .* crop_flip",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_the_repr_names_every_argument() -> None:
    for name in KINDS:
        text = repr(made(name))
        assert repr(eval(text)) == text
        assert re.match(r"\w+\(.*seed=3\)", text)


def test_all_operations_of_torchvision_are_here() -> None:
    image = pictures(len(OPERATIONS), height=20, width=20)
    whole = apply(
        image, torch.arange(len(OPERATIONS)), torch.full((len(OPERATIONS),), 0.5).double()
    )
    same = [name for row, name in enumerate(OPERATIONS) if whole[row].equal(image[row])]
    unmoved = ["identity", "translate_x", "translate_y", "rotate"]  # by less than half a pixel
    assert same == unmoved

"""Laws of the distortions beside the puzzles, which have their own file."""

import pytest
import torch
from torch import Tensor

from src.data.distortions import (
    Blur,
    Invert,
    Mixture,
    Noise,
    PhaseScramble,
    PixelShuffle,
    Rotate,
    Zoom,
)
from src.data.pseudo_ood import Jigsaw, PseudoOOD
from src.metrics.stability import reseeded

EVERY = [
    Jigsaw(2, border="keep", identity=False), PixelShuffle(), Blur(5), Blur(9), Zoom(4), Zoom(1.5),
    PhaseScramble(), Invert(), Rotate(), Noise(0.3), Mixture(),
]  # fmt: skip
DRAWN = [each for each in EVERY if "seed" in vars(each)]
SHAPES = [(3, 32, 32), (1, 28, 28), (4, 9, 16), (3, 17, 11)]


def images(shape: tuple[int, ...], count: int = 12) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("change", EVERY, ids=repr)
def test_a_changed_image_depends_on_seed_and_index_alone(
    change: PseudoOOD, shape: tuple[int, ...]
) -> None:
    image, index = images(shape), torch.arange(12) * 7
    before = image.clone()
    whole = change(image, index)
    assert image.equal(before)
    assert whole.shape == image.shape
    assert whole.dtype == image.dtype
    assert whole.min() >= -1e-6
    assert whole.max() <= 1 + 1e-6
    order = torch.tensor([3, 0, 11, 5])
    torch.testing.assert_close(change(image[order], index[order]), whole[order])
    assert (whole != image).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("change", DRAWN, ids=repr)
def test_another_seed_changes_otherwise(change: PseudoOOD) -> None:
    image, index = images((3, 16, 16)), torch.arange(12)
    other = reseeded(change, 5)
    assert not other(image, index).equal(change(image, index))
    assert reseeded(other, 0)(image, index).equal(change(image, index))


def test_shuffled_pixels_are_those_of_the_image_with_their_channels() -> None:
    image = images((3, 8, 8))
    shuffled = PixelShuffle()(image, torch.arange(12))
    for before, after in zip(image.flatten(2), shuffled.flatten(2), strict=True):
        assert sorted(map(tuple, after.T.tolist())) == sorted(map(tuple, before.T.tolist()))


def test_a_scrambled_phase_keeps_the_power_of_each_frequency() -> None:
    image = 0.5 + 0.01 * images((3, 16, 16)).sub(0.5)  # so weak that nothing is clipped
    scrambled = PhaseScramble()(image, torch.arange(12))
    for before, after in zip(image, scrambled, strict=True):
        power = [torch.fft.rfft2(each).abs() for each in (before, after)]
        inner = [each[:, 1:, 1:-1] for each in power]  # the others belong to real numbers
        torch.testing.assert_close(inner[1], inner[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scrambled.mean((2, 3)), image.mean((2, 3)), rtol=1e-4, atol=1e-4)


def test_a_blur_is_the_mean_of_a_square() -> None:
    image = images((2, 9, 9))
    blurred = Blur(3)(image, torch.arange(12))
    torch.testing.assert_close(blurred[:, :, 4, 4], image[:, :, 3:6, 3:6].mean((2, 3)))


def test_a_zoom_shows_the_middle() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 12:20, 12:20] = 1
    assert (Zoom(4)(image, torch.arange(1)) == 1).all()


def test_images_are_turned_by_each_angle() -> None:
    image = images((1, 4, 4), 1).expand(60, -1, -1, -1)
    turned = Rotate()(image, torch.arange(60))
    angles = [sum(t.equal(image[0].rot90(k, (1, 2))) for t in turned) for k in (1, 2, 3)]
    assert min(angles) > 5
    assert sum(angles) == 60
    wide = images((1, 4, 6))
    assert Rotate()(wide, torch.arange(12)).equal(wide.rot90(2, (2, 3)))


@pytest.mark.parametrize(("change", "side"), [(Jigsaw(4), 3), (Blur(9), 4), (Zoom(4), 3)])
def test_small_images_are_refused(change: PseudoOOD, side: int) -> None:
    assert change.smallest == side + 1
    with pytest.raises(ValueError, match=r"^expected .*; "):
        change(images((1, side, side)), torch.arange(12))
    change(images((1, side + 1, side + 1)), torch.arange(12))


@pytest.mark.parametrize("build", [
    lambda: Blur(4), lambda: Blur(1), lambda: Zoom(1), lambda: Noise(0), lambda: Noise(2),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(build: type[PseudoOOD]) -> None:
    with pytest.raises(ValueError, match=r"^expected .*; .* is usual$"):
        build()

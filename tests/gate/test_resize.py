"""The resize in torch against Pillow's own, byte by byte."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from src.data.decoding import resized
from src.gate.resize import Resize

side = st.integers(1, 200)


def assert_equals_pillow(
    width: int, height: int, size: int, short_side: int | None, channels: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    picture = Image.fromarray(image.squeeze(2) if channels == 1 else image)
    expected = np.asarray(resized(picture, size, short_side)).reshape(size, size, channels)
    found = Resize(size, short_side)(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
    assert found.dtype == torch.uint8
    assert np.array_equal(found[0].numpy(), expected.transpose(2, 0, 1))


@settings(max_examples=300, deadline=None)
@given(side, side, st.integers(1, 64), st.sampled_from([1, 3]), st.integers(0, 99))
@example(28, 28, 28, 1, 0)  # nothing to do
@example(28, 100, 24, 1, 0)  # loses far more rows than columns: Pillow's other order
@example(27, 29, 28, 3, 0)  # grows along x, shrinks along y
@example(1, 1, 8, 3, 0)
def test_a_squashed_image_has_the_bytes_of_pillow(
    width: int, height: int, size: int, channels: int, seed: int
) -> None:
    assert_equals_pillow(width, height, size, None, channels, seed)


@settings(max_examples=300, deadline=None)
@given(side, side, st.integers(1, 64), st.integers(1, 80), st.integers(0, 99))
@example(100, 30, 28, 32, 0)
@example(31, 33, 28, 28, 0)
@example(40, 40, 28, 20, 0)  # the crop is larger than the image: a black border
@example(30, 30, 25, 30, 0)  # the crop begins between two pixels: the even one
@example(30, 120, 24, 28, 0)
def test_a_cropped_image_has_the_bytes_of_pillow(
    width: int, height: int, size: int, short_side: int, seed: int
) -> None:
    assert_equals_pillow(width, height, size, short_side, 3, seed)


@pytest.mark.parametrize("shape", [(3000, 1), (1, 3000), (2999, 7), (7, 2999), (1600, 1200)])
@pytest.mark.parametrize("short_side", [None, 32])
def test_large_and_thin_images_have_the_bytes_of_pillow(
    shape: tuple[int, int], short_side: int | None
) -> None:
    assert_equals_pillow(*shape, 28, short_side, 1, 0)


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_an_even_image_stays_even(value: int) -> None:
    image = torch.full((2, 3, 997, 13), value, dtype=torch.uint8)
    assert Resize(24)(image).unique().tolist() == [value]


def test_an_image_does_not_depend_on_its_batch() -> None:
    image = torch.randint(256, (5, 3, 41, 67), dtype=torch.uint8)
    resize = Resize(24, 28)
    assert torch.cat([resize(each[None]) for each in image]).equal(resize(image))

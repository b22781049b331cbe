"""One path from every form of an image to the pixels that the network was trained on."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.data import ImageFolder
from src.data.decoding import View
from src.gate import Picture

PICTURE = Picture((3, 20, 20))


def photo(mode: str = "RGB", size: tuple[int, int] = (50, 37)) -> Image.Image:
    value = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    picture = Image.fromarray(value)
    if mode == "I;16":
        return Image.fromarray(value[..., 0].astype(np.uint16) * 257)
    return picture.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "png"), ("L", "png"), ("P", "png"), ("RGBA", "png"), ("LA", "png"), ("1", "png"),
     ("I;16", "png"), ("CMYK", "jpg"), ("RGB", "jpg"), ("RGB", "webp"), ("RGB", "bmp")],
)  # fmt: skip
def test_every_form_gives_the_pixels_of_the_data_module(
    mode: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / "set" / f"photo.{suffix}"
    path.parent.mkdir()
    picture = photo(mode)
    exif = picture.getexif()
    exif[0x0112] = 6  # EXIF orientation: turned
    picture.save(path, exif=exif.tobytes())
    expected = ImageFolder(path.parent, 20, labelled=False).load().image[0].float() / 255
    forms = [path, str(path), path.read_bytes(), Image.open(path), memoryview(path.read_bytes())]
    for form in forms:
        assert torch.equal(PICTURE(form), expected)  # type: ignore[arg-type]


def test_arrays_and_tensors_of_pixels_are_pictures() -> None:
    picture = photo()
    expected = PICTURE(picture)
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).movedim(2, 0)
    for form in (array, tensor):
        assert torch.equal(PICTURE(form), expected)
    grey = np.asarray(photo("L"))
    assert torch.equal(PICTURE(grey), PICTURE(photo("L")))
    assert torch.equal(PICTURE(torch.from_numpy(grey.copy())[None]), PICTURE(photo("L")))
    deep = np.asarray(photo("I;16"))
    assert torch.equal(PICTURE(deep), PICTURE(photo("I;16")))


def test_floats_of_the_networks_size_are_taken_as_they_are() -> None:
    image = torch.rand(3, 20, 20, dtype=torch.float64)
    assert torch.equal(PICTURE(image), image.float())
    assert torch.equal(PICTURE(image.movedim(0, 2).numpy()), image.float())


def test_a_network_of_one_channel_sees_the_luma() -> None:
    seen = Picture((1, 50, 50))(photo(size=(50, 50)))
    assert torch.equal(seen[0] * 255, torch.from_numpy(np.array(photo("L", (50, 50)))).float())


def test_the_short_side_is_resized_and_the_centre_cropped_as_in_training() -> None:
    view = View(20, 24)
    picture = Picture.of((3, 20, 20), view)
    assert torch.equal(picture(photo()), torch.from_numpy(view(photo()).copy()).float() / 255)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (torch.rand(3, 20, 21), "expected a uint8 image"),
        (torch.rand(20, 20), "expected a uint8 image"),
        (torch.zeros(5, 20, 20, dtype=torch.uint8), "expected a uint8 image"),
        (torch.zeros(3, 20, 20, dtype=torch.int64), "got int64"),
        (torch.full((3, 20, 20), torch.nan), "within [0, 1], got nan"),
        (torch.full((3, 20, 20), 255.0), "divide by 255"),
        (torch.full((3, 20, 20), -0.1), "within [0, 1]"),
        (np.zeros((2, 20, 20, 3, 1), np.uint8), "expected an array (H, W, C) or (H, W)"),
        (np.zeros((20, 20, 3), np.int32), "got int32"),
        (np.full((20, 20), "x"), "of numbers, got <U1"),
        (np.zeros((20, 20), complex), "of numbers, got complex128"),
        (3, "got int; convert it"),
        (None, "got NoneType"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(image: object, says: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011, the text is compared below
        PICTURE(image)  # type: ignore[arg-type]
    assert says in str(refused.value)


def test_a_file_that_is_no_picture_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot identify image file"):
        PICTURE(b"<svg></svg>")
    with pytest.raises(FileNotFoundError):
        PICTURE(tmp_path / "missing.png")
    file = BytesIO()
    photo("1").save(file, "PNG")
    with pytest.raises(ValueError, match="expected at most 1000 pixels, got 50 x 37"):
        Picture((3, 20, 20), max_pixels=1000)(file.getvalue())


def test_a_network_whose_images_are_no_pictures_takes_tensors_alone() -> None:
    odd = Picture((5, 20, 30))
    assert odd(torch.rand(5, 20, 30)).shape == (5, 20, 30)
    with pytest.raises(ValueError, match="give tensors of that shape"):
        odd(photo())

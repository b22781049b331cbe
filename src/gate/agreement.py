"""Compares what an exported gate says with what the gate itself says, on the same bytes."""

__all__ = ["Agreement", "agreement", "other_sizes", "trial_images"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from src.gate.gate import Gate

BATCHES = (1, 7, 64)
RANDOM = 256  # images, where there are no real ones
TIE = 1e-3  # of a standard deviation of the calibration scores; of a probability
Said = Mapping[str, NDArray[Any]]  # name of an output -> (B,)


@dataclass(frozen=True)
class Agreement:
    """How an exported gate and the gate itself decide on the same images.

    Runtimes sum in float32 in another order, so that the last bits of a score differ. An image
    whose score lies on the threshold within that noise is a tie. It can fall on either side, as it
    can in the gate itself on other hardware. This counts as agreement; all else does not.

    Attributes:
        images: Number of images.
        differing: Number of images with another decision or label that are no ties.
        ties: Number of images with another decision or label whose score moved by less than a
            thousandth of the calibration scores' standard deviation, or whose probability moved
            by less than a thousandth.
        score: Largest difference of a score.
        p_value: Largest difference of a p-value.
    """

    images: int
    differing: int
    ties: int
    score: float
    p_value: float

    def __str__(self) -> str:
        """Returns it as a sentence."""
        return (
            f"{self.images} images compared with the gate: {self.differing} decided or classified "
            f"differently, and {self.ties} ties; largest difference of score {self.score:.2g}, of "
            f"p-value {self.p_value:.2g}"
        )


def agreement(
    gate: Gate, run: Callable[[NDArray[np.uint8]], Said], images: Sequence[Tensor]
) -> Agreement:
    """Compares on images, in batches of 1, 7 and 64.

    Args:
        gate: Gate.
        run: The exported gate: (B, C, H, W) uint8 pixels -> outputs.
        images: Sets of (n, C, H, W) uint8 images, each set of a size of its own.
    """
    spread = float(gate.calibration.known.std(correction=0))
    pairs = [(_expected(gate, batch), run(batch.numpy())) for batch in _batches(images)]
    differing = ties = 0
    for expected, found in pairs:
        differs = expected["is_ood"] != found["is_ood"]
        ties_here = _moved(expected, found, "score") <= TIE * spread
        outside = differs & ~ties_here
        if "label" in found:
            relabelled = expected["label"] != found["label"]
            differs |= relabelled
            outside |= relabelled & (_moved(expected, found, "probability") > TIE)
        differing += int(outside.sum())
        ties += int((differs & ~outside).sum())
    return Agreement(
        sum(len(found["score"]) for _, found in pairs),
        differing,
        ties,
        *(
            max(float(_moved(*each, name).max()) for each in pairs)
            for name in ("score", "p_value")
        ),
    )


def _batches(images: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yields every image once, in batches of 1, 7 and 64 in turn."""
    for each in images:
        first, sizes = 0, cycle(BATCHES)
        while first < len(each):
            size = next(sizes)
            yield each[first : first + size]
            first += size


def _expected(gate: Gate, image: Tensor) -> Said:
    pixels = torch.stack([gate.picture(each) for each in image]).to(gate.device)
    judged = gate.judge(pixels)._asdict()
    return {name: value.cpu().numpy() for name, value in judged.items()}


def _moved(expected: Said, found: Said, name: str) -> NDArray[np.float64]:
    """Returns the (B,) differences of an output, 0 where both are NaN."""
    both = np.isnan(expected[name]) & np.isnan(found[name])
    difference = np.abs(expected[name].astype(np.float64) - found[name])
    return np.where(both, 0.0, difference)


def trial_images(gate: Gate) -> Tensor:
    """Returns (n, C, S, S) uint8 images to compare on where there is no data: soft random ones.

    Half of them are coarse, as photographs are, and half are noise; contrasts vary.
    """
    generator = torch.Generator().manual_seed(0)
    channels, *sides = gate.picture.shape
    coarse = torch.rand(RANDOM // 2, channels, 5, 5, generator=generator)
    coarse = F.interpolate(coarse, sides, mode="bicubic").clamp(0, 1)
    noise = torch.rand(RANDOM // 2, channels, *sides, generator=generator)
    image = torch.cat([coarse, noise])
    contrast = torch.rand(len(image), 1, 1, 1, generator=generator)
    return (255 * contrast * image).round().to(torch.uint8)


def other_sizes(image: Tensor) -> list[Tensor]:
    """Returns some of (n, C, H, W) uint8 images enlarged, shrunk and stretched."""
    height, width = image.shape[2:]
    sizes = [
        (2 * height, 3 * width),
        (5 * height + 1, width),
        (height // 2 + 1, 4 * width // 3 + 1),
    ]
    return [
        F.interpolate(image[start:128:3].float(), size, mode="nearest").to(torch.uint8)
        for start, size in enumerate(sizes)
        if len(image) > start
    ]

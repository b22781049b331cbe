"""Decides about many images: a pool of threads decodes ahead of the network."""

__all__ = ["check_pictures", "decide", "device_of", "missing_batches"]

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from src.data.decoding import threads_for
from src.data.names import readable
from src.data.opening import FORMATS
from src.gate.gate import Gate, Verdict
from src.gate.inputs import Images
from src.gate.rows import Row
from src.records.literal import one_line

AHEAD = 2  # batches that are decoded while the network works
LONGEST = 300  # characters of an error
Pixels = NDArray[np.uint8]


def device_of(asked: str, number: int = 0) -> torch.device:
    """Returns the device that a name means.

    Args:
        asked: "auto", "cpu" or "cuda"; "auto" is a GPU if there is one.
        number: Number of the GPU.

    Raises:
        ValueError: If it is another name, or there is no GPU.
    """
    has_gpu = torch.cuda.is_available()
    if asked not in ("auto", "cpu", "cuda") or (asked == "cuda" and not has_gpu):
        raise ValueError(
            f"expected device=auto, cpu or cuda, got {asked}"
            + (", but there is no GPU" if asked == "cuda" else "")
            + "; set device=auto"
        )
    if asked == "cpu" or not has_gpu:
        return torch.device("cpu")
    return torch.device("cuda", number % torch.cuda.device_count())


def check_pictures(gate: Gate) -> None:
    """Refuses a gate that reads no pictures.

    Raises:
        ValueError: If its network takes other images than square ones in grey or RGB.
    """
    gate.picture.pixels(Image.new("RGB", (8, 8)))


def missing_batches(names: Sequence[str], kept: Collection[str], size: int) -> list[range]:
    """Returns the batches of which a row is missing, as rows of `names`.

    Batches are cut from the whole, whatever is kept: an image is always in the company of the
    same others, on which the last bits of its score may depend.
    """
    starts = range(0, len(names), size)
    batches = [range(start, min(start + size, len(names))) for start in starts]
    return [rows for rows in batches if any(names[row] not in kept for row in rows)]


def decide(
    gate: Gate, images: Images, batches: Sequence[range], *, classify: bool = True
) -> Iterator[list[Row]]:
    """Yields the rows of each batch, in order; a broken image has an error in place of a verdict.

    Args:
        gate: Gate, on the device on which it works.
        images: Images.
        batches: Rows of the images, batch by batch.
        classify: Whether to tell the class.

    Raises:
        ValueError: If the device has no memory for a batch.
    """
    for rows, decoded in _decoded(gate, images, batches):
        found = dict(zip(rows, decoded, strict=True))
        pixels = [each for each in decoded if not isinstance(each, str)]
        verdicts = iter(_verdicts(gate, pixels, classify=classify) if pixels else ())
        yield [
            Row(images.names[row], error=each)
            if isinstance(each, str)
            else Row.of(images.names[row], next(verdicts))
            for row, each in found.items()
        ]


def _verdicts(gate: Gate, pixels: Sequence[Pixels], *, classify: bool) -> list[Verdict]:
    image = torch.from_numpy(np.stack(pixels)).to(gate.device).float().div_(255)
    try:
        return gate.verdicts(gate.judge(image, classify=classify), classify=classify)
    except torch.OutOfMemoryError:
        raise ValueError(
            f"expected a batch that fits into the memory of {gate.device}, got {len(pixels)} "
            "images; lower batch_size"
        ) from None


def _decoded(
    gate: Gate, images: Images, batches: Iterable[range]
) -> Iterator[tuple[range, list[Pixels | str]]]:
    """Yields each batch with (C, H, W) pixels of an image, or what is wrong with it."""
    picture = gate.picture
    threads = threads_for(lambda row: images.open(row, picture.max_pixels), len(images))

    def decode(row: int) -> Pixels | str:
        try:
            with images.open(row, picture.max_pixels) as opened:
                return picture.pixels(opened)
        except Exception as error:  # decoders raise many types, which all mean a broken file
            return _said(error)

    waiting: deque[tuple[range, list[Future[Pixels | str]]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for rows in batches:
            waiting.append((rows, [pool.submit(decode, row) for row in rows]))
            if len(waiting) > AHEAD:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(
    rows: range, decoded: Iterable[Future[Pixels | str]]
) -> tuple[range, list[Pixels | str]]:
    return rows, [each.result() for each in decoded]


def _said(error: Exception) -> str:
    """Returns what is wrong with a file, in the same words each time."""
    if isinstance(error, UnidentifiedImageError):  # Pillow tells an address in memory
        return f"it is no picture of the formats {', '.join(FORMATS)}, or damaged"
    system = error.strerror if isinstance(error, OSError) else None
    text = system or str(error) or type(error).__name__
    return readable(one_line(text))[:LONGEST]

"""The worker: decodes the images of the requests that wait, and decides about them together."""

__all__ = ["GateAPI", "Row", "Task"]

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

import torch
from litserve import LitAPI
from litserve.loops.simple_loops import BatchedLoop
from litserve.specs.base import LitSpec
from litserve.transport.base import MessageTransport
from PIL import UnidentifiedImageError
from torch import Tensor

from src.gate import Gate, Picture, Verdict
from src.gate.heat import deciding_block, heat, heat_maps, photo
from src.service.orphans import end_with_parent

WORDS = 200  # characters of a decoder's complaint that are repeated


class Task(NamedTuple):
    """What the front door sends to a worker."""

    images: tuple[bytes, ...]  # files of a stranger
    draw: bool  # whether to draw the images and their activation


@dataclass(frozen=True)
class Row:
    """What a worker says of one image."""

    error: str | None = None  # one sentence; if there is one, all else is None
    label: str | None = None
    probability: float | None = None  # None also if it is not finite, as JSON has no word for it
    score: float | None = None  # likewise
    p_value: float | None = None
    photo: str | None = None  # data URLs, if asked for
    heat: str | None = None
    block: str | None = None  # whose activation is drawn


class WaitingLoop(BatchedLoop):
    """Sleeps until a request comes, then takes all that wait, up to a full batch.

    LitServe's own loop waits for the whole time of a batch even if one request is alone, and asks
    a thousand times a second if there is none. Here a request that is alone is answered at once,
    and those that come meanwhile make the next batch.
    """

    def get_batch_requests(
        self, lit_api: LitAPI, request_queue: Queue, transport: MessageTransport
    ) -> tuple[list, list]:
        """Returns the requests of a batch, and those that nobody waits for any more."""
        item = self.get_request(request_queue, timeout=1.0)
        batch: list[Any] = []
        late: list[Any] = []
        while item is not None:
            consumer, uid, asked_at, task = item
            if time.monotonic() - asked_at > lit_api.request_timeout:
                late.append((consumer, uid))
            else:
                batch.append((consumer, uid, task))
            if len(batch) >= lit_api.max_batch_size:
                break
            try:
                item = request_queue.get_nowait()
            except Empty:
                break
        return batch, late


class GateAPI(LitAPI):
    """Decides about images with the gate of a file.

    Args:
        path: File of `src.deploy`.
        spec: The front door.
        max_pixels: Largest number of pixels of an image.
        batch: Largest number of requests that are answered together, and of images that the
            network sees at once.
        threads: Threads of each worker.
        trust: Whether the file may name classes of any package.
    """

    def __init__(
        self, path: Path, spec: LitSpec, *, max_pixels: int, batch: int, threads: int, trust: bool
    ) -> None:
        super().__init__(max_batch_size=batch, spec=spec, loop=WaitingLoop())
        self.path, self.max_pixels = path, max_pixels
        self.threads, self.trust = threads, trust

    def setup(self, device: str) -> None:
        """Loads the gate on a device. The worker ends with its server, not before."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the server ends them
        end_with_parent()
        torch.set_num_threads(self.threads)
        self.gate = Gate.load(self.path, trust=self.trust).to(device)
        picture = self.gate.picture
        self.picture = replace(picture, max_pixels=min(picture.max_pixels, self.max_pixels))

    def decode_request(self, request: Task) -> tuple[list[Tensor | str], bool]:
        """Returns (C, H, W) pixels of each image, or what is wrong with it."""
        return [decoded(self.picture, content) for content in request.images], request.draw

    def predict(self, tasks: Sequence[tuple[list[Tensor | str], bool]]) -> list[list[Row]]:
        """Returns a row of each image of each request; a broken image fails alone."""
        pixels = [each for images, _ in tasks for each in images if isinstance(each, Tensor)]
        verdicts = iter(self.verdicts(pixels))
        rows: list[list[Row]] = []
        for images, draw in tasks:
            of_task = [
                Row(error=each) if isinstance(each, str) else described(next(verdicts))
                for each in images
            ]
            rows.append(self.drawn(images, of_task) if draw else of_task)
        return rows

    def encode_response(self, output: list[Row]) -> list[Row]:
        """Returns the rows as they are: the front door writes them."""
        return output

    def verdicts(self, pixels: Sequence[Tensor]) -> list[Verdict]:
        """Returns the verdict about each image."""
        found: list[Verdict] = []
        for first in range(0, len(pixels), self.max_batch_size):
            part = torch.stack([*pixels[first : first + self.max_batch_size]])
            found += self.gate.verdicts(self.gate.judge(part.to(self.gate.device)))
        return found

    def drawn(self, images: Sequence[Tensor | str], rows: Sequence[Row]) -> list[Row]:
        """Returns the rows with images and activation; each heat map has its own scale."""
        seen = [(each * 255).round().byte().numpy() for each in images if isinstance(each, Tensor)]
        block = deciding_block(self.gate)
        maps = iter(zip(seen, heat_maps(self.gate, seen, block), strict=True))
        drawn: list[Row] = []
        for row in rows:
            if row.error is None:
                pixels, values = next(maps)
                scale = float(values.max()) or 1.0
                row = replace(row, photo=photo(pixels), heat=heat(values / scale), block=block)
            drawn.append(row)
        return drawn


def decoded(picture: Picture, content: bytes) -> Tensor | str:
    """Returns the pixels of a file's bytes, or one sentence that says what is wrong with them."""
    if not content:
        return "expected the bytes of a picture, got none"
    try:
        return picture(content)
    except UnidentifiedImageError:
        return "expected a picture in JPEG, PNG, BMP, WebP, PPM, TIFF or GIF, got none of these"
    except Exception as error:  # decoders raise many types, which all mean a broken file
        words = " ".join(str(error).split())[:WORDS] or type(error).__name__
        if words.startswith("expected"):
            return words
        return f"expected a picture that can be decoded, got one that is broken: {words}"


def described(verdict: Verdict) -> Row:
    """Returns what is said of an image, in numbers that JSON has words for."""
    probability, score = verdict.probability, verdict.score
    return Row(
        label=verdict.label,
        probability=probability if probability is not None and isfinite(probability) else None,
        score=score if isfinite(score) else None,
        p_value=verdict.p_value,
    )

"""The blocks of a network: which modules they are, and how to read their outputs."""

__all__ = ["Place", "find_blocks", "propose_blocks"]

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from src.network.tracing import Call


@dataclass(frozen=True)
class Place:
    """How the output of a block is read as a feature map (B, C, H, W).

    Attributes:
        layout: "channels_first" (B, C, H, W), "channels_last" (B, H, W, C), or "tokens" (B, N, C),
            where tokens take the role of positions.
        shape: (C, H, W) of the map; (C, N, 1) of tokens.
        stride: Image pixels per position; rounded to a power of two if the sides do not divide.
        class_tokens: Number of leading tokens that represent no part of the image; left out.
        overwritten: Whether a later in-place operation of the network overwrites the output.

    Differs:
        The paper uses convolutional networks only; the other two layouts are additions.
    """

    layout: str
    shape: tuple[int, int, int]
    stride: int
    class_tokens: int = 0
    overwritten: bool = False

    def feature_map(self, output: Tensor) -> Tensor:
        """Returns the output as a (B, C, H, W) view."""
        if self.layout == "channels_last":
            return output.movedim(3, 1)
        if self.layout == "tokens":
            return output[:, self.class_tokens :].mT.unsqueeze(3)
        return output


def find_blocks(
    root: Call, blocks: str | Sequence[str], image_shape: Sequence[int]
) -> dict[str, Place]:
    """Returns the blocks in execution order, each with the layout of its output.

    Args:
        root: Trace of the network.
        blocks: Regular expression that must match whole module paths, or a list of paths.
        image_shape: (C, H, W) of the images that were traced.

    Raises:
        ValueError: If the list is empty, nothing matches, a listed path does not exist, or a
            block does not run exactly once or does not return a feature map.
    """
    net = root.module
    paths = [path for path, _ in net.named_modules() if path]
    wanted = [blocks] if isinstance(blocks, str) else list(blocks)
    if not wanted:
        raise ValueError("expected blocks, got an empty list; name some, or null to find them")
    if isinstance(blocks, str):
        try:
            found = [path for path in paths if re.fullmatch(blocks, path)]
        except re.error as error:
            raise ValueError(
                f"expected blocks to be a regular expression over module paths, got {blocks!r}: "
                f"{error}; correct it, or give a list of paths"
            ) from error
    else:
        found = [path for path in wanted if path in paths]
    if not found or len(found) < len(wanted):
        wrong = next(path for path in wanted if path not in found)
        raise ValueError(
            f"expected modules of {type(net).__name__} as blocks, got {wrong!r}; "
            f"near it are {', '.join(get_close_matches(wrong, paths, n=5, cutoff=0))}"
        )
    calls = [call for call in root if call.path in found]
    order = [call.path for call in calls]
    for path in found:
        if order.count(path) != 1:
            raise ValueError(
                f"expected block {path!r} to run once in a forward pass, it ran "
                f"{order.count(path)} times; choose another module"
            )
    return {call.path: _checked_place(call, image_shape) for call in calls}


def propose_blocks(root: Call, image_shape: Sequence[int]) -> list[str]:
    """Returns the paths of modules that are suitable blocks, in execution order.

    These are the outermost modules that return a map and do more than run others in sequence (a
    residual sum, a concatenation). After the first of them, or in a network without any, each
    convolution with its normalisation and activation is a block too, named by the last of these.

    Raises:
        ValueError: If no suitable module is found.
    """
    count: dict[str, int] = {}
    joining: set[type[nn.Module]] = set()  # one instance that does more is enough
    for call in root:
        count[call.path] = count.get(call.path, 0) + 1
        if not _is_leaf(call) and not call.chains:
            joining.add(type(call.module))

    def is_map(call: Call) -> bool:
        place = _place(call.output, image_shape)
        return place is not None and math.prod(place.shape[1:]) > 1 and count[call.path] == 1

    def steps(call: Call) -> Iterator[Call]:
        for inner in call.inside:
            if _is_leaf(inner) or (type(inner.module) in joining and is_map(inner)):
                yield inner
            else:
                yield from steps(inner)

    def choose(call: Call) -> list[str]:
        found = list(steps(call))
        joined = [step for step in found if not _is_leaf(step)]
        if len(joined) == 1 and len(within := choose(joined[0])) > 1:
            return within  # a network within the network
        plain = [
            run[-1] for run in _runs(found[found.index(joined[0]) :] if joined else found, is_map)
        ]
        activated = [step for step in plain if not isinstance(step.module, nn.Conv2d)]
        chosen = joined + activated or plain
        return [step.path for step in found if step in chosen and is_map(step)]

    blocks = choose(root)
    if not blocks:
        raise ValueError(
            f"expected {type(root.module).__name__} to have blocks that can be found, got none; "
            "name them: blocks: <regular expression over module paths, or list>"
        )
    return blocks


def _runs(steps: Sequence[Call], is_map: Callable[[Call], bool]) -> Iterator[list[Call]]:
    """Yields each convolution with the leaves after it that keep the shape of its map."""
    run: list[Call] = []
    for call in steps:
        convolves = isinstance(call.module, nn.Conv2d)
        continues = (
            bool(run)
            and not convolves
            and _is_leaf(call)
            and is_map(call)
            and call.takes_what(run[-1])
            and call.output[0].shape == run[-1].output[0].shape
        )
        if continues:
            run.append(call)
            continue
        if run:
            yield run
        run = [call] if convolves else []
    if run:
        yield run


def _is_leaf(call: Call) -> bool:
    """Whether nothing inside the call can be a block; a convolution may contain its padding."""
    return not call.inside or isinstance(call.module, nn.Conv2d)


def _checked_place(call: Call, image_shape: Sequence[int]) -> Place:
    place = _place(call.output, image_shape)
    if place is None:
        output = call.output[0]
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"expected block {call.path!r} to return a feature map (B, C, H, W), (B, H, W, C) or "
            f"(B, tokens, C), got {given}; choose another module"
        )
    return place


def _place(output: tuple[Any, int], image_shape: Sequence[int]) -> Place | None:
    """Returns the layout of an output whose sides have the ratio of the image, else None."""
    tensor, version = output
    if not isinstance(tensor, Tensor) or tensor.dim() not in (3, 4) or len(tensor) != 2:
        return None
    overwritten = tensor._version != version
    _, height, width = image_shape
    if tensor.dim() == 3:
        _, tokens, channels = tensor.shape
        positions = _largest_grid(tokens, height, width)
        stride = _stride(math.sqrt(height * width / positions))
        shape = (channels, positions, 1)
        return Place("tokens", shape, stride, tokens - positions, overwritten)
    _, first, second, third = tensor.shape
    if first * width == second * height and second * width != third * height:
        stride, shape = _stride(height / first), (third, first, second)
        return Place("channels_last", shape, stride, 0, overwritten)
    stride, shape = _stride(height / second), (first, second, third)
    return Place("channels_first", shape, stride, 0, overwritten)


def _largest_grid(tokens: int, height: int, width: int) -> int:
    """Returns the size of the largest token grid with the aspect ratio of the image."""
    ratio = Fraction(height, width)
    scale = math.isqrt(tokens // (ratio.numerator * ratio.denominator))
    return scale**2 * ratio.numerator * ratio.denominator or tokens


def _stride(ratio: float) -> int:
    return round(ratio) if ratio.is_integer() else 2 ** max(0, round(math.log2(ratio)))

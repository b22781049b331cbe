"""What one run of a network tells: its head, its classes and its blocks."""

__all__ = ["Anatomy", "dry_run"]

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from src.network.blocks import Place, find_blocks, propose_blocks
from src.network.head import call_of_head, find_head, is_linear
from src.network.tracing import Call, in_mode, trace


class Anatomy(NamedTuple):
    """The parts of a network, as found by a dry run."""

    head_path: str  # in `net`
    head_is_linear: bool
    num_classes: int
    places: dict[str, Place]  # path of each block in `net`, in execution order


def dry_run(
    network: nn.Module,
    net: nn.Module,
    image_shape: tuple[int, ...],
    blocks: str | Sequence[str] | None,
    device: torch.device,
) -> Anatomy:
    """Finds head and blocks; the network's state and torch's random state do not change.

    Args:
        network: Module that normalises images and passes them to `net`.
        net: Classifier in which head and blocks are named.
        image_shape: (C, H, W) of the images.
        blocks: Regular expression over module paths, a list of paths, or None for
            `propose_blocks`.
        device: Device of the network.

    Raises:
        ValueError: See `Network`.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, *image_shape, generator=generator, device="cpu").to(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        with in_mode(net, training=False):
            root, logits = _traced(network, net, image, training=False)
            head = find_head(root, logits)
            head_is_linear = is_linear(head.module, head.inputs[0][0])
        paths = propose_blocks(root, image_shape) if blocks is None else blocks
        places = find_blocks(root, paths, image_shape)
        _check_training(network, net, image, head.path, logits.shape)
    return Anatomy(head.path, head_is_linear, logits.shape[1], places)


def _traced(
    network: nn.Module, net: nn.Module, image: Tensor, *, training: bool
) -> tuple[Call, Any]:
    """Runs the network once, while training with copies of its buffers."""
    state = {name: b.clone() for name, b in network.named_buffers()} if training else {}
    when, advice = "", "correct image_shape, or choose another net"
    if training:
        when, advice = " while training", "switch off what it adds then, or choose another net"
    try:
        return trace(net, lambda: functional_call(network, state, (image,)), training=training)
    except Exception as error:  # a net can raise anything
        raise ValueError(
            f"expected a {type(net).__name__} that takes images of image_shape "
            f"{tuple(image.shape[1:])}{when}, got {type(error).__name__}: {error}; {advice}"
        ) from error


def _check_training(
    network: nn.Module, net: nn.Module, image: Tensor, head_path: str, shape: torch.Size
) -> None:
    """Checks that training mode gives logits too, those of the head if it returns more."""
    root, logits = _traced(network, net, image, training=True)
    fits = isinstance(logits, Tensor) and logits.shape == shape
    if fits and logits is not root.output[0]:
        head = call_of_head(root, logits)
        fits = head is not None and head.path == head_path
    if not fits:
        raise ValueError(
            f"expected a {type(net).__name__} that returns the logits {tuple(shape)} of "
            f"{head_path!r} while training too, got a {type(root.output[0]).__name__} "
            "that has none in the first place; switch off what it adds then, or wrap it"
        )

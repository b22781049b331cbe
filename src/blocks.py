"""Places in a network: finding them by module path, tapping them, trying them out."""

__all__ = ["dry_run", "find_blocks", "find_head", "tap"]

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def tap(
    net: nn.Module, paths: Sequence[str], read: Callable[[tuple[Any, ...], Any], Any]
) -> Iterator[dict[str, Any]]:
    """Opens hooks on modules: the yielded dict maps each path to what was read at its last call.

    Args:
        net: any module.
        paths: dotted module paths in `net`.
        read: called as `read(inputs, output)` the moment a module returns, so that what it
            computes cannot be spoilt by a later in-place operation.
    """
    taken: dict[str, Any] = {}

    def hook_of(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            taken[path] = read(inputs, output)

        return hook

    modules = {path: net.get_submodule(path) for path in paths}  # all exist, or no hook is opened
    handles = [module.register_forward_hook(hook_of(path)) for path, module in modules.items()]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def find_blocks(net: nn.Module, blocks: str | Sequence[str]) -> tuple[str, ...]:
    """Returns module paths: those that fully match a regular expression, or a list, checked.

    Raises:
        ValueError: if nothing matches, or a listed path does not exist.
    """
    paths = [path for path, _ in net.named_modules() if path]
    wanted = [blocks] if isinstance(blocks, str) else list(blocks)
    if isinstance(blocks, str):
        found = [path for path in paths if re.fullmatch(blocks, path)]
    else:
        found = [path for path in wanted if path in paths]
    if not found or len(found) < len(wanted):
        wrong = next((path for path in wanted if path not in found), "none")
        raise ValueError(
            f"expected modules of {type(net).__name__} as blocks, got {wrong!r}; "
            f"near it are {', '.join(get_close_matches(wrong, paths, n=5, cutoff=0))}"
        )
    return tuple(found)


def find_head(net: nn.Module) -> str:
    """Returns the path of the last `nn.Linear`.

    Raises:
        ValueError: if there is none.
    """
    linear: list[str] = [
        path for path, module in net.named_modules() if isinstance(module, nn.Linear)
    ]
    if not linear:
        raise ValueError(
            f"expected a network that ends in nn.Linear, got {type(net).__name__} without one; "
            "add a linear head"
        )
    return linear[-1]


@torch.no_grad()
def dry_run(
    net: nn.Module, blocks: Sequence[str], head: str, forward: Callable[[], Tensor]
) -> tuple[tuple[str, ...], Tensor]:
    """Runs `forward` once in evaluation mode and checks what `Network` promises of `net`.

    Args:
        net: the network; its modes and its BatchNorm statistics stay as they are.
        blocks: candidate blocks.
        head: path of the last linear layer.
        forward: runs `net` on some image and returns the logits.

    Returns:
        The blocks in execution order, and the logits.

    Raises:
        ValueError: if a block does not run exactly once, does not return a feature map or is
            overwritten by a later in-place operation, or if the head does not return the logits.
    """
    with (
        _evaluating(net),
        _watching(net, blocks) as order,
        tap(net, [head], lambda _, output: output) as last,
    ):
        logits = forward()
    for block in blocks:
        if order.count(block) != 1:
            raise ValueError(
                f"expected block {block!r} to run once in a forward pass, it ran "
                f"{order.count(block)} times; choose another module"
            )
    if head not in last or not torch.equal(last[head], logits):
        raise ValueError(
            f"expected the last linear layer {head!r} to return the logits, it does not; "
            "wrap the network so that its head comes last"
        )
    return tuple(order), logits


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in net.modules()}  # some may be frozen
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _watching(net: nn.Module, blocks: Sequence[str]) -> Iterator[list[str]]:
    """Yields the blocks that have run; raises as soon as one's output is no map or overwritten."""
    paths = {module: path for path, module in net.named_modules()}
    order: list[str] = []
    outputs: list[tuple[Tensor, int]] = []

    def watch(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        path = paths[module]
        for block, (seen, version) in zip(order, outputs, strict=True):
            if seen._version != version:  # torch counts the in-place operations on a tensor
                raise ValueError(
                    f"expected the output of block {block!r} to stay as it is, but {path!r} "
                    f"overwrites it in place; use {path!r} as the block, or set inplace=False "
                    "there"
                )
        if path in blocks:
            _check_map(path, output)
            order.append(path)
            outputs.append((output, output._version))

    handles = [module.register_forward_hook(watch) for module in net.modules()]
    try:
        yield order
    finally:
        for handle in handles:
            handle.remove()


def _check_map(block: str, output: Any) -> None:
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.dim() != 4:
        raise ValueError(
            f"expected block {block!r} to return a feature map (B, C, H, W), got {shape}; "
            "choose a convolutional block"
        )

"""Observing a forward pass: hooks on some modules, or a record of all module calls."""

__all__ = ["Call", "in_mode", "tap", "trace"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def tap(
    net: nn.Module, read: Mapping[str, Callable[[tuple[Any, ...], Any], Any]]
) -> Iterator[dict[str, Any]]:
    """Opens hooks on modules; the yielded dict maps each path to the result of its last call.

    Args:
        net: Module that contains the others.
        read: Dotted module path in `net` -> function of (inputs, output). It is called as soon as
            the module returns, before any later in-place operation can change the output.
    """
    taken: dict[str, Any] = {}

    def hook_of(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            taken[path] = read[path](inputs, output)

        return hook

    modules = {path: net.get_submodule(path) for path in read}  # all exist, or no hook is opened
    handles = [module.register_forward_hook(hook_of(path)) for path, module in modules.items()]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


@dataclass(eq=False)
class Call:
    """One call of a module in a forward pass.

    Attributes:
        path: Path of the module; "" for the network itself.
        module: Module that was called.
        inputs: Positional inputs that are tensors, each with its version.
        output: Returned value with its version: torch counts the in-place operations on a tensor,
            so (tensor, version) identifies one state of its values.
        inside: Calls that it made, in order.
    """

    path: str
    module: nn.Module
    inputs: list[tuple[Tensor, int]]
    output: tuple[Any, int] = (None, 0)
    inside: list["Call"] = field(default_factory=list)

    def __iter__(self) -> Iterator["Call"]:
        """Yields all calls inside it and then itself, in the order in which they returned."""
        for call in self.inside:
            yield from call
        yield self

    def takes_what(self, other: "Call") -> bool:
        """Whether an input is the output of `other`, unchanged since."""
        tensor, version = other.output
        return any(tensor is given and version == seen for given, seen in self.inputs)

    @property
    def chains(self) -> bool:
        """Whether it only runs modules in sequence and returns the output of the last one."""
        handed_on = all(after.takes_what(before) for before, after in pairwise(self.inside))
        last = self.inside[-1].output
        return handed_on and self.output[0] is last[0] and self.output[1] == last[1]


@contextmanager
def in_mode(net: nn.Module, *, training: bool) -> Iterator[None]:
    """Inside, a network is in training or evaluation mode; then each module is as it was."""
    modes = {module: module.training for module in net.modules()}
    net.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def trace(
    net: nn.Module, forward: Callable[[], Tensor], *, training: bool = False
) -> tuple[Call, Tensor]:
    """Runs `forward` once in evaluation or training mode; the modes do not change.

    Args:
        net: Network to trace.
        forward: Runs `net` on a batch of two images and returns the logits.
        training: Whether the network is in training mode.

    Returns:
        The call of `net`, and the logits.
    """
    paths = {module: path for path, module in net.named_modules()}
    open_calls = [Call("", net, [])]  # the caller of `net`

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        tensors = [(value, value._version) for value in inputs if isinstance(value, Tensor)]
        open_calls.append(Call(paths[module], module, tensors))

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        call = open_calls.pop()
        call.output = (output, output._version if isinstance(output, Tensor) else 0)
        open_calls[-1].inside.append(call)

    handles = [module.register_forward_pre_hook(before) for module in net.modules()]
    handles += [module.register_forward_hook(after) for module in net.modules()]
    try:
        with in_mode(net, training=training):
            logits = forward()
    finally:
        for handle in handles:
            handle.remove()
    return open_calls[0].inside[0], logits

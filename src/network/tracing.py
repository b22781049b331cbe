"""What happens in one run of a network: hooks on some modules, or a record of all calls."""

__all__ = ["Call", "tap", "trace"]

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
    """Opens hooks on modules: the yielded dict maps each path to what was read at its last call.

    Args:
        net: any module.
        read: dotted module path in `net` -> function of (inputs, output), called the moment the
            module returns, so that what it computes cannot be spoilt by a later in-place
            operation.
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
    """One run of a module in a forward pass.

    Attributes:
        path: module path; "" for the network itself.
        module: the module.
        inputs: positional inputs that are tensors, each with its version.
        output: what it returned, with its version: torch counts the in-place operations on a
            tensor, so (tensor, version) tells one state of its values from a later one.
        inside: the calls it made, in order.
    """

    path: str
    module: nn.Module
    inputs: list[tuple[Tensor, int]]
    output: tuple[Any, int] = (None, 0)
    inside: list["Call"] = field(default_factory=list)

    def __iter__(self) -> Iterator["Call"]:
        """Yields all calls within it, and itself last: in the order in which they returned."""
        for call in self.inside:
            yield from call
        yield self

    def takes_what(self, other: "Call") -> bool:
        """Whether the very values that `other` returned are an input, untouched since."""
        tensor, version = other.output
        return any(tensor is given and version == seen for given, seen in self.inputs)

    @property
    def chains(self) -> bool:
        """Whether it merely runs modules one after another and returns what the last returned."""
        handed_on = all(after.takes_what(before) for before, after in pairwise(self.inside))
        last = self.inside[-1].output
        return handed_on and self.output[0] is last[0] and self.output[1] == last[1]


@torch.no_grad()
def trace(net: nn.Module, forward: Callable[[], Tensor]) -> tuple[Call, Tensor]:
    """Runs `forward` once in evaluation mode; modes and BatchNorm statistics stay as they are.

    Args:
        net: the network.
        forward: runs `net` on a batch of two images and returns the logits.

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

    modes = {module: module.training for module in net.modules()}  # some may be frozen
    handles = [module.register_forward_pre_hook(before) for module in net.modules()]
    handles += [module.register_forward_hook(after) for module in net.modules()]
    net.eval()
    try:
        logits = forward()
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return open_calls[0].inside[0], logits

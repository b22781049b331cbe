"""A classifier whose blocks can be observed: images in, logits and feature maps out."""

__all__ = ["ForwardPass", "Network", "find_blocks", "find_head", "tap"]

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from src.metrics.norm_ratio import feature_norm


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass of a batch: all that a detector may look at.

    Attributes:
        image: (B, C, H, W) input, in [0, 1].
        logits: (B, K) output.
        feature: (B, D) penultimate feature, the input of the head.
        feature_map: block -> (B, C, H, W) output, in execution order; empty if not kept.
        norm: block -> (B,) FeatureNorm, in execution order, float32.
        network: the network that was observed.
    """

    image: Tensor
    logits: Tensor
    feature: Tensor
    feature_map: Mapping[str, Tensor]
    norm: Mapping[str, Tensor]
    network: "Network"

    def rows(self, keep: Tensor) -> "ForwardPass":
        """Returns the pass of the images where the (B,) boolean `keep` is true."""
        return ForwardPass(
            self.image[keep],
            self.logits[keep],
            self.feature[keep],
            {block: value[keep] for block, value in self.feature_map.items()},
            {block: value[keep] for block, value in self.norm.items()},
            self.network,
        )


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


class Network(nn.Module):
    """A classifier that owns its input normalisation, its blocks and its block selection.

    One dry forward at construction checks the blocks and sorts them into execution order.

    Args:
        net: classifier, normalised image (B, C, H, W) -> logits (B, K), ending in `nn.Linear`.
        blocks: candidate blocks: a regular expression over module paths, or a list of paths.
        image_shape: (C, H, W) of the images it will see.
        mean: of all channels or of each, subtracted from images in [0, 1].
        std: of all channels or of each, divided by after that.

    Raises:
        ValueError: if a block does not exist, does not run exactly once, does not return a
            feature map or is overwritten by a later in-place operation, or if the last linear
            layer does not produce the logits.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> network = Network(net, blocks=["1"], image_shape=(1, 8, 8))
        >>> network.observe(torch.rand(5, 1, 8, 8)).norm["1"].shape
        torch.Size([5])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        blocks: str | Sequence[str],
        *,
        image_shape: Sequence[int] = (3, 32, 32),
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
    ) -> None:
        super().__init__()
        self.net = net
        self.image_shape = tuple(image_shape)
        self.register_buffer("mean", _per_channel(mean, self.image_shape[0]))
        self.register_buffer("std", _per_channel(std, self.image_shape[0]))
        self.head_path = find_head(net)
        blank = torch.zeros(2, *self.image_shape)
        self.blocks, logits = _dry_run(self, net, find_blocks(net, blocks), self.head_path, blank)
        self.num_classes = logits.shape[1]
        self.norm_ratio: dict[str, float] = {}

    @property
    def head(self) -> nn.Linear:
        """The last linear layer: penultimate feature (B, D) -> logits (B, K)."""
        return self.net.get_submodule(self.head_path)  # type: ignore[return-value]

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits (B, K) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.net((image - self.mean) / self.std)
        return logits

    def observe(self, image: Tensor, *, keep_maps: bool = True) -> ForwardPass:
        """Returns one forward pass with everything that happened on the way.

        Args:
            image: (B, C, H, W) in [0, 1].
            keep_maps: whether to hold every block's feature map; without, memory stays that of
                a plain forward pass.
        """

        def read(_: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor | None]:
            return feature_norm(output), output if keep_maps else None

        with (
            tap(self.net, self.blocks, read) as seen,
            tap(self.net, [self.head_path], lambda inputs, _: inputs[0]) as head,
        ):
            logits = self(image)
        return ForwardPass(
            image,
            logits,
            head[self.head_path],
            {block: value for block, (_, value) in seen.items() if value is not None},
            {block: norm for block, (norm, _) in seen.items()},
            self,
        )

    def observe_norms(self) -> Any:
        """Opens hooks on the blocks: a `tap` that maps each block to its (B,) FeatureNorm."""
        return tap(self.net, self.blocks, lambda _, output: feature_norm(output))

    @property
    def selected(self) -> str | None:
        """The block of largest NormRatio, the deeper one on a tie; None before selection."""
        if not self.norm_ratio:
            return None
        return max(reversed(self.blocks), key=self.norm_ratio.__getitem__)

    def block(self, at: str) -> str:
        """Returns the module path that `at` means: a block's own path, or "selected".

        Raises:
            ValueError: if there is no such block.
            RuntimeError: if `at` is "selected" and none has been selected.
        """
        if at == "selected":
            if self.selected is None:
                raise RuntimeError(
                    "no block selected; train with BlockSelection, run evaluate with a "
                    "selection, or set at: <block>"
                )
            return self.selected
        if at not in self.blocks:
            raise ValueError(
                f"expected a block of {type(self.net).__name__}, got {at!r}; "
                f"blocks are {', '.join(self.blocks)}"
            )
        return at

    def get_extra_state(self) -> dict[str, float]:
        """The selection travels with the weights: {block: NormRatio}, empty if not selected."""
        return dict(self.norm_ratio)

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Takes a selection over; a network with other blocks refuses it."""
        if state and set(state) != set(self.blocks):
            raise ValueError(
                f"expected NormRatio of the blocks {', '.join(self.blocks)}, got "
                f"{', '.join(state)}; load into the network that was trained"
            )
        self.norm_ratio = {block: state[block] for block in self.blocks} if state else {}


def _per_channel(value: float | Sequence[float], channels: int) -> Tensor:
    values = [value] * channels if isinstance(value, int | float) else list(value)
    if len(values) != channels:
        raise ValueError(
            f"expected mean and std of {channels} channels, got {len(values)} values; "
            "make them agree with image_shape"
        )
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


@torch.no_grad()
def _dry_run(
    network: nn.Module, net: nn.Module, blocks: Sequence[str], head: str, image: Tensor
) -> tuple[tuple[str, ...], Tensor]:
    """Runs one batch, checks each promise of `Network`; returns ordered blocks and logits."""
    fired: list[tuple[str, Tensor, int]] = []
    names = {module: path for path, module in net.named_modules()}

    def watch(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        for block, seen, version in fired:
            if seen._version != version:  # an in-place operation has been at work since
                raise ValueError(
                    f"expected the output of block {block!r} to stay as it is, but "
                    f"{names[module]!r} overwrites it in place; use {names[module]!r} as the "
                    "block, or set inplace=False there"
                )
        if names[module] in blocks:
            _check_map(names[module], output)
            fired.append((names[module], output, output._version))

    handles = [module.register_forward_hook(watch) for module in net.modules()]
    modes = {module: module.training for module in net.modules()}  # some may be frozen
    try:
        with tap(net, [head], lambda _, output: output) as last:
            net.eval()
            logits: Tensor = network(image)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    order = tuple(block for block, _, _ in fired)
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
    return order, logits


def _check_map(block: str, output: Any) -> None:
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.dim() != 4:
        raise ValueError(
            f"expected block {block!r} to return a feature map (B, C, H, W), got {shape}; "
            "choose a convolutional block"
        )

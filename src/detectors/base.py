"""The contract that every detector keeps, and two base classes that read blocks."""

__all__ = [
    "BlocksDetector",
    "Detector",
    "FeatureDetector",
    "NotFittedError",
    "expand_blocks",
    "mean_pool",
]

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

from torch import Tensor, nn
from torchmetrics import Metric

from src.network import ForwardPass, Network, Reader
from src.records.columns import Column


def mean_pool(feature_map: Tensor) -> Tensor:
    """Returns the (B, C) spatial mean of a feature map (B, C, H, W)."""
    return feature_map.mean(dim=(2, 3))


class NotFittedError(RuntimeError, AttributeError):
    """A value that `fit` learns was read before the fit; `hasattr` returns False until then."""


class Detector(nn.Module):
    """Turns a forward pass into one score per image: higher = more in-distribution, always.

    A subclass must implement `score` alone. A detector that learns from ID images collects
    statistics in `update`, in torchmetrics `Metric`s that it owns, and computes its parameters in
    `fit`. It declares these parameters with `learns` and keeps them in buffers of any shape: they
    move with the module, are saved and loaded with it, and raise a clear error if they are read
    before the fit.

    Attributes:
        at: The block that the detector reads: a module path, "selected" or "each_block". None if
            it reads no single block.
        fit_on: The part of the ID images that `update` receives.
        compares_classes: Whether the score compares classes and is constant for a single one.
        needs_linear_head: Whether it computes with the weight or bias of the head, which must then
            be all that the head does. What asks for logits calls `network.logits_of` instead.
    """

    at: str | None = None
    fit_on: Literal["train", "validation"] = "train"
    compares_classes: bool = False
    needs_linear_head: bool = False

    def named_blocks(self) -> tuple[str, ...]:
        """Returns the blocks that the arguments name: module paths, "selected", "each_block"."""
        return () if self.at is None else (self.at,)

    def check(self, network: Network) -> None:
        """Checks that the arguments fit the network; `Benchmark` calls it before any training.

        Raises:
            ValueError: If a named block does not exist, the network has too few classes, or its
                head does more than the detector reckons with.
        """
        for block in self.named_blocks():
            if block != "selected":  # the selection may come later
                network.block(block)
        if self.compares_classes and network.num_classes < 2:
            raise ValueError(
                "expected a network of at least two classes, got one, for which the score of "
                f"{type(self).__name__} is constant; choose a detector of features, norms or "
                "distances"
            )
        if self.needs_linear_head and not network.head_is_linear:
            raise ValueError(
                f"expected a head that is its weight times the feature plus its bias, with which "
                f"{type(self).__name__} computes, got {type(network.head).__name__}, which does "
                "more; leave this detector out, or choose one of logits or distances"
            )

    def prepare(self, network: Network) -> None:
        """Computes what the readers need, before the first image; later calls do nothing."""

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns the (block, reader) pairs that `update` and `score` need; runs nothing."""
        return ()

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds a batch of ID images, with (B,) labels and (B,) indices; B may be 0."""

    def fit(self, network: Network) -> None:
        """Computes the parameters after the last `update`, on every process alike."""

    def block_weights(self, network: Network) -> dict[str, dict[str, float | None]]:
        """Returns block -> input -> weight of the standardised input, for the report.

        Inputs that belong to no block stand under "logits". None is an input that never varied
        and says nothing. A detector that weighs no blocks has none.
        """
        return {}

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores; each depends on its own image alone."""
        raise NotImplementedError

    @property
    def is_fitted_on_data(self) -> bool:
        """Whether the detector learns from ID images."""
        return type(self).update is not Detector.update

    def learns(self, *names: str) -> None:
        """Declares buffers that `fit` will set."""
        for name in names:
            self.register_buffer(name, None)

    def reset(self) -> None:
        """Clears the statistics that `update` collected; the fitted parameters stay."""
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def __repr__(self) -> str:
        """Returns the call that builds the unfitted detector."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def __getattr__(self, name: str) -> Any:
        """Returns a buffer or submodule.

        Raises:
            NotFittedError: If `fit` sets the buffer and has not been called.
        """
        value = super().__getattr__(name)
        if value is None and name in self._buffers:
            raise NotFittedError(
                f"expected a fitted {type(self).__name__}, got one without {name!r}; run a "
                "Benchmark, call update and fit on ID images, or load a fitted state"
            )
        return value

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name in self._buffers:  # a fitted buffer has the shape that it was saved with
            if prefix + name in state_dict:
                self._buffers[name] = state_dict[prefix + name].clone()
        super()._load_from_state_dict(state_dict, prefix, *rest)


class FeatureDetector(Detector):
    """Scores a feature vector: the penultimate one, or the mean-pooled map of a block.

    Args:
        at: Module path of a block, "selected", or "each_block" for one column per block. None
            reads the penultimate feature.
    """

    def __init__(self, at: str | None = None) -> None:
        super().__init__()
        self.at = at

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns the block and the reader of its spatial mean."""
        return () if self.at is None else ((network.block(self.at), mean_pool),)

    def feature(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) features."""
        if self.at is None:
            return seen.feature
        return seen.read(seen.network.block(self.at), mean_pool)

    def extra_repr(self) -> str:
        """Describes the block."""
        return "" if self.at is None else f"at={self.at!r}"


class BlocksDetector(Detector):
    """Scores the feature maps of several blocks.

    Args:
        blocks: Module paths, in any order. None takes all blocks of the network.

    Raises:
        ValueError: If the list is empty.
    """

    def __init__(self, blocks: Sequence[str] | None = None) -> None:
        super().__init__()
        self.blocks = None if blocks is None else tuple(blocks)
        if self.blocks == ():
            raise ValueError(
                "expected at least one block, got none; name one, or set blocks=None for all"
            )

    def named_blocks(self) -> tuple[str, ...]:
        """Returns the blocks that the arguments name."""
        return self.blocks or ()

    def blocks_of(self, network: Network) -> tuple[str, ...]:
        """Returns the module paths of the blocks, in execution order."""
        chosen = {network.block(block) for block in self.blocks or network.blocks}
        return tuple(block for block in network.blocks if block in chosen)

    def extra_repr(self) -> str:
        """Describes the blocks."""
        return f"blocks={self.blocks!r}"


def expand_blocks(detectors: Mapping[str, Detector], network: Network) -> dict[str, Detector]:
    """Returns one detector per column: `at: each_block` becomes `name@block` for each block.

    A name may end in `_each_block`, to be another than that of a detector at one block.

    Raises:
        ValueError: If the arguments of a detector do not fit the network.
    """
    columns: dict[str, Detector] = {}
    for name, detector in ((str(name), each) for name, each in detectors.items()):
        if detector.at == "each_block":
            plain = re.sub("[_@]each_block$", "", name)
            for block in network.blocks:
                columns[Column(plain, block).name] = each = deepcopy(detector)
                each.at = block
        else:
            columns[name] = detector
    for detector in columns.values():
        detector.check(network)
    return columns

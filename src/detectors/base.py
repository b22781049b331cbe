"""What a detector is."""

__all__ = [
    "Detector",
    "FeatureDetector",
    "NotFittedError",
    "Wrapper",
    "blocks_of",
    "expand_blocks",
    "mean_pool",
]

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

from torch import Tensor, nn
from torchmetrics import Metric

from src.network import ForwardPass, Network, Reader


def mean_pool(feature_map: Tensor) -> Tensor:
    """Returns the (B, C) spatial mean of a feature map (B, C, H, W)."""
    return feature_map.mean(dim=(2, 3))


class NotFittedError(RuntimeError, AttributeError):
    """What `fit` is to learn is read before the fit; `hasattr` is false until then."""


class Detector(nn.Module):
    """Turns a forward pass into one score per image: higher = more in-distribution, always.

    Only `score` must be written. One that learns from ID images collects statistics in `update`,
    in torchmetrics `Metric`s of its own, and concludes in `fit`. What it learned it declares with
    `learns` and keeps in buffers of any shape: they move with it, are saved and loaded, and
    reading one before the fit is a clear error.
    """

    at: str | None = None  # the block it reads: a module path, "selected" or "each_block"
    fit_on: Literal["train", "validation"] = "train"  # ID images that `update` wants to see

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Names what `update` and `score` read of feature maps: (block, reader) pairs."""
        return ()

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in a batch of ID images, with (B,) labels and (B,) indices; B may be 0."""

    def fit(self, network: Network) -> None:
        """Concludes, after the last `update`, on every process alike."""

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores, each a function of its own image alone."""
        raise NotImplementedError

    @property
    def is_fitted_on_data(self) -> bool:
        """Whether it wants to see ID images."""
        return type(self).update is not Detector.update

    def learns(self, *names: str) -> None:
        """Declares buffers that `fit` will set."""
        for name in names:
            self.register_buffer(name, None)

    def reset(self) -> None:
        """Forgets what `update` took in; what `fit` concluded stays."""
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def __repr__(self) -> str:
        """Returns the call that builds it, unfitted."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def __getattr__(self, name: str) -> Any:
        """Returns a buffer or submodule.

        Raises:
            NotFittedError: if it is learned by `fit`, which has not been called.
        """
        value = super().__getattr__(name)
        if value is None and name in self._buffers:
            raise NotFittedError(
                f"expected a fitted {type(self).__name__}, got one without {name!r}; run a "
                "Benchmark, call update and fit on ID images, or load a fitted state"
            )
        return value

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name in self._buffers:  # what was learned has the shape that it was saved with
            if prefix + name in state_dict:
                self._buffers[name] = state_dict[prefix + name].clone()
        super()._load_from_state_dict(state_dict, prefix, *rest)


class FeatureDetector(Detector):
    """Scores a feature vector: the penultimate one, or the mean-pooled map of a block.

    Args:
        at: a block's module path, "selected", or "each_block" for one column per block; None for
            the penultimate feature.
    """

    def __init__(self, at: str | None = None) -> None:
        super().__init__()
        self.at = at

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Names the mean of the block's map."""
        return () if self.at is None else ((network.block(self.at), mean_pool),)

    def feature(self, seen: ForwardPass) -> Tensor:
        """Returns (B, D) features."""
        if self.at is None:
            return seen.feature
        return seen.read(seen.network.block(self.at), mean_pool)

    def extra_repr(self) -> str:
        """Says where."""
        return "" if self.at is None else f"at={self.at!r}"


class Wrapper(Detector):
    """Changes what another detector sees, or what becomes of its score; the rest passes through.

    Args:
        detector: the other one.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.at = detector.at
        self.fit_on = detector.fit_on

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Names what the other one reads."""
        return self.detector.reads(network)

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Hands the batch on."""
        self.detector.update(seen, label, index)

    def fit(self, network: Network) -> None:
        """Fits the other one."""
        self.detector.fit(network)

    @property
    def is_fitted_on_data(self) -> bool:
        """Whether the other one wants to see ID images."""
        return self.detector.is_fitted_on_data

    def __repr__(self) -> str:
        """Returns the call that builds it, with the other one first."""
        arguments = ", ".join(filter(None, (repr(self.detector), self.extra_repr())))
        return f"{type(self).__name__}({arguments})"


def blocks_of(network: Network, blocks: Sequence[str] | None) -> tuple[str, ...]:
    """Returns module paths in execution order: of the blocks named, or of all if None.

    Raises:
        ValueError: if one is no block of the network, or none is named.
    """
    if blocks is None:
        return network.blocks
    chosen = {network.block(block) for block in blocks}
    if not chosen:
        raise ValueError("expected blocks, got none; name some, or leave None for all")
    return tuple(block for block in network.blocks if block in chosen)


def expand_blocks(detectors: Mapping[str, Detector], network: Network) -> dict[str, Detector]:
    """Returns one detector per column: one `at: each_block` becomes `name@block` for each block.

    Raises:
        ValueError: if a detector's `at` names no block of the network.
    """
    columns: dict[str, Detector] = {}
    for name, detector in detectors.items():
        if detector.at == "each_block":
            for block in network.blocks:
                column = f"{name.removesuffix('@each_block')}@{block}"
                columns[column] = deepcopy(detector)
                columns[column].at = block
            continue
        if detector.at not in (None, "selected"):
            network.block(str(detector.at))
        columns[name] = detector
    return columns

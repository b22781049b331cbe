"""Base classes of detectors that wrap another detector."""

__all__ = ["AtBlock", "Wrapper"]

from collections.abc import Iterable

from torch import Tensor

from src.detectors.base import Detector
from src.network import ForwardPass, Network, Reader


class Wrapper(Detector):
    """Changes the input or the score of another detector and passes everything else through.

    `at` is that of the wrapped detector at any depth: reading it and setting it happen there.

    Args:
        detector: The wrapped detector.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.fit_on = detector.fit_on

    @property
    def at(self) -> str | None:
        """The block that the wrapped detector reads."""
        return self.detector.at

    @at.setter
    def at(self, at: str | None) -> None:
        self.detector.at = at

    def named_blocks(self) -> tuple[str, ...]:
        """Returns the blocks that the arguments of the wrapped detector name."""
        return self.detector.named_blocks()

    def check(self, network: Network) -> None:
        """Checks that the arguments of both detectors fit the network."""
        super().check(network)
        self.detector.check(network)

    def prepare(self, network: Network) -> None:
        """Prepares the wrapped detector."""
        self.detector.prepare(network)

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns what the wrapped detector reads."""
        return self.detector.reads(network)

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Passes the batch to the wrapped detector."""
        self.detector.update(seen, label, index)

    def fit(self, network: Network) -> None:
        """Fits the wrapped detector."""
        self.detector.fit(network)

    def block_weights(self, network: Network) -> dict[str, dict[str, float | None]]:
        """Returns those of the wrapped detector."""
        return self.detector.block_weights(network)

    @property
    def is_fitted_on_data(self) -> bool:
        """Whether the wrapped detector learns from ID images."""
        return self.detector.is_fitted_on_data

    def __repr__(self) -> str:
        """Returns the call that builds the unfitted detector, with the wrapped one first."""
        arguments = ", ".join(filter(None, (repr(self.detector), self.extra_repr())))
        return f"{type(self).__name__}({arguments})"


class AtBlock(Wrapper):
    """A wrapper that reads a block itself, besides the one that its detector may read.

    `at` is the block of the wrapper. If only the wrapped detector is at "each_block", then `at`
    is that of the wrapped detector, so that its block varies and the wrapper's stays.

    Args:
        detector: The wrapped detector.
        at: Module path of a block, "selected" or "each_block".

    Raises:
        ValueError: If both are at "each_block".
    """

    def __init__(self, detector: Detector, at: str) -> None:
        super().__init__(detector)
        if at == detector.at == "each_block":
            raise ValueError(
                f"expected one block to vary, got {type(self).__name__} and {detector!r} both at "
                "'each_block'; name a block for one of them"
            )
        self.own_block = at

    @property
    def at(self) -> str | None:
        """The block of the wrapper, or "each_block" if the wrapped detector is there."""
        return self.detector.at if self.detector.at == "each_block" else self.own_block

    @at.setter
    def at(self, at: str | None) -> None:
        if self.detector.at == "each_block":
            self.detector.at = at
        else:
            self.own_block = str(at)

    def named_blocks(self) -> tuple[str, ...]:
        """Returns the block of the wrapper and those of the wrapped detector."""
        return (self.own_block, *super().named_blocks())

    def norm(self, seen: ForwardPass) -> Tensor:
        """Returns the (B,) FeatureNorm of the wrapper's block, in float64."""
        return seen.norm[seen.network.block(self.own_block)].double()

    def refuse_fitted(self) -> None:
        """Refuses a wrapped detector that learns from ID images.

        Raises:
            ValueError: If the wrapped detector is fitted.
        """
        if self.detector.is_fitted_on_data:
            raise ValueError(
                f"expected a detector without fit within {type(self).__name__}, got "
                f"{type(self.detector).__name__}; choose Energy, MSP, MaxLogit or the like"
            )

    def extra_repr(self) -> str:
        """Describes the block."""
        return f"at={self.own_block!r}"

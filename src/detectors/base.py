"""What a detector is."""

__all__ = ["Detector", "expand_blocks"]

from collections.abc import Mapping
from copy import deepcopy

from torch import Tensor, nn

from src.network import ForwardPass, Network


class Detector(nn.Module):
    """Turns a forward pass into one score per image: higher = more in-distribution, always.

    A detector says what it needs by reading the `ForwardPass`. Only `score` must be written.
    One that learns from ID training images collects them in `update` and concludes in `fit`.
    """

    at: str | None = None  # the block it reads: a module path, "selected" or "each_block"
    keep_maps = True  # False where `score` and `update` read no feature map: saves memory

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in a batch of ID training images, with (B,) labels and (B,) indices."""

    def fit(self, network: Network) -> None:
        """Concludes, after the last `update`, on every process alike."""

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) scores, each a function of its own image alone."""
        raise NotImplementedError

    @property
    def is_fitted_on_data(self) -> bool:
        """Whether it wants to see ID training images."""
        return type(self).update is not Detector.update


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

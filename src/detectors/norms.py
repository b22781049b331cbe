"""Detectors that score the norm of a feature map."""

__all__ = ["FeatureNorm"]

from torch import Tensor

from src.detectors.base import Detector
from src.network import ForwardPass


class FeatureNorm(Detector):
    """FeatureNorm of one block: ID images activate it more strongly.

    Args:
        at: a block's module path; "selected", the block of largest NormRatio; or "each_block",
            one column for every block.

    Source:
        Yu et al., "Block Selection Method for Using Feature Norm in Out-of-distribution
        Detection", CVPR 2023, https://arxiv.org/abs/2212.02295, section 3.
    """

    at: str
    keep_maps = False

    def __init__(self, at: str = "selected") -> None:
        super().__init__()
        self.at = at

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) norms."""
        return seen.norm[seen.network.block(self.at)]

    def extra_repr(self) -> str:
        """Says where."""
        return f"at={self.at!r}"

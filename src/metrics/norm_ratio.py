"""FeatureNorm and the mean activation of a feature map, and NormRatio of a block."""

__all__ = ["NormRatio", "feature_norm", "mean_activation"]

import torch
from torch import Tensor
from torchmetrics import Metric

CACHE_ELEMENTS = 2**19  # on a CPU, the rectified copy of this many values stays in the L2 cache
SMALLEST_NORM = 1e-8  # keeps the ratio finite if a pseudo-OOD image activates nothing


def feature_norm(feature_map: Tensor) -> Tensor:
    """FeatureNorm: mean over channels of the L2 norm of each rectified activation map.

    Args:
        feature_map: (B, C, H, W) output of a block, before or after its ReLU, in any float type.

    Returns:
        (B,) norms in float32, in units of the activation; larger is more in-distribution.

    Raises:
        ValueError: If the input is not four-dimensional.

    Source:
        Yu et al., "Block Selection Method for Using Feature Norm in Out-of-distribution
        Detection", CVPR 2023, https://arxiv.org/abs/2212.02295, section 3.
    """
    if feature_map.dim() != 4:
        raise ValueError(
            f"expected a feature map of shape (B, C, H, W), got {tuple(feature_map.shape)}; "
            "choose a block whose output is a map"
        )
    return torch.cat([_feature_norm(piece) for piece in _pieces(feature_map)])


def mean_activation(feature_map: Tensor) -> Tensor:
    """Mean of the rectified activation map: its L1 norm, divided by its size.

    Args:
        feature_map: (B, C, H, W) output of a block, before or after its ReLU, in any float type.

    Returns:
        (B,) means in float32, in units of the activation; larger is more in-distribution.

    Source:
        Park et al., "Understanding the Feature Norm for Out-of-Distribution Detection", ICCV
        2023, https://arxiv.org/abs/2310.05316: the numerator of NAN, here of a whole map.
    """
    pieces = _pieces(feature_map)
    return torch.cat([each.relu().mean(dim=(1, 2, 3), dtype=torch.float32) for each in pieces])


def _pieces(feature_map: Tensor) -> list[Tensor]:
    """Splits a batch so that a copy of each piece stays in the cache of a CPU."""
    if feature_map.device.type != "cpu" or torch.compiler.is_exporting():
        return [feature_map]
    # about three times faster than one large copy
    size = max(1, CACHE_ELEMENTS // feature_map.shape[1:].numel())
    return list(feature_map.split(size))


def _feature_norm(feature_map: Tensor) -> Tensor:
    if feature_map.requires_grad and torch.is_grad_enabled():
        square = feature_map.float().relu().square().sum(dim=(2, 3))
        alive = square > 0  # the root has an infinite slope at 0; that of a dead channel is 0
        return (torch.where(alive, square, 1.0).sqrt() * alive).mean(dim=1)
    # in place on the one float32 copy: half the time of `relu().float().square()` on a CPU
    rectified = feature_map.to(torch.float32, copy=True).relu_()
    return rectified.mul_(rectified).sum(dim=(2, 3)).sqrt_().mean(dim=1)


class NormRatio(Metric):
    """NormRatio of L blocks: mean over images of FeatureNorm(ID) / FeatureNorm(pseudo-OOD).

    Sums are kept in float64 and added over processes, so that the result does not depend on how
    the images are split into batches or over processes.

    Args:
        blocks: Number L of blocks.

    Source:
        Yu et al., "Block Selection Method for Using Feature Norm in Out-of-distribution
        Detection", CVPR 2023, https://arxiv.org/abs/2212.02295, Algorithm 1: the mean of
        per-image ratios, not the ratio of means.
    Differs:
        The denominator is at least 1e-8; the authors' `normratio.py` may divide by zero.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    count: Tensor
    ratio: Tensor
    norm_id: Tensor
    norm_pseudo_ood: Tensor

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("ratio", "norm_id", "norm_pseudo_ood"):
            self.add_state(name, torch.zeros(blocks, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, norm_id: Tensor, norm_pseudo_ood: Tensor) -> None:
        """Adds images: (B, L) FeatureNorms of the ID images and of their pseudo-OOD versions."""
        norm_id, norm_pseudo_ood = norm_id.double(), norm_pseudo_ood.double()
        self.count += len(norm_id)
        self.ratio += (norm_id / norm_pseudo_ood.clamp_min(SMALLEST_NORM)).sum(dim=0)
        self.norm_id += norm_id.sum(dim=0)
        self.norm_pseudo_ood += norm_pseudo_ood.sum(dim=0)

    def compute(self) -> dict[str, Tensor]:
        """Returns (L,) float64 means over images: `ratio`, `norm_id`, `norm_pseudo_ood`."""
        return {
            name: getattr(self, name) / self.count
            for name in ("ratio", "norm_id", "norm_pseudo_ood")
        }

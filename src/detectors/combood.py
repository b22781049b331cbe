"""CombOOD: the nearest neighbours of an image and the extremes of its feature maps."""

__all__ = ["CombOOD"]

from collections.abc import Iterable

import torch
from sklearn.preprocessing import PowerTransformer
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector
from src.detectors.neighbours import check_neighbours, nearest_similarities
from src.metrics.statistics import Bank
from src.network import ForwardPass, Network, Reader

RIDGE = 1.0  # added to each variance of the transformed extremes, which is 1
SMALLEST_DISTANCE = 1e-6  # squared; the rounding noise of the distance between equal features
LARGEST_DEVIATION = 1e3  # of a transformed extreme; larger ones are clamped


def extremes(feature_map: Tensor) -> Tensor:
    """Returns (B, 2): the smallest and the largest value of a map."""
    flat = feature_map.float().flatten(1)
    return torch.stack([flat.amin(dim=1), flat.amax(dim=1)], dim=1)


class CombOOD(Detector):
    r"""Log-density of the nearest ID features plus that of the extremes of the feature maps.

    This is \(-D \log d_k^2 - m^\top (\Sigma + I)^{-1} m\). \(d_k\) is the distance to the k-th
    nearest ID image, between penultimate features of length 1 and dimension D. \(m\) holds the
    smallest and the largest value of each block's map and of the logits, standardised and made
    normal by the Yeo-Johnson transform.

    Args:
        k: Rank of the neighbour that counts.
        bank_size: Number of ID images to keep, chosen by hashed index. None keeps all.

    Raises:
        ValueError: If `k` is below 1; in `fit`, if there are fewer images than `k`.

    Source:
        Rajasekaran et al., "CombOOD: A Semiparametric Approach for Detecting Out-of-distribution
        Data for Image Classification", SDM 2024, https://arxiv.org/abs/2602.07042; code:
        https://github.com/rmagesh148/combood. Experimental: its ImageNet rows seem exchanged.
    Fitted on:
        All ID training images. With `bank_size`, a random part of that size.
    Needs:
        Penultimate feature, feature maps of all blocks, logits.
    Differs:
        Reads the outputs of blocks; the authors read the inputs of all activations. The smallest
        value of a block that ends in a ReLU is constant and has no effect. A transformed extreme
        is at most 1,000 deviations away.
    """

    def __init__(self, k: int = 50, *, bank_size: int | None = None) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"expected k of at least 1, got {k}; 50 is usual")
        self.k, self.bank_size = k, bank_size
        self.features, self.extremes = Bank(bank_size), Bank(bank_size)
        self.learns("bank", "power", "mean", "deviation", "precision")

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns all blocks and the reader of their extremes."""
        return [(block, extremes) for block in network.blocks]

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features and extremes."""
        self.features.update(F.normalize(seen.feature.float(), dim=1), index)
        self.extremes.update(self._extremes(seen), index)

    def fit(self, network: Network) -> None:
        """Keeps the bank and fits the transform and covariance of the extremes."""
        bank, row = self.features.compute(), self.extremes.compute()
        check_neighbours(self.k, bank)
        varies = (row.amax(dim=0) > row.amin(dim=0)).double()
        self.mean, deviation = row.mean(dim=0), row.std(dim=0, correction=0)
        self.deviation = torch.where(varies > 0, deviation, torch.inf)  # drops a constant
        standard = (row - self.mean) / self.deviation
        fitted = PowerTransformer(standardize=False).fit(standard.cpu().numpy())
        self.power = row.new_tensor(fitted.lambdas_).nan_to_num(1.0)
        moved = yeo_johnson(standard, self.power)
        centre, spread = moved.mean(dim=0), moved.std(dim=0, correction=0)
        spread = torch.where(spread > 0, spread, 1)
        normal = (moved - centre) / spread
        covariance = normal.mT @ normal / max(1, len(normal) - 1)
        ridge = RIDGE * torch.eye(len(centre), dtype=torch.float64, device=row.device)
        self.precision = torch.stack([centre, spread, *torch.linalg.inv(covariance + ridge)])
        self.bank = bank

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) sums of two log-densities, up to constants."""
        feature = F.normalize(seen.feature.float(), dim=1)
        similarity = nearest_similarities(feature, self.bank, self.k)[:, -1].double()
        square = (2 - 2 * similarity).clamp_min(SMALLEST_DISTANCE)
        centre, spread, inverse = self.precision[0], self.precision[1], self.precision[2:]
        moved = yeo_johnson((self._extremes(seen) - self.mean) / self.deviation, self.power)
        row = ((moved - centre) / spread).clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)
        return -feature.shape[1] * square.log() - ((row @ inverse) * row).sum(dim=1)

    def _extremes(self, seen: ForwardPass) -> Tensor:
        """Returns (B, 2 L + 2) values in float64."""
        parts = [seen.read(*pair) for pair in self.reads(seen.network)]
        logits = torch.stack([seen.logits.amin(dim=1), seen.logits.amax(dim=1)], dim=1)
        return torch.cat([*parts, logits], dim=1).double()

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return f"k={self.k}, bank_size={self.bank_size}"


def yeo_johnson(value: Tensor, power: Tensor) -> Tensor:
    """Returns the Yeo-Johnson transform of (B, D) values by (D,) powers."""
    above, below = value.clamp_min(0).log1p(), (-value.clamp_max(0)).log1p()
    other = 2 - power
    positive = torch.where(power == 0, above, torch.expm1(power * above) / power)
    negative = torch.where(other == 0, below, torch.expm1(other * below) / other)
    return torch.where(value >= 0, positive, -negative)

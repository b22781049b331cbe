"""Criteria for one block: how well its norm tells ID images from their pseudo-OOD versions."""

__all__ = ["BlockCriterion", "Estimate"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from src.metrics.norm_ratio import SMALLEST_NORM, NormRatio
from src.metrics.ood import accepted, auroc, finite_scores
from src.metrics.statistics import Bank
from src.records.selection import select


class Estimate:
    """A criterion of L blocks, by depth, measured on N images.

    Attributes:
        criterion: "norm_ratio", "paired_t" or "auroc".
        mean: `ratio`, `norm_id` and `norm_pseudo_ood` -> (L,) means over the images, float64.
        value: (L,) float64, larger = better.
        each: (N, L) float64: of each image the value plus the image's influence on it. Their
            mean is the value, so that standard errors are those of a mean: to first order if the
            criterion is no mean itself, as NormRatio is.

    Source:
        Infinitesimal jackknife: Efron, "The jackknife, the bootstrap and other resampling plans",
        SIAM 1982, chapter 6.
    """

    def __init__(
        self, criterion: str, mean: Mapping[str, Tensor], value: Tensor, each: Tensor
    ) -> None:
        self.criterion, self.mean, self.value, self.each = criterion, mean, value, each

    @property
    def selected(self) -> int:
        """Position of the block of largest value, the deeper one on an exact tie."""
        return int(select(self.value))

    @property
    def standard_error(self) -> Tensor:
        """(L,) Standard errors of the values; 0 for a single image."""
        return standard_error(self.each)

    @property
    def tied(self) -> list[int]:
        """Positions of the two best blocks if they are tied, the selected one first; else empty.

        They are tied if their values differ by no more than the standard error of the difference.
        The images are the same for both blocks, so this is mostly smaller than either block's own.
        """
        if len(self.value) == 1:
            return []
        best = self.selected
        second = int(select(self.value.index_fill(0, torch.tensor(best), -torch.inf)))
        error = standard_error(self.each[:, best] - self.each[:, second])
        return [best, second] if self.value[best] - self.value[second] <= error else []

    def facts(self, blocks: Sequence[str]) -> dict[str, Any]:
        """Returns plain numbers: `criterion`, `value`, `standard_error` and `tied`, by block."""
        return {
            "criterion": self.criterion,
            "value": dict(zip(blocks, self.value.tolist(), strict=True)),
            "standard_error": dict(zip(blocks, self.standard_error.tolist(), strict=True)),
            "tied": [blocks[position] for position in self.tied],
        }


def standard_error(each: Tensor) -> Tensor:
    """Returns the standard error of the mean over (N, ...) images."""
    error: Tensor = each.std(dim=0, correction=0) / len(each) ** 0.5
    return error


class BlockCriterion:
    """Measures a criterion of L blocks, and NormRatio in any case.

    It keeps two numbers of each image and block. The result does not depend on how the images are
    split into batches or over processes.

    Args:
        criterion: "norm_ratio", "paired_t" or "auroc".
        blocks: Number of blocks, L.
        device: Device of the norms.
    """

    def __init__(self, criterion: str, blocks: int, device: torch.device | None = None) -> None:
        self.criterion = criterion
        self.norm_ratio, self.norms = NormRatio(blocks).to(device), Bank().to(device)

    def update(self, norm_id: Tensor, norm_pseudo_ood: Tensor, index: Tensor) -> None:
        """Adds images.

        Args:
            norm_id: (B, L) FeatureNorm of the ID images.
            norm_pseudo_ood: (B, L) FeatureNorm of the same images turned into pseudo-OOD.
            index: (B,) int64 positions of the images in their set.
        """
        self.norm_ratio.update(norm_id, norm_pseudo_ood)
        self.norms.update(torch.stack([norm_id, norm_pseudo_ood], dim=1), index)

    def compute(self) -> Estimate:
        """Returns the estimate of all images, equal on every process."""
        # torchmetrics makes a scalar of a single block
        mean = {key: each.reshape(-1).cpu() for key, each in self.norm_ratio.compute().items()}
        norm_id, norm_pseudo_ood = self.norms.compute().cpu().double().unbind(dim=1)
        value, each = MEASURES[self.criterion](norm_id, norm_pseudo_ood)
        if self.criterion == "norm_ratio":
            value = mean["ratio"]  # the same summands, added in another order
        return Estimate(self.criterion, mean, value, each)


def norm_ratio(norm_id: Tensor, norm_pseudo_ood: Tensor) -> tuple[Tensor, Tensor]:
    """Returns NormRatio, (L,), and the (N, L) ratios of the images; see `NormRatio`."""
    ratio = norm_id / norm_pseudo_ood.clamp_min(SMALLEST_NORM)
    return ratio.mean(dim=0), ratio


def paired_t(norm_id: Tensor, norm_pseudo_ood: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the paired statistic of log norms, (L,), and its (N, L) value of each image.

    With the differences of images, \(l_i = \log f(x_i) - \log f(\tilde x_i)\), it is their mean
    over their standard deviation, \(T = \bar l / s\): Student's paired t over the root of N. A
    block without activation has T = 0. If the differences are normal, the standard error is
    \(\sqrt{(1 + T^2 / 2) / N}\).

    Source:
        Experimental: ours, as a criterion. Its influence on an image, and the standard error of
        the difference of two blocks: Jobson and Korkie, "Performance hypothesis testing with the
        Sharpe and Treynor measures", Journal of Finance 36(4), 1981 (the Sharpe ratio is such a
        T).
    """
    gap = norm_id.clamp_min(SMALLEST_NORM).log() - norm_pseudo_ood.clamp_min(SMALLEST_NORM).log()
    deviation = gap.std(dim=0, correction=0).clamp_min(SMALLEST_NORM)
    t = gap.mean(dim=0) / deviation
    z = (gap - gap.mean(dim=0)) / deviation
    square = z.square()
    return t, t + z - t * (square - square.mean(dim=0)) / 2


def area(norm_id: Tensor, norm_pseudo_ood: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the AUROC of FeatureNorm, (L,), and its (N, L) value of each image.

    Raises:
        ValueError: If a norm is NaN or infinite.

    Source:
        Standard error: DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more
        correlated receiver operating characteristic curves", Biometrics 44(3), 1988; for an image
        and its own pseudo-OOD version, which depend on each other: Obuchowski, "Nonparametric
        analysis of clustered ROC curve data", Biometrics 53(2), 1997.
    """
    positive, negative = (each.T.contiguous() for each in (norm_id, norm_pseudo_ood))  # (L, N)
    finite_scores("FeatureNorm of ID images", positive.flatten())
    finite_scores("FeatureNorm of pseudo-OOD images", negative.flatten())
    value = [auroc(accepted(*pair)) for pair in zip(positive, negative, strict=True)]
    total = torch.tensor(value, dtype=torch.float64)
    outscored = share_below(negative, positive) + 1 - share_below(positive, negative)
    return total, outscored.T - total


def share_below(these: Tensor, those: Tensor) -> Tensor:
    """Returns (L, N): for each of `those`, the share of `these` below it; a tie counts half."""
    ordered = these.sort(dim=1).values
    below, up_to = (torch.searchsorted(ordered, those, right=right) for right in (False, True))
    return (below + up_to).double() / (2 * these.shape[1])


MEASURES: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "norm_ratio": norm_ratio,
    "paired_t": paired_t,
    "auroc": area,
}

"""CORE: confidence plus the direction of what the classifier discards."""

__all__ = ["CORE"]

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector
from src.detectors.prototypes import filled
from src.detectors.subspaces import SMALLEST_RESIDUAL
from src.metrics.statistics import Bank, ClassSums
from src.network import ForwardPass, Network

ROWS = 10_000  # ID images, chosen by hashed index
SMALLEST_DEVIATION = 1e-6  # of a part of the score among ID images; else it is rounding noise


class CORE(Detector):
    r"""Energy plus the cosine between residual and class mean residual, both standardised.

    The residual \(r = h - \langle h, u \rangle u\) is the part of the feature across
    \(u = w_{\hat y} / \|w_{\hat y}\|_2\). Its mean over ID images predicted as class k is \(m_k\).
    The score is \(z(\log \sum_k \exp l_k) + z(\cos(r, m_{\hat y}))\), where \(z\) gives ID images
    mean 0 and deviation 1.

    Args:
        rowspace: Whether the residual is across the weights of all classes instead.

    Raises:
        ValueError: In `check`, if the weights of all classes leave no residual; in `fit`, if
            energy and cosine are both constant among ID images.

    Source:
        Yang, Kim and Bahk, "CORE: Robust Out-of-Distribution Detection via Confidence and
        Orthogonal Residual Scoring", arXiv 2026, https://arxiv.org/abs/2603.18290. Experimental:
        written from the abstract and summaries of the paper.
    Fitted on:
        10,000 ID validation images. They are grouped by predicted class.
    Needs:
        Penultimate feature, logits, linear head.
    Differs:
        The images of the fit, their grouping and the single direction are our reading. A class
        that is never predicted takes the mean of all. A residual of zero has cosine 0. What is
        constant among ID images does not count.
    """

    fit_on = "validation"
    needs_linear_head = True

    def __init__(self, *, rowspace: bool = False) -> None:
        super().__init__()
        self.rowspace = rowspace
        self.bank = Bank(ROWS)
        self.learns("rows", "prototype", "mean", "deviation")

    def check(self, network: Network) -> None:
        """Checks that the head leaves a residual.

        Raises:
            ValueError: If the weights of the classes span all features.
        """
        super().check(network)
        if self.rowspace and (rank := rows_of(network).shape[1]) >= network.head.in_features:
            raise ValueError(
                f"expected weights of classes that span less than the {rank} dimensions of the "
                "feature, got all of them; set rowspace=False"
            )

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features and logits."""
        self.bank.update(torch.cat([seen.feature, seen.logits], dim=1), index)

    def fit(self, network: Network) -> None:
        """Computes the class means, and the mean and deviation of energy and cosine."""
        self.check(network)
        if self.rowspace:
            self.rows = rows_of(network)
        sizes = [network.head.in_features, network.num_classes]
        feature, logits = self.bank.compute().split(sizes, dim=1)
        sums, residual = ClassSums(), self.residual(feature, logits, network)
        sums.update(residual, logits.argmax(dim=1), network.num_classes)
        self.prototype = F.normalize(filled(sums), dim=1)
        part = self.parts(feature, logits, network)
        self.mean, deviation = part.mean(dim=0), part.std(dim=0, correction=0)
        if (deviation <= SMALLEST_DEVIATION).all():
            raise ValueError(
                "expected ID images whose energies or residuals differ, got constant ones; "
                "use more images"
            )
        self.deviation = torch.where(deviation > SMALLEST_DEVIATION, deviation, torch.inf)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) sums of standardised energy and cosine."""
        part = self.parts(seen.feature, seen.logits, seen.network)
        return ((part - self.mean) / self.deviation).sum(dim=1)

    def parts(self, feature: Tensor, logits: Tensor, network: Network) -> Tensor:
        """Returns (B, 2) energies and cosines in float64."""
        direction = F.normalize(self.residual(feature, logits, network), dim=1)
        cosine = (direction * self.prototype[logits.argmax(dim=1)]).sum(dim=1)
        return torch.stack([logits.double().logsumexp(dim=1), cosine], dim=1)

    def residual(self, feature: Tensor, logits: Tensor, network: Network) -> Tensor:
        """Returns (B, D) residuals in float64; what rounding alone leaves is zero."""
        feature = feature.double()
        if self.rowspace:
            along = feature @ self.rows @ self.rows.mT
        else:
            weight = network.head.weight.detach().double()[logits.argmax(dim=1)]
            unit = F.normalize(weight, dim=1)
            along = (feature * unit).sum(dim=1, keepdim=True) * unit
        residual, length = feature - along, feature.norm(dim=1, keepdim=True)
        noise = residual.norm(dim=1, keepdim=True) <= SMALLEST_RESIDUAL * length
        return residual.masked_fill(noise, 0)

    def extra_repr(self) -> str:
        """Describes the residual."""
        return f"rowspace={self.rowspace}"


def rows_of(network: Network) -> Tensor:
    """Returns the (D, R) orthonormal basis of the space that the head's weights span."""
    _, scale, row = torch.linalg.svd(network.head.weight.detach().double(), full_matrices=False)
    noise = row.shape[1] * torch.finfo(torch.float32).eps
    basis: Tensor = row[scale > noise * scale[0]].mT
    return basis

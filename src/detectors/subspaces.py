"""Detectors that compare a feature with the principal subspace of ID images."""

__all__ = ["Residual", "ViM", "collapsed_dimension", "principal_directions"]

import torch
from torch import Tensor

from src.detectors.base import Detector
from src.metrics.statistics import Bank, Moments
from src.network import ForwardPass, Network

VIRTUAL_LOGIT_ROWS = 10_000  # ID images, chosen by hashed index, that scale ViM's virtual logit
SMALLEST_RESIDUAL = 1e-6  # relative to the distance from the origin: rounding noise of float32
SMALLEST_VARIANCE = 1e-10  # of standardised values or rows of length 1: rounding leaves as much


class Residual(Detector):
    r"""Negative length of the part of the feature outside the principal subspace of ID images.

    This is \(-\|R (h - u)\|_2\). The origin \(u = -W^+ b\) has logits of zero, and \(R\) projects
    on the eigenvectors of the second moment about \(u\), without the `dimension` largest.

    Args:
        dimension: Dimension of the principal subspace. None takes the authors' rule: 1000 if the
            feature has 2048 or more values, 512 if it has 768 or more, and half of them otherwise.

    Raises:
        ValueError: If the dimension is below 1; in `check` and `fit`, if it is not below the width
            of the feature.

    Source:
        Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022,
        https://arxiv.org/abs/2203.10807, Eq. 4.
    Fitted on:
        All ID training images.
    Needs:
        Penultimate feature, linear head.
    Differs:
        OpenOOD fits on validation images and takes 512 dimensions, which leaves nothing of a
        feature of width 512.
    """

    needs_linear_head = True

    def __init__(self, dimension: int | None = None) -> None:
        super().__init__()
        if dimension is not None and dimension < 1:
            raise ValueError(
                f"expected a dimension of at least 1, got {dimension}; set None for the usual one"
            )
        self.dimension = dimension
        self.moments = Moments()
        self.learns("origin", "basis")

    def check(self, network: Network) -> None:
        """Checks that the dimension is below the width of the feature.

        Raises:
            ValueError: If the subspace is the whole space.
        """
        super().check(network)
        self.principal_of(network)

    def principal_of(self, network: Network) -> int:
        """Returns the dimension of the principal subspace.

        Raises:
            ValueError: If it is not below the width of the feature.
        """
        size = network.head.in_features
        principal = self.dimension or (1000 if size >= 2048 else 512 if size >= 768 else size // 2)
        if principal >= size:
            raise ValueError(
                f"expected a dimension below that of the feature, {size}, got {principal}; "
                "set dimension=None for the usual one"
            )
        return principal

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features."""
        self.moments.update(seen.feature)

    def fit(self, network: Network) -> None:
        """Computes the origin and the subspace."""
        self.check(network)
        principal = self.principal_of(network)
        weight, bias = network.head.weight.detach().double(), network.head.bias
        size = weight.shape[1]
        moments = self.moments.compute()
        offset = weight.new_zeros(len(weight)) if bias is None else bias.detach().double()
        # rows of a head may sum to zero: a direction of float32 rounding noise must not count
        noise = size * torch.finfo(torch.float32).eps
        self.origin = -torch.linalg.pinv(weight, rtol=noise) @ offset
        shift = moments.mean - self.origin
        _, direction = torch.linalg.eigh(moments.covariance + torch.outer(shift, shift))
        self.basis = direction[:, : size - principal].contiguous()

    def residual(self, feature: Tensor) -> Tensor:
        """Returns the (B,) lengths of the outside part of features (B, D), in float64."""
        outside = (feature.double() - self.origin) @ self.basis
        length: Tensor = torch.linalg.vector_norm(outside, dim=1)
        return length

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative lengths."""
        return -self.residual(seen.feature)

    def extra_repr(self) -> str:
        """Describes the dimension."""
        return f"dimension={self.dimension}"


class ViM(Residual):
    r"""Energy minus a virtual logit: the scaled length of `Residual`.

    This is \(\log \sum_k \exp l_k - \alpha \|R (h - u)\|_2\), where \(\alpha\) is the mean largest
    logit of ID images divided by their mean length.

    Args:
        dimension: See `Residual`.

    Raises:
        ValueError: See `Residual`; also in `fit`, if the features of ID images lie within the
            subspace, or if their largest logits are negative on average, which would reverse the
            score.

    Source:
        Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022,
        https://arxiv.org/abs/2203.10807, Eq. 5 and 6.
    Fitted on:
        All ID training images. Alpha takes 10,000 of them.
    Needs:
        Penultimate feature, logits, linear head.
    """

    def __init__(self, dimension: int | None = None) -> None:
        super().__init__(dimension)
        self.bank = Bank(VIRTUAL_LOGIT_ROWS)
        self.learns("alpha")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features and largest logits."""
        super().update(seen, label, index)
        row = torch.cat([seen.feature, seen.logits.amax(dim=1, keepdim=True)], dim=1)
        self.bank.update(row.float(), index)

    def fit(self, network: Network) -> None:
        """Computes the origin, the subspace and the scale."""
        super().fit(network)
        row = self.bank.compute().double()
        feature, logit = row[:, :-1], row[:, -1].mean()
        length = self.residual(feature).mean()
        if length <= SMALLEST_RESIDUAL * (feature - self.origin).norm(dim=1).mean():
            raise ValueError(
                "expected ID images with a part outside of the principal subspace, got none; "
                f"set a dimension below {network.head.in_features - self.basis.shape[1]}"
            )
        if logit <= 0:
            raise ValueError(
                "expected ID images whose largest logits are above zero on average, got "
                f"{logit:.3g}; use Residual"
            )
        self.alpha = logit / length

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) energies minus virtual logits."""
        return seen.logits.double().logsumexp(dim=1) - self.alpha * self.residual(seen.feature)


def principal_directions(
    covariance: Tensor, share: float, *, at_least: int = 1, dimension: int | None = None
) -> Tensor:
    """Returns (D, Q) orthonormal directions in which ID images vary most, largest first.

    Args:
        covariance: (D, D) covariance of standardised values or of rows of about length 1.
        share: Part of the variance to explain, with as few directions as can be.
        at_least: Smallest number of directions, if the images vary in so many. D - 1 is the most.
        dimension: Number of directions, whatever they explain.

    Raises:
        ValueError: If the images vary in fewer directions: N images do in N - 1 at most.
    """
    variance, direction = torch.linalg.eigh(covariance)
    variance, direction = variance.flip(0), direction.flip(1)
    rank = int((variance > SMALLEST_VARIANCE).sum())
    if rank < (dimension or 1):
        raise ValueError(
            f"expected ID images that vary in at least {dimension or 1} directions, got {rank}; "
            "use more images, or a smaller dimension"
        )
    explained = variance[:rank].cumsum(dim=0) / variance[:rank].sum()
    fewest = int((explained[:-1] < share).sum()) + 1
    count = dimension or min(max(fewest, at_least), rank, len(variance) - 1)
    principal: Tensor = direction[:, :count].contiguous()
    return principal


def collapsed_dimension(network: Network) -> int:
    """Returns K - 1, the dimension to which neural collapse takes the features of K classes.

    A feature of fewer dimensions cannot collapse so; 1 then. A principal subspace of fewer
    directions would lack the direction of a class, and score its images as OOD.
    """
    dimension = network.num_classes - 1
    return dimension if dimension < network.head.in_features else 1

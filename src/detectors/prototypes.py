"""Detectors that compare the penultimate feature with ID means and with the head."""

__all__ = ["FDBD", "NCI", "SHE", "CADRef"]

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector
from src.metrics.statistics import ClassSums, Mean, check_labels
from src.network import ForwardPass, Network

SMALLEST_LENGTH = 1e-12  # of a divisor; a feature that equals the mean has the largest score


class SHE(Detector):
    r"""Simplified Hopfield energy: inner product with the pattern of the predicted class.

    This is \(\langle h, s_{\hat y} \rangle\), where \(s_k\) is the mean feature of correctly
    classified ID images of class k.

    Raises:
        ValueError: In `update`, if an image is unlabelled.

    Source:
        Zhang et al., "Out-of-Distribution Detection based on In-Distribution Data Patterns
        Memorization with Modern Hopfield Energy", ICLR 2023,
        https://openreview.net/forum?id=KkazG4lgKL.
    Fitted on:
        All ID training images, with labels.
    Needs:
        Penultimate feature, logits.
    Differs:
        The pattern of a class without a correctly classified image is the mean over all others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums = ClassSums()
        self.learns("pattern")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds the features of correctly classified images."""
        check_labels(label, seen.logits.shape[1])
        right = seen.logits.argmax(dim=1) == label
        self.sums.update(seen.feature[right], label[right], seen.logits.shape[1])

    def fit(self, network: Network) -> None:
        """Computes the patterns."""
        self.pattern = filled(self.sums)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) inner products."""
        pattern = self.pattern[seen.logits.argmax(dim=1)]
        return (seen.feature.double() * pattern).sum(dim=1)


def filled(statistic: ClassSums) -> Tensor:
    """Returns (K, D) class means; a class without images takes the mean of all images."""
    sums = statistic.compute()
    overall = sums.total.sum(dim=0) / sums.count.sum()
    mean = sums.total / sums.count.clamp_min(1)[:, None]
    return torch.where(sums.count[:, None] > 0, mean, overall)


class FDBD(Detector):
    r"""Distance to the decision boundaries, relative to the distance from the mean feature.

    This is the mean over classes \(k \ne \hat y\) of
    \(|l_k - l_{\hat y}| / \|w_k - w_{\hat y}\|_2\), divided by \(\|h - \mu\|_2\).

    Raises:
        ValueError: In `fit`, if the network has a single class, which has no boundary.

    Source:
        Liu and Qin, "Fast Decision Boundary based Out-of-Distribution Detector", ICML 2024,
        https://arxiv.org/abs/2312.11536.
    Fitted on:
        All ID training images.
    Needs:
        Penultimate feature, logits, linear head.
    Differs:
        Two classes with the same weights have no boundary and are ignored.
    """

    compares_classes = True
    needs_linear_head = True

    def __init__(self) -> None:
        super().__init__()
        self.average = Mean()
        self.learns("mean", "separation")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features."""
        self.average.update(seen.feature)

    def fit(self, network: Network) -> None:
        """Computes the mean and the (K, K) distances between the weights of classes."""
        self.check(network)
        weight = network.head.weight.detach().double()
        self.mean = self.average.compute()
        separation = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        self.separation = torch.where(separation > 0, separation, torch.inf)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) relative distances, at least 0."""
        logits = seen.logits.double()
        largest, predicted = logits.max(dim=1)
        boundary = (largest[:, None] - logits) / self.separation[predicted]
        length = (seen.feature.double() - self.mean).norm(dim=1).clamp_min(SMALLEST_LENGTH)
        score: Tensor = boundary.sum(dim=1) / (logits.shape[1] - 1) / length
        return score


class NCI(Detector):
    r"""Neural collapse: proximity of the centred feature to the weights of its class, plus a norm.

    This is \(\langle w_{\hat y}, (h - \mu) / \|h - \mu\|_2 \rangle + \alpha \|h\|_1\).

    Args:
        alpha: Weight of the norm.

    Source:
        Liu and Qin, "Detecting Out-of-Distribution through the Lens of Neural Collapse",
        CVPR 2025, https://arxiv.org/abs/2311.01479.
    Fitted on:
        All ID training images.
    Needs:
        Penultimate feature, logits, linear head.
    Differs:
        The authors choose alpha for each network on validation data; 0.0001 is OpenOOD's default.
    """

    needs_linear_head = True

    def __init__(self, alpha: float = 1e-4) -> None:
        super().__init__()
        self.alpha = alpha
        self.average = Mean()
        self.learns("mean")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features."""
        self.average.update(seen.feature)

    def fit(self, network: Network) -> None:
        """Computes the mean."""
        self.check(network)
        self.mean = self.average.compute()

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) proximities plus weighted norms."""
        feature = seen.feature.double()
        weight = seen.network.head.weight.double()[seen.logits.argmax(dim=1)]
        proximity = (weight * F.normalize(feature - self.mean, dim=1)).sum(dim=1)
        return proximity + self.alpha * feature.abs().sum(dim=1)

    def extra_repr(self) -> str:
        """Describes the weight of the norm."""
        return f"alpha={self.alpha}"


class CADRef(Detector):
    r"""Class-aware relative feature error, split into parts that raise and that lower the logit.

    Let \(\delta = h - \mu_{\hat y}\),
    \(e_+ = \|\mathrm{relu}(\mathrm{sign}(w_{\hat y}) \delta)\|_1 / \|h\|_1\), \(e_-\) the same for
    \(-\delta\), and \(E\) the energy. The score is \(-(e_+ / E + e_- / \bar E)\).

    Args:
        decouple: Whether to split the error. Otherwise the score is \(-(e_+ + e_-)\), which is
            CARef.

    Raises:
        ValueError: In `fit`, if the mean energy of ID images is not above zero.

    Source:
        Ling et al., "CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled
        Relative Feature Leveraging", CVPR 2025, https://arxiv.org/abs/2503.00325.
    Fitted on:
        All ID training images. They are grouped by predicted class.
    Needs:
        Penultimate feature, logits, linear head.
    Differs:
        Energy is one of the four logit scores that the authors offer. It is at least 1e-6 times
        its ID mean. A class that is never predicted takes the mean of all images.
    """

    needs_linear_head = True

    def __init__(self, *, decouple: bool = True) -> None:
        super().__init__()
        self.decouple = decouple
        self.sums, self.energies = ClassSums(), Mean()
        self.learns("mean", "energy")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds features and energies."""
        self.sums.update(seen.feature, seen.logits.argmax(dim=1), seen.logits.shape[1])
        self.energies.update(seen.logits.double().logsumexp(dim=1, keepdim=True))

    def fit(self, network: Network) -> None:
        """Computes the class means and the mean energy."""
        self.check(network)
        self.mean = filled(self.sums)
        self.energy = self.energies.compute().squeeze()
        if self.energy <= 0:
            raise ValueError(
                f"expected ID images of mean energy above zero, got {self.energy:.3g}; "
                "set decouple=False"
            )

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative relative errors, at most 0."""
        predicted, feature = seen.logits.argmax(dim=1), seen.feature.double()
        sign = seen.network.head.weight.double()[predicted].sign()
        error = sign * (feature - self.mean[predicted])
        length = feature.abs().sum(dim=1).clamp_min(SMALLEST_LENGTH)
        raised, lowered = error.relu().sum(dim=1) / length, (-error).relu().sum(dim=1) / length
        if not self.decouple:
            return -(raised + lowered)
        energy = seen.logits.double().logsumexp(dim=1)
        return -(raised / torch.maximum(energy, 1e-6 * self.energy) + lowered / self.energy)

    def extra_repr(self) -> str:
        """Describes whether the error is split."""
        return f"decouple={self.decouple}"

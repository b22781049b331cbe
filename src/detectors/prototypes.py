"""Detectors that compare the penultimate feature with means of ID images and with the head."""

__all__ = ["FDBD", "NCI", "SHE", "CADRef"]

import torch
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector
from src.metrics.statistics import ClassSums, Mean, check_labels
from src.network import ForwardPass, Network

SMALLEST_LENGTH = 1e-12  # of what is divided by; a feature at the mean itself is as ID as can be


class SHE(Detector):
    r"""Simplified Hopfield energy: inner product with the pattern of the predicted class.

    \(\langle h, s_{\hat y} \rangle\), with \(s_k\) the mean feature of ID images of class k that
    are classified right.

    Raises:
        ValueError: in `update`, if an image is unlabelled.

    Source:
        Zhang et al., "Out-of-Distribution Detection based on In-Distribution Data Patterns
        Memorization with Modern Hopfield Energy", ICLR 2023,
        https://openreview.net/forum?id=KkazG4lgKL.
    Fitted on:
        All ID training images, with labels.
    Differs:
        A class without an image classified right has the mean of all others as its pattern.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums = ClassSums()
        self.learns("pattern")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in the features of images classified right."""
        check_labels(label, seen.logits.shape[1])
        right = seen.logits.argmax(dim=1) == label
        self.sums.update(seen.feature[right], label[right], seen.logits.shape[1])

    def fit(self, network: Network) -> None:
        """Averages."""
        self.pattern = filled(self.sums)

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) inner products."""
        pattern = self.pattern[seen.logits.argmax(dim=1)]
        return (seen.feature.double() * pattern).sum(dim=1)


def filled(statistic: ClassSums) -> Tensor:
    """Returns (K, D) class means; that of all images for a class without any."""
    sums = statistic.compute()
    overall = sums.total.sum(dim=0) / sums.count.sum()
    mean = sums.total / sums.count.clamp_min(1)[:, None]
    return torch.where(sums.count[:, None] > 0, mean, overall)


class FDBD(Detector):
    r"""Distance to the decision boundaries, relative to the distance from the mean feature.

    Mean over classes \(k \ne \hat y\) of \(|l_k - l_{\hat y}| / \|w_k - w_{\hat y}\|_2\), over
    \(\|h - \mu\|_2\).

    Raises:
        ValueError: in `fit`, if the network has one class alone, which has no boundary.

    Source:
        Liu and Qin, "Fast Decision Boundary based Out-of-Distribution Detector", ICML 2024,
        https://arxiv.org/abs/2312.11536.
    Fitted on:
        All ID training images; no labels.
    Differs:
        Two classes of the same weights have no boundary and are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.average = Mean()
        self.learns("mean", "separation")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in features."""
        self.average.update(seen.feature)

    def fit(self, network: Network) -> None:
        """Finds the mean, and (K, K) distances between the classes' weights."""
        weight = network.head.weight.detach().double()
        if len(weight) < 2:
            raise ValueError("expected a network of at least two classes, got one; leave it out")
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
    r"""Neural collapse: is the centred feature close to the weights of its class, and long?

    \(\langle w_{\hat y}, (h - \mu) / \|h - \mu\|_2 \rangle + \alpha \|h\|_1\).

    Args:
        alpha: weight of the norm.

    Source:
        Liu and Qin, "Detecting Out-of-Distribution through the Lens of Neural Collapse",
        CVPR 2025, https://arxiv.org/abs/2311.01479.
    Fitted on:
        All ID training images; no labels.
    Differs:
        The authors choose alpha for each network on validation data; 0.0001 is OpenOOD's default.
    """

    def __init__(self, alpha: float = 1e-4) -> None:
        super().__init__()
        self.alpha = alpha
        self.average = Mean()
        self.learns("mean")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in features."""
        self.average.update(seen.feature)

    def fit(self, network: Network) -> None:
        """Finds the mean."""
        self.mean = self.average.compute()

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) proximities plus weighted norms."""
        feature = seen.feature.double()
        weight = seen.network.head.weight.double()[seen.logits.argmax(dim=1)]
        proximity = (weight * F.normalize(feature - self.mean, dim=1)).sum(dim=1)
        return proximity + self.alpha * feature.abs().sum(dim=1)

    def extra_repr(self) -> str:
        """Names alpha."""
        return f"alpha={self.alpha}"


class CADRef(Detector):
    r"""Class-aware relative feature error, split by what raises and what lowers the class's logit.

    With \(\delta = h - \mu_{\hat y}\),
    \(e_+ = \|\mathrm{relu}(\mathrm{sign}(w_{\hat y}) \delta)\|_1 / \|h\|_1\), \(e_-\) that of
    \(-\delta\), and the energy \(E\), the score is \(-(e_+ / E + e_- / \bar E)\).

    Args:
        decouple: whether the error is split; if not, \(-(e_+ + e_-)\), which is CARef.

    Raises:
        ValueError: in `fit`, if the mean energy of ID images is not above zero.

    Source:
        Ling et al., "CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled
        Relative Feature Leveraging", CVPR 2025, https://arxiv.org/abs/2503.00325.
    Fitted on:
        All ID training images, by predicted class; no labels.
    Differs:
        Energy is one of the authors' four choices of the logit score; it counts as at least 1e-6
        times its ID mean. A class that is never predicted has the
        mean of all images.
    """

    def __init__(self, *, decouple: bool = True) -> None:
        super().__init__()
        self.decouple = decouple
        self.sums, self.energies = ClassSums(), Mean()
        self.learns("mean", "energy")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Takes in features and energies."""
        self.sums.update(seen.feature, seen.logits.argmax(dim=1), seen.logits.shape[1])
        self.energies.update(seen.logits.double().logsumexp(dim=1, keepdim=True))

    def fit(self, network: Network) -> None:
        """Averages."""
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
        """Says whether the error is split."""
        return f"decouple={self.decouple}"

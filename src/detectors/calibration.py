"""Detectors that fit a distribution to the logits of ID images."""

__all__ = ["KLMatching", "OpenMax", "TempScale"]

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import weibull_min
from torch import Tensor
from torch.nn import functional as F

from src.detectors.base import Detector
from src.detectors.gaussians import distances
from src.detectors.logits import log_probability
from src.metrics.statistics import Bank, ClassSums, check_labels
from src.network import ForwardPass, Network

LOG_TEMPERATURE = (-5.0, 7.0)  # bounds of the search: T is between e^-5 and e^7
SMALLEST_PROBABILITY = 1e-12  # keeps the logarithm of a template finite


class TempScale(Detector):
    r"""MSP at the temperature that calibrates the network.

    This is \(\max_k \mathrm{softmax}(l / T)_k\). T maximises the likelihood of labelled images,
    between 0.007 and 1,100.

    Raises:
        ValueError: In `update`, if an image is unlabelled.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
        https://arxiv.org/abs/1706.04599, Eq. 9. OpenOOD uses it as a detector.
    Fitted on:
        All ID validation images, with labels. Training images would calibrate overconfidence.
    Needs:
        Logits.
    Differs:
        A bounded search over log T finds the minimum to 1e-6; the authors use L-BFGS from 1.5.
    """

    compares_classes = True
    fit_on = "validation"

    def __init__(self) -> None:
        super().__init__()
        self.bank = Bank()
        self.learns("temperature")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds logits and labels."""
        check_labels(label, seen.logits.shape[1])
        self.bank.update(torch.cat([seen.logits.double(), label[:, None]], dim=1), index)

    def fit(self, network: Network) -> None:
        """Computes the temperature."""
        row = self.bank.compute()
        logits, label = row[:, :-1], row[:, -1].long()

        def loss(log_temperature: float) -> float:
            return F.cross_entropy(logits / np.exp(log_temperature), label).item()

        best = minimize_scalar(
            loss, bounds=LOG_TEMPERATURE, method="bounded", options={"xatol": 1e-6}
        )
        self.temperature = logits.new_tensor(np.exp(best.x))

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) probabilities in [1/K, 1]."""
        return log_probability(seen.logits / self.temperature).exp().amax(dim=1)


class KLMatching(Detector):
    r"""Negative Kullback-Leibler divergence from the most similar class template.

    This is \(-\min_k KL(p \| d_k)\), where \(d_k\) is the mean probability vector of ID images
    predicted as class k.

    Source:
        Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings",
        ICML 2022, https://arxiv.org/abs/1911.11132.
    Fitted on:
        All ID validation images. They are grouped by predicted class.
    Needs:
        Logits.
    Differs:
        The template of a class that is never predicted is its one-hot vector, as in OpenOOD.
        Template probabilities are at least 1e-12, so that every divergence is finite.
    """

    compares_classes = True
    fit_on = "validation"

    def __init__(self) -> None:
        super().__init__()
        self.sums = ClassSums()
        self.learns("log_template")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds probabilities."""
        probability = seen.logits.double().softmax(dim=1)
        self.sums.update(probability, seen.logits.argmax(dim=1), seen.logits.shape[1])

    def fit(self, network: Network) -> None:
        """Computes the templates."""
        sums = self.sums.compute()
        total = sums.total + torch.diag(sums.count == 0)  # one-hot if empty
        template = total / sums.count.clamp_min(1)[:, None]
        self.log_template = template.clamp_min(SMALLEST_PROBABILITY).log()

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) negative divergences, at most 0."""
        logarithm = log_probability(seen.logits)
        probability = logarithm.exp()
        own = (probability * logarithm).sum(dim=1)
        return -(own[:, None] - probability @ self.log_template.mT).amin(dim=1)


class OpenMax(Detector):
    r"""One minus the probability of an unknown class that takes over part of unusual logits.

    A Weibull distribution for each class models the largest distances between the logits of
    correctly classified ID images and their class mean. It gives the weight \(w_i\) of the
    distance of an image to the class. The logits of the `alpha` most likely classes, in order
    \(i = 1, 2, \dots\), lose the share \(w_i (\alpha - i + 1) / \alpha\) to the unknown class.

    Args:
        tail: Number of largest distances in each class, at least 3.
        alpha: Number of classes whose logits are revised; all if there are fewer.

    Raises:
        ValueError: If an argument is out of range; in `update`, if an image is unlabelled.

    Source:
        Bendale and Boult, "Towards Open Set Deep Networks", CVPR 2016,
        https://arxiv.org/abs/1511.06233, Algorithms 1 and 2.
    Fitted on:
        All ID training images, with labels.
    Needs:
        Logits.
    Differs:
        Distances are Euclidean. The Weibull distribution has two parameters and is fitted by
        maximum likelihood (scipy) to the tail minus its smallest value; libmr shifts it. The
        logit of a class with fewer than three correctly classified images is never revised.
    """

    def __init__(self, tail: int = 20, *, alpha: int = 3) -> None:
        super().__init__()
        if tail < 3 or alpha < 1:
            raise ValueError(
                "expected a tail of at least 3 and alpha of at least 1, got "
                f"tail={tail}, alpha={alpha}; 20 and 3 are usual"
            )
        self.tail, self.alpha = tail, alpha
        self.bank = Bank()
        self.learns("mean", "weibull")

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds the logits of correctly classified images."""
        check_labels(label, seen.logits.shape[1])
        right = seen.logits.argmax(dim=1) == label
        row = torch.cat([seen.logits.double(), label[:, None]], dim=1)
        self.bank.update(row[right], index[right])

    def fit(self, network: Network) -> None:
        """Fits one Weibull distribution per class: (shape, scale, location)."""
        row = self.bank.compute()
        logits, label = row[:, :-1], row[:, -1].long()
        size = logits.shape[1]
        self.mean = logits.new_zeros(size, size)
        self.weibull = logits.new_tensor([1.0, 1.0, torch.inf]).repeat(size, 1)
        for k in range(size):
            own = logits[label == k]
            if len(own) < 3:
                continue
            self.mean[k] = own.mean(dim=0)
            distance = (own - self.mean[k]).norm(dim=1).sort().values[-self.tail :].cpu().numpy()
            location = distance[0] * (1 - 1e-6)
            shape, _, scale = weibull_min.fit(distance - location, floc=0)
            self.weibull[k] = logits.new_tensor([shape, scale, location])

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) probabilities of the known classes, in [0, 1]."""
        logits = seen.logits.double()
        alpha = min(self.alpha, logits.shape[1])
        likely = logits.topk(alpha, dim=1).indices
        rank = torch.arange(alpha, 0, -1, dtype=torch.float64, device=logits.device) / alpha
        shape, scale, location = self.weibull.unbind(dim=1)
        distance = distances(logits, self.mean, compute_mode="donot_use_mm_for_euclid_dist")
        beyond = ((distance - location).clamp_min(0) / scale).pow(shape)
        share = torch.zeros_like(logits).scatter(1, likely, rank.expand(len(logits), -1))
        lost = logits * share * -torch.expm1(-beyond)
        revised = torch.cat([logits - lost, lost.sum(dim=1, keepdim=True)], dim=1)
        return 1 - revised.softmax(dim=1)[:, -1]

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return f"tail={self.tail}, alpha={self.alpha}"

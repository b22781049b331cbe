"""Objectives that are a loss of the logits alone."""

__all__ = ["CrossEntropy", "LogitNorm"]

from torch import Tensor
from torch.nn import functional as F

from src.data.datasets import Batch
from src.network import Network
from src.objectives.base import Objective, target_of


class CrossEntropy(Objective):
    """Cross-entropy of the logits, with label smoothing if asked for.

    Args:
        label_smoothing: Share of the target that all classes get alike, in [0, 1).

    Raises:
        ValueError: If the share is not in [0, 1).

    Source:
        Label smoothing: Szegedy et al., "Rethinking the Inception Architecture for Computer
        Vision", CVPR 2016, https://arxiv.org/abs/1512.00567, section 7.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"expected label_smoothing in [0, 1), got {label_smoothing}; 0.1 is usual"
            )
        self.label_smoothing = label_smoothing

    def __call__(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the logits (B, K) and the mean loss ()."""
        logits = network(batch.image)
        return logits, F.cross_entropy(
            logits, target_of(batch), label_smoothing=self.label_smoothing
        )


class LogitNorm(Objective):
    r"""Cross-entropy of logits of constant norm, so that training cannot lower it by larger norms.

    \(\mathrm{CE}(l / (\tau (\|l\| + 10^{-7})))\). At test time the logits are the network's own,
    with the norm that they have.

    Args:
        temperature: \(\tau\), above 0. More classes want a smaller one.

    Raises:
        ValueError: If the temperature is not positive.

    Source:
        Wei et al., "Mitigating Neural Network Overconfidence with Logit Normalization", ICML 2022,
        https://arxiv.org/abs/2205.09310.
    Differs:
        The default is that of OpenOOD v1.5 on every data set; the authors' code tunes it on
        Gaussian noise, to 0.01 for the ten classes of CIFAR-10. Norm and loss are in float32 under
        any precision, since 1e-7 vanishes in float16.
    """

    def __init__(self, temperature: float = 0.04) -> None:
        if temperature <= 0:
            raise ValueError(f"expected a temperature above 0, got {temperature}; 0.04 is usual")
        self.temperature = temperature

    def __call__(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the network's own logits (B, K) and the mean loss () of the normalised ones."""
        logits = network(batch.image)
        norm = logits.float().norm(dim=1, keepdim=True) + 1e-7
        return logits, F.cross_entropy(
            logits.float() / (self.temperature * norm), target_of(batch)
        )

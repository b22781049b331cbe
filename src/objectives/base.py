"""The contract that every training objective keeps."""

__all__ = ["Objective", "target_of"]

from abc import ABC, abstractmethod

from torch import Tensor

from src.data.datasets import Batch
from src.network import Network


class Objective(ABC):
    """Turns a training batch into a loss.

    Attributes:
        can_compile: Whether the network may be a compiled one. Not so if the objective needs more
            of a forward pass than its logits.
    """

    can_compile: bool = True

    def check(self, network: Network) -> None:
        """Checks that the network has what the objective trains.

        Raises:
            ValueError: If it has not, or has a head that this objective would leave untrained.
        """
        if network.rotation_head is not None:
            raise ValueError(
                f"expected a network whose every head {type(self).__name__} trains, got one with "
                "a rotation head; set net.rotation_head=false, or objective=rot_pred"
            )

    @abstractmethod
    def __call__(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        """Runs a training forward pass.

        Args:
            network: The network, in training mode; it may be compiled.
            batch: Images in [0, 1] and their labels.

        Returns:
            Logits (B, K) of the images, by which correct predictions are counted, and the loss ().
        """


def target_of(batch: Batch) -> Tensor:
    """Returns what a loss compares the logits with: (B,) labels, or (B, K) those of mixtures."""
    return batch.label if batch.target is None else batch.target

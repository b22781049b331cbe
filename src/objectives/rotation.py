"""An objective that asks a second head by which angle an image was turned."""

__all__ = ["RotPred"]

import torch
from torch import Tensor
from torch.nn import functional as F

from src.data.datasets import Batch
from src.network import Network
from src.objectives.base import Objective, target_of


class RotPred(Objective):
    """Cross-entropy of the classes, plus that of the angle by which each image was turned.

    Every image runs four times, turned by 0, 90, 180 and 270 degrees. The class is learnt from the
    upright image alone. The detector `RotPred` scores what was learnt.

    Source:
        Hendrycks et al., "Using Self-Supervised Learning Can Improve Model Robustness and
        Uncertainty", NeurIPS 2019, https://arxiv.org/abs/1906.12340; both losses have weight 1, as
        in OpenOOD v1.5.
    """

    can_compile = False

    def check(self, network: Network) -> None:
        """Checks that the network has a rotation head and takes images that can be turned.

        Raises:
            ValueError: If it has none, or its images are not square.
        """
        if network.rotation_head is None:
            raise ValueError(
                "expected a network with a rotation head, got one without; set "
                "net.rotation_head=true, as objective=rot_pred does"
            )
        height, width = network.image_shape[1:]
        if height != width:
            raise ValueError(
                f"expected square images to turn, got {height}x{width}; choose another objective"
            )

    def __call__(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the logits (B, K) of the upright images, and the sum of both mean losses ()."""
        turned = torch.cat([batch.image.rot90(times, (2, 3)) for times in range(4)])
        logits, angle = network.class_and_angle(turned)
        times = torch.arange(4, device=angle.device).repeat_interleave(len(batch.label))
        logits = logits[: len(batch.label)]
        return logits, F.cross_entropy(logits, target_of(batch)) + F.cross_entropy(angle, times)

"""A forward pass as detectors see it: logits, features, norms and what was read of the maps."""

__all__ = ["ForwardPass", "Reader", "Unreached"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from src.network.network import Network

Reader = Callable[[Tensor], Tensor]  # feature map (B, C, H, W) -> (B, ...), of each image alone


class Unreached:
    """What a forward pass that was cut has in place of its logits and its feature."""

    def __getattr__(self, name: str) -> Any:
        """Refuses to be used."""
        raise AttributeError(
            f"expected a whole forward pass, got {name!r} of the logits or the feature of one "
            "that was cut before them; observe without until="
        )


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass of a batch: the only input of a detector.

    Attributes:
        image: (B, C, H, W) input, in [0, 1].
        logits: (B, K) output.
        feature: (B, D) penultimate feature, the input of the head.
        feature_map: Block -> (B, C, H, W) output, in execution order; (B, C, N, 1) for N tokens.
            Empty if the maps were not kept.
        norm: Block -> (B,) FeatureNorm, in execution order, float32.
        network: The network that was observed.
        reading: (block, reader) -> result of the reader on the feature map during the pass.
    """

    image: Tensor
    logits: Tensor
    feature: Tensor
    feature_map: Mapping[str, Tensor]
    norm: Mapping[str, Tensor]
    network: "Network"
    reading: Mapping[tuple[str, Reader], Tensor] = field(default_factory=dict)

    def read(self, block: str, reader: Reader) -> Tensor:
        """Returns the result of `reader` on the block's feature map.

        Raises:
            ValueError: If neither the map nor this result was kept.
        """
        if (block, reader) in self.reading:
            return self.reading[block, reader]
        if block not in self.feature_map:
            raise ValueError(
                f"expected the feature map of {block!r}, which was not kept; observe with "
                "keep_maps=True, or with read=detector.reads(network)"
            )
        return reader(self.feature_map[block])

    def gradient(self, score: Callable[["ForwardPass"], Tensor]) -> Tensor:
        """Returns the (B, C, H, W) gradient of each image's score with respect to the image.

        It takes a backward pass, and one more forward pass that all gradients of a batch share. It
        also works where gradients are disabled, as in Lightning's test loop.

        Args:
            score: Maps a forward pass of the same images to (B,) scores, each of its image alone.
        """
        with torch.inference_mode(False), torch.enable_grad():
            total = score(self._with_graph).sum()
            return torch.autograd.grad(total, self._with_graph.image, retain_graph=True)[0]

    @cached_property
    def _with_graph(self) -> "ForwardPass":
        return self.network.observe(self.image.clone().requires_grad_())

    def rows(self, keep: Tensor) -> "ForwardPass":
        """Returns the pass of the images where the (B,) boolean `keep` is true."""
        return ForwardPass(
            self.image[keep],
            self.logits[keep],
            self.feature[keep],
            {block: value[keep] for block, value in self.feature_map.items()},
            {block: value[keep] for block, value in self.norm.items()},
            self.network,
            {key: value[keep] for key, value in self.reading.items()},
        )

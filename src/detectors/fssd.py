"""FSSD: the distance of a feature map from the mean feature map of noise."""

__all__ = ["FSSD", "SingularityDistance"]

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from operator import methodcaller
from typing import Literal

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from src.detectors.base import BlocksDetector
from src.metrics.statistics import Bank, Moments
from src.network import ForwardPass, Network, Reader

NOISE_BATCH = 50  # noise images in one forward pass
LOGREG_ROWS = 10_000  # ID images, chosen by hashed index, and as many pseudo-OOD images


def rectified_total(feature_map: Tensor) -> Tensor:
    """Returns the (1, C * H * W) sum over images of a rectified map, float64."""
    return feature_map.float().relu().flatten(1).sum(dim=0, keepdim=True, dtype=torch.float64)


@dataclass(frozen=True)
class SingularityDistance:
    """Reads the distance of a block's rectified map from the block's singularity.

    Attributes:
        detector: The detector that holds the singularities of all blocks in one vector.
        start: First position of this block in the vector.
        stop: Position after the last one of this block.
    """

    detector: "FSSD"
    start: int
    stop: int

    def __call__(self, feature_map: Tensor) -> Tensor:
        """Returns (B,) distances, float32."""
        singularity = self.detector.singularity[self.start : self.stop]
        difference = feature_map.float().relu().flatten(1) - singularity
        distance: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return distance


class FSSD(BlocksDetector):
    r"""Distance of feature maps from the singularity, the mean feature map of noise images.

    \(\mathrm{FSSD}_l(x) = \|F_l(x) - F_l^*\|_2\) for the rectified map of each block \(l\), where
    \(F_l^*\) is the mean over noise images, uniform in \([-0.5, 0.5]\) as normalised input.

    Args:
        blocks: Module paths. None takes all blocks.
        combine: "zscore" takes the mean over blocks of the distance standardised on ID images;
            "last" takes the distance in the last block; "logreg" takes the log odds of a logistic
            regression on all distances that separates ID from pseudo-OOD images.
        noise_images: Number of noise images that define the singularity.
        seed: Seed of the noise.
        step: Step in units of the image, in [0, 1], along the standardised gradient towards the
            singularity, for each block separately. 0 takes none.
        pseudo_ood: Function of (B, C, H, W) images and (B,) indices that returns pseudo-OOD
            images. Only `combine="logreg"` takes it.

    Raises:
        ValueError: If an argument is out of range, or `pseudo_ood` does not suit `combine`.

    Source:
        Huang et al., "Feature Space Singularity for Out-of-Distribution Detection", SafeAI 2021,
        https://arxiv.org/abs/2011.14654; https://github.com/megvii-research/FSSD_OoD_Detection.
    Fitted on:
        All ID training images. "logreg" takes 10,000 of them and as many pseudo-OOD images made
        from them; "last" takes none.
    Needs:
        Feature maps of blocks.
    Extra passes:
        With `step`: one forward pass, and one forward and one backward pass for each block.
        "logreg" adds one forward pass while fitting.
    Differs:
        The authors fit the regression and choose the step on test images of the OOD set under
        test, and standardise the gradient over the whole batch. "zscore", and "last" as a score of
        its own, are experimental. If the weights change later, build a new detector.
    """

    singularity: Tensor

    def __init__(
        self,
        blocks: Sequence[str] | None = None,
        *,
        combine: Literal["zscore", "last", "logreg"] = "zscore",
        noise_images: int = 100,
        seed: int = 0,
        step: float = 0.0,
        pseudo_ood: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(blocks)
        if combine not in ("zscore", "last", "logreg"):
            raise ValueError(
                f"expected combine 'zscore', 'last' or 'logreg', got {combine!r}; choose one"
            )
        if noise_images < 1 or step < 0:
            raise ValueError(
                "expected at least one noise image and a step of at least 0, got "
                f"noise_images={noise_images}, step={step}; 100 and 0 are usual"
            )
        if (combine == "logreg") != (pseudo_ood is not None):
            raise ValueError(
                "expected pseudo_ood with combine='logreg' and not otherwise, got "
                f"combine={combine!r}, pseudo_ood={pseudo_ood!r}; the jigsaw is one choice"
            )
        self.combine, self.noise_images, self.seed = combine, noise_images, seed
        self.step, self.pseudo_ood = step, pseudo_ood
        self.moments, self.bank = Moments(), Bank(LOGREG_ROWS, seed=seed)
        self.learns("singularity", "weight", "bias")

    @property
    def is_fitted_on_data(self) -> bool:
        """Whether several blocks are combined."""
        return self.combine != "last"

    def prepare(self, network: Network) -> None:
        """Computes the singularity, unless it is known: forward passes of the noise images.

        Raises:
            ValueError: If the known singularity belongs to another network or to other blocks.
        """
        blocks = self.blocks_of(network)
        if self._buffers["singularity"] is None:
            self.singularity = self._mean_of_noise(network, blocks)
        size = sum(prod(network.places[block].shape) for block in blocks)
        if size != len(self.singularity):
            raise ValueError(
                f"expected maps of {len(self.singularity)} values, as in the singularity that was "
                f"computed or loaded, got {size}; use the same network and blocks"
            )

    def reads(self, network: Network) -> Iterable[tuple[str, Reader]]:
        """Returns the blocks and the readers of their distances; `prepare` must run before."""
        blocks = self.blocks_of(network)
        ends = accumulate((prod(network.places[b].shape) for b in blocks), initial=0)
        return tuple(
            (block, SingularityDistance(self, start, stop))
            for block, (start, stop) in zip(blocks, pairwise(ends), strict=True)
        )

    def update(self, seen: ForwardPass, label: Tensor, index: Tensor) -> None:
        """Adds distances; "logreg" runs one more forward pass, of pseudo-OOD images."""
        distance = self._distance(seen)
        if self.combine == "zscore":
            self.moments.update(distance)
        if self.pseudo_ood is not None:
            image, read = self.pseudo_ood(seen.image, index), self.reads(seen.network)
            other = self._distance(seen.network.observe(image, keep_maps=False, read=read))
            self.bank.update(torch.stack([distance, other], dim=1), index)

    def fit(self, network: Network) -> None:
        """Computes the weights of the distances."""
        if self.combine == "zscore":
            moments = self.moments.compute()
            spread = moments.covariance.diagonal().clamp_min(0).sqrt()
            # a block with the same distance for all ID images is not rescaled
            spread = torch.where(spread > 1e-7 * moments.mean, spread, 1)
            self.weight = 1 / spread / len(spread)
            self.bias = -(moments.mean * self.weight).sum()
        if self.combine == "logreg":
            self.weight, self.bias = log_odds(self.bank.compute())

    def score(self, seen: ForwardPass) -> Tensor:
        """Returns (B,) combined distances."""
        distance = self._distance(seen)
        if self.combine == "last":
            return distance[:, 0]
        return distance @ self.weight + self.bias

    def blocks_of(self, network: Network) -> tuple[str, ...]:
        """Returns the module paths of the blocks that count, in execution order."""
        blocks = super().blocks_of(network)
        return blocks[-1:] if self.combine == "last" else blocks

    @torch.inference_mode(False)
    @torch.no_grad()
    def _mean_of_noise(self, network: Network, blocks: Sequence[str]) -> Tensor:
        """Returns the singularities of all blocks in one vector, in evaluation mode."""
        shape = (self.noise_images, *network.image_shape)
        generator = torch.Generator().manual_seed(self.seed)
        noise = (torch.randint(0, 255, shape, generator=generator) - 127.5) / 255
        read = [(block, rectified_total) for block in blocks]
        mode = {
            module: module.training for module in network.modules()
        }  # single modules may be frozen
        network.eval()
        total = torch.zeros((), dtype=torch.float64, device=network.mean.device)
        try:
            for part in noise.to(network.mean.device).split(NOISE_BATCH):
                image = part * network.std + network.mean
                seen = network.observe(image, keep_maps=False, read=read)
                total = total + torch.cat([seen.reading[pair][0] for pair in read])
        finally:
            for module, training in mode.items():
                module.training = training
        return (total / self.noise_images).float()

    def _distance(self, seen: ForwardPass) -> Tensor:
        """Returns (B, L) distances in float64, after the step if there is one."""
        self.prepare(seen.network)
        pairs = tuple(self.reads(seen.network))
        if self.step == 0:
            return torch.stack([seen.read(*pair) for pair in pairs], dim=1).double()
        moved = self._moved(seen, pairs)
        column = [
            seen.network.observe(image, keep_maps=False, read=(pair,)).reading[pair]
            for pair, image in zip(pairs, moved, strict=True)
        ]
        return torch.stack(column, dim=1).double()

    def _moved(self, seen: ForwardPass, pairs: Sequence[tuple[str, Reader]]) -> list[Tensor]:
        """Returns, for each block, the images moved towards its singularity."""
        gradients = [seen.gradient(methodcaller("read", *pair)) for pair in pairs]
        return [seen.image - self.step * standardised(g * seen.network.std) for g in gradients]

    def extra_repr(self) -> str:
        """Describes all arguments."""
        return (
            f"blocks={self.blocks!r}, combine={self.combine!r}, noise_images={self.noise_images}, "
            f"seed={self.seed}, step={self.step}, pseudo_ood={self.pseudo_ood!r}"
        )


def standardised(gradient: Tensor) -> Tensor:
    """Returns (B, C, H, W) gradients of mean 0 and deviation 1 per image; 0 if constant."""
    dims = (1, 2, 3)
    centred = gradient - gradient.mean(dim=dims, keepdim=True)
    spread = centred.square().mean(dim=dims, keepdim=True).sqrt()
    return torch.where(spread > 0, centred / spread, 0)


def log_odds(distance: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (L,) weights and () bias that separate (N, 2, L) ID and pseudo-OOD distances."""
    row = distance.flatten(0, 1).cpu().numpy()  # ID and pseudo-OOD in turn
    mean, spread = row.mean(axis=0), row.std(axis=0)
    spread[spread == 0] = 1
    fitted = LogisticRegression(max_iter=1000).fit((row - mean) / spread, [1, 0] * len(distance))
    weight = fitted.coef_[0] / spread
    bias = fitted.intercept_[0] - (mean * weight).sum()
    return distance.new_tensor(weight), distance.new_tensor(bias)

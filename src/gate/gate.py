"""The gate: decides whether an image is OOD, at a promised rate of false alarms."""

__all__ = ["Gate", "Judgement", "Verdict"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from src.detectors import Detector
from src.gate.calibration import Calibration
from src.gate.picture import Image, Picture
from src.network import ForwardPass, Network
from src.network.precision import in_float32
from src.network.weights import digest


class Judgement(NamedTuple):
    """What a gate says of a batch, image by image."""

    label: Tensor  # (B,) int64, predicted class
    probability: Tensor  # (B,) float32, softmax of that class
    score: Tensor  # (B,) float64, higher = more in-distribution
    p_value: Tensor  # (B,) float64 in (0, 1], small = out-of-distribution
    is_ood: Tensor  # (B,) bool, whether p_value <= alpha


class Verdict(NamedTuple):
    """What a gate says of one image."""

    label: str | None  # predicted class; None if the gate was asked not to classify
    probability: float | None  # softmax of that class; not calibrated
    score: float  # higher = more in-distribution
    p_value: float  # small = out-of-distribution
    is_ood: bool


class Gate(nn.Module):
    """All that a decision needs: network, fitted detector, calibration and image pipeline.

    `python -m src.deploy` makes one, and `Gate.load` reads it.

    Args:
        network: Trained classifier.
        detector: Fitted detector.
        calibration: Scores of held-out ID images under this detector.
        classes: Names of the classes, where label k is `classes[k]`.
        picture: Image pipeline.
        name: Name of the detector.
        made: Facts about how the gate was made, for the reader.

    Attributes:
        cut: Block behind which the network need not run if the class is not asked for; None if
            the detector needs the whole network. Found by trying.

    Example:
        >>> gate = Gate.load("gate.pt")  # doctest: +SKIP
        >>> gate("photo.jpg").is_ood  # doctest: +SKIP
        True
    """

    def __init__(
        self,
        network: Network,
        detector: Detector,
        calibration: Calibration,
        *,
        classes: Sequence[str],
        picture: Picture,
        name: str,
        made: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        detector.check(network)
        self.network, self.detector, self.calibration = network, detector, calibration
        self.classes, self.picture, self.name = tuple(classes), picture, name
        self.made = dict(made or {})
        self.eval().requires_grad_(False)
        self.cut = self._find_cut()

    @classmethod
    def load(cls, path: str | Path, *, trust: bool = False) -> "Gate":
        """Returns the gate in a file; no code in it runs.

        Args:
            path: File of `src.deploy`.
            trust: Whether the file may name classes of any package, such as a detector of yours.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, of a later version, no gate, or builds something foreign.
        """
        from src.gate.file import load

        return load(Path(path), cls, trust=trust)

    @property
    def alpha(self) -> float:
        """Promised largest rate of false alarms."""
        return self.calibration.alpha

    @property
    def score_threshold(self) -> float | dict[str, float]:
        """Score below which an image is OOD; one of each class if it is conditional."""
        threshold = self.calibration.threshold
        if len(threshold) == 1:
            return threshold[0]
        return dict(zip(self.classes, threshold, strict=True))

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.network.mean.device

    @property
    def digest(self) -> str:
        """SHA-256 of weights, fitted state, calibration, pipeline and classes."""
        state = {k: v for k, v in self.state_dict().items() if isinstance(v, Tensor)}
        facts = (self.name, self.alpha, self.calibration.by_class, self.classes, self.picture)
        return digest(*facts, self.network.measured, *state, *state.values())

    def forward(
        self, image: Image | Sequence[Image], *, classify: bool = True
    ) -> Verdict | list[Verdict]:
        """Decides about an image, or each of a batch.

        Args:
            image: Path, bytes, Pillow image, array (H, W, C) or (H, W), or tensor (C, H, W), as in
                `Picture`; a list of these, an array (B, H, W, C) or a tensor (B, C, H, W) for a
                batch.
            classify: Whether to tell the class. If not, the network ends behind the block that
                the detector reads, where there is one.

        Raises:
            OSError: If a file cannot be read or is no picture.
            ValueError: If an image has another shape or type, or pixels that are NaN.
        """
        many = isinstance(image, list | tuple)
        many |= isinstance(image, Tensor | np.ndarray) and image.ndim == 4
        images: Sequence[Image] = image if many else [image]  # type: ignore[assignment, list-item]
        if len(images) == 0:
            return []
        batch = torch.stack([self.picture(each) for each in images]).to(self.device)
        verdicts = self.verdicts(self.judge(batch, classify=classify), classify=classify)
        return verdicts if many else verdicts[0]

    def judge(self, image: Tensor, *, classify: bool = True) -> Judgement:
        """Decides about (B, C, H, W) images in [0, 1], of the network's size.

        Without `classify`, label and probability are 0.
        """
        with in_float32(image.device), torch.inference_mode(False), torch.no_grad():
            return self.judgement(image, classify=classify)

    def judgement(self, image: Tensor, *, classify: bool = True) -> Judgement:
        """Decides as `judge` does, in the precision and mode of the caller."""
        classify = classify or self.calibration.by_class
        seen = self._observe(image, None if classify else self.cut)
        score = self.detector.score(seen).double()
        if classify:
            probability, label = seen.logits.softmax(dim=1).max(dim=1)
        else:
            label, probability = torch.zeros_like(score).long(), torch.zeros_like(score).float()
        return Judgement(label, probability, score, *self.calibration(score, label))

    def verdicts(self, judgement: Judgement, *, classify: bool = True) -> list[Verdict]:
        """Returns what is said of each image of a batch."""
        columns = [column.tolist() for column in judgement]
        return [
            Verdict(
                self.classes[label] if classify else None,
                probability if classify else None,
                score,
                p,
                is_ood,
            )
            for label, probability, score, p, is_ood in zip(*columns, strict=True)
        ]

    def _observe(self, image: Tensor, until: str | None) -> ForwardPass:
        self.detector.prepare(self.network)
        read = self.detector.reads(self.network)
        return self.network.observe(image, keep_maps=False, read=read, until=until)

    def _find_cut(self) -> str | None:
        """Returns the first block behind which the network may end with the score unchanged."""
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(2, *self.network.image_shape, generator=generator).to(self.device)
        with in_float32(self.device), torch.inference_mode(False), torch.no_grad():
            whole = self.detector.score(self._observe(image, None))
            for block in self.network.blocks:
                try:
                    score = self.detector.score(self._observe(image, block))
                except (AttributeError, KeyError, TypeError, ValueError):  # it reads on
                    continue
                if torch.equal(score, whole):
                    return block
        return None

    def extra_repr(self) -> str:
        """Describes what decides."""
        return f"detector={self.name}, classes={len(self.classes)}, alpha={self.alpha}"

"""What every runner is given, and what it gives back."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from src.models import vgg11

Pair = tuple[str, str]  # detector, OOD set
KEPT_OUT = 1  # training images that only ours holds out for a validation


@dataclass
class Outcome:
    """What one evaluation gives.

    Attributes:
        metrics: (detector, OOD set) -> AUROC and FPR95, in the convention of the library.
        scores: Returns (detector, set) -> (N,) scores, higher = more in-distribution. What a
            library computes but does not return is computed again, outside the clock.
    """

    metrics: dict[Pair, tuple[float, float]]
    scores: Callable[[], dict[Pair, Tensor]]


class Normalise(nn.Module):
    """Maps images in [0, 1] to [-1, 1]."""

    def forward(self, image: Tensor) -> Tensor:
        """Returns the normalised (B, C, H, W) images."""
        return (image - 0.5) / 0.5


class Classifier(nn.Module):
    """VGG-11 as an encoder and a head, which is how every library finds the feature."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        net = vgg11()
        net.load_state_dict(state)
        pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.encoder = nn.Sequential(
            Normalise(), *net.features, *pooled, *list(net.classifier)[:-1]
        )
        self.head = cast(nn.Linear, net.classifier[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Returns (B, K) logits of (B, 3, 32, 32) images in [0, 1]."""
        logits: Tensor = self.head(self.encoder(image))
        return logits


class Case:
    """Weights and images of a comparison, as `bench.peers` wrote them.

    Attributes:
        state: State dict of the VGG-11.
        image: Name of each set -> (N, 3, 32, 32) uint8; "train", "id" and the OOD sets.
        label: Name of each set -> (N,) int64.
        batch: Images in a batch.
    """

    def __init__(self, folder: Path) -> None:
        content: dict[str, Any] = torch.load(folder / "case.pt", weights_only=True)
        self.state = content["state"]
        self.image, self.label = content["image"], content["label"]
        self.batch: int = content["batch"]
        self.fit_images: int = content["fit_images"]

    def classifier(self) -> Classifier:
        """Returns the network in evaluation mode."""
        return Classifier(self.state).eval()

    def fit_on(self, images: int) -> None:
        """Takes as many training images from here on."""
        self.fit_images = images

    def dataset(self, name: str, *, label: int | None = None) -> TensorDataset:
        """Returns a set of float images in [0, 1], in memory, with its labels or a given one."""
        rows = slice(KEPT_OUT, KEPT_OUT + self.fit_images) if name == "train" else slice(None)
        image, own = self.image[name][rows].float() / 255, self.label[name][rows]
        return TensorDataset(image, own if label is None else torch.full_like(own, label))

    def loader(self, name: str) -> DataLoader[Any]:
        """Returns a loader of a set, in its order."""
        return DataLoader(self.dataset(name), self.batch)

    def batches(self, name: str) -> Sequence[Tensor]:
        """Returns the images of a set, batch by batch."""
        batches: Sequence[Tensor] = self.dataset(name).tensors[0].split(self.batch)
        return batches


def read_tasks(folder: Path, runner: str) -> list[dict[str, Any]]:
    """Returns the tasks of a runner: detectors, OOD sets, images to fit on."""
    tasks: list[dict[str, Any]] = json.loads((folder / "tasks.json").read_text())[runner]
    return tasks

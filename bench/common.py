"""Shared by the benchmarks: images in memory, the network, and paired timing."""

import argparse
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any, cast

import lightning as L
import torch
from torch.utils.data import DataLoader

from src.data import Batch, ImageData, ImageSet, Source
from src.models import resnet18
from src.network import Network
from src.run.trainer import quiet_lightning

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where a trainer puts its module


class RandomImages(Source):
    """A source of random 32 x 32 images: speed does not depend on what is on them."""

    classes = tuple("0123456789")

    def __init__(self, count: int) -> None:
        self.count = count

    def load(self) -> ImageSet:
        """Returns `count` images with random labels."""
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(256, (self.count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        label = torch.randint(10, (self.count,), generator=generator)
        return ImageSet(image, label, self.classes)


def arguments(images: int, batch: int, *switches: str) -> argparse.Namespace:
    """Returns the command line, with switches of a benchmark of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    parser.add_argument("--channels-last", action="store_true")
    for switch in ("compiled", *switches):
        parser.add_argument(f"--{switch}", action="store_true")
    return parser.parse_args()


def new_network(channels_last: bool, **options: Any) -> Network:
    """Returns ResNet18 with its 8 blocks, and with more options of `Network`."""
    torch.manual_seed(0)
    network = Network(resnet18(), r"layer[1-4]\.\d+", **options)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def image_data(train: int, validation: int, ood: Sequence[int], batch: int) -> ImageData:
    """Returns random ID images, of which `validation` are held out, and random OOD sets."""
    sets = {f"ood_{number}": RandomImages(count) for number, count in enumerate(ood)}
    return ImageData(
        RandomImages(train + validation),
        RandomImages(validation),
        sets,
        batch_size=batch,
        eval_batch_size=batch,
        validation_size=validation,
    )


def images_of(loader: DataLoader[Batch]) -> ImageSet:
    """Returns the images behind a loader, on the device."""
    return cast(ImageSet, loader.dataset).to(DEVICE)


def new_trainer(precision: str, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """Returns a trainer that shows and keeps nothing."""
    quiet_lightning()
    return L.Trainer(
        precision=precision,  # type: ignore[arg-type]
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        **options,
    )


def alternate(
    repeats: int, *runs: Callable[[], Any], limit: float = float("inf")
) -> list[list[float]]:
    """Returns the seconds of each run: in turn, `repeats` times, after one that is not counted.

    No turn but the first that counts begins if it would end later than `limit` seconds from now.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    began = perf_counter()
    for repeat in range(repeats + 1):
        if repeat > 1 and (perf_counter() - began) * (repeat + 1) / repeat > limit:
            break
        for position, run in enumerate(runs):
            start = perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                seconds[position].append(perf_counter() - start)
    return seconds


def ratio(name: str, above: Sequence[float], below: Sequence[float]) -> None:
    """Prints minimum, median and maximum of the ratios, pair by pair."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    print(
        f"{name}: median {median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f} in "
        f"{len(ratios)} pairs; {median(above):.2f} s over {median(below):.2f} s"
    )

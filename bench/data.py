"""Images from disk and from the cache: how long a start takes, how fast batches come.

python -m bench.data FOLDER [--size 32]    # an image folder or archive, such as data/cifar10/train
"""

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from src.data import (
    BatchSampler,
    CropFlip,
    CutMix,
    Cutout,
    ImageFolder,
    ImageSet,
    Mixup,
    PixMix,
    RandAugment,
    TrivialAugment,
)
from src.data.cache import load_cached


def main() -> None:
    """Builds the cache once, opens it three times, and draws augmented batches on one core."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    with TemporaryDirectory() as cache:
        seconds = []
        for _ in range(4):
            start = perf_counter()
            images = load_cached(ImageFolder(options.folder, options.size), Path(cache))
            seconds.append(perf_counter() - start)
        assert isinstance(images, ImageSet)
        n = len(images)
        print(f"{n} images decoded and cached: {seconds[0]:.2f} s, {n / seconds[0]:.0f} images/s")
        print(f"opened again: {median(seconds[1:]):.2f} s")

        torch.set_num_threads(1)
        sampler = BatchSampler(n, options.batch, shuffle=True)
        augmentations = {"batches": None, "augmented batches": CropFlip()} | {
            type(each).__name__: each
            for each in (Cutout(), TrivialAugment(), RandAugment(), PixMix())
        }
        for name, augmentation in augmentations.items():
            rates = []
            for epoch in range(options.epochs + 1):
                sampler.set_epoch(epoch)
                start = perf_counter()
                for index in sampler:
                    batch = images[index]
                    image = batch.image
                    if augmentation is not None:
                        image = augmentation(image, batch.index, epoch)
                    image.float().div_(255)
                rates.append(n / (perf_counter() - start))
            print(f"{name} as float32, one core: {median(rates[1:]):.0f} images/s")
        for mixing in (Mixup(), CutMix()):
            start = perf_counter()
            for index in sampler:
                other = images[mixing.partner(index, 0, n)]
                mixing(images[index], other, 0, len(images.classes)).image.float().div_(255)
            rate = n / (perf_counter() - start)
            print(f"{type(mixing).__name__} as float32, one core: {rate:.0f} images/s")


if __name__ == "__main__":
    main()

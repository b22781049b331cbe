"""Training throughput of Classifier under Lightning, over a plain PyTorch loop.

python -m bench.training [--precision bf16-mixed --channels-last --compiled]
python -m bench.training --recipes    each objective and augmentation over cross-entropy
"""

import argparse
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from bench.common import (
    DEVICE,
    alternate,
    arguments,
    image_data,
    images_of,
    new_network,
    new_trainer,
    ratio,
)
from src.classifier import Classifier
from src.data import Augmentation, Compose, CropFlip, PixMix, TrivialAugment
from src.objectives import CrossEntropy, LogitNorm, Objective, RotPred


def compare_recipes(options: argparse.Namespace) -> None:
    """Times one epoch of each objective and augmentation, in turn."""
    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)

    def epoch(
        objective: Objective | None = None,
        network: dict[str, Any] | None = None,
        **more: Augmentation,
    ) -> Callable[[], None]:
        data = image_data(options.images, options.batch, [], options.batch)
        data.augmentation = Compose(crop_flip=CropFlip(), **more)
        classifier = Classifier(
            new_network(options.channels_last, **network or {}),
            objective=objective or CrossEntropy(),
            optimizer=optimizer,
        )

        def run() -> None:
            trainer = new_trainer(options.precision, max_epochs=1, limit_val_batches=0)
            trainer.fit(classifier, datamodule=data)

        return run

    runs = {
        "cross-entropy": epoch(),
        "LogitNorm": epoch(LogitNorm()),
        "T2FNorm": epoch(network={"feature_temperature": 0.1}),
        "RotPred": epoch(RotPred(), {"rotation_head": True}),
        "TrivialAugment": epoch(trivial=TrivialAugment()),
        "PixMix": epoch(pixmix=PixMix()),
    }
    plain, *others = alternate(options.repeats, *runs.values())
    for name, seconds in zip([*runs][1:], others, strict=True):
        ratio(f"step time of {name} / cross-entropy", seconds, plain)


def ways(options: argparse.Namespace) -> tuple[Callable[[], None], Callable[[], None]]:
    """Returns one epoch as a plain loop, which neither augments nor logs, and under Lightning."""
    network = new_network(options.channels_last)
    data = image_data(options.images, options.batch, [], options.batch)
    data.augmentation = CropFlip()
    images = images_of(data.fit_dataloader())
    context = new_trainer(options.precision).precision_plugin.forward_context

    optimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)
    classifier = Classifier(network, optimizer=optimizer, compiled=options.compiled)
    trained = torch.compile(network) if options.compiled else network

    def lightning_loop() -> None:
        trainer = new_trainer(options.precision, max_epochs=1, limit_val_batches=0)
        trainer.fit(classifier, datamodule=data)

    def plain_loop() -> None:
        network.to(DEVICE).train()
        step = optimizer(network.parameters())
        for order in torch.randperm(options.images, device=DEVICE).split(options.batch):
            with context():
                logits = trained(images.image[order].float() / 255)
                loss = cross_entropy(logits, images.label[order])
            step.zero_grad()
            loss.backward()
            step.step()

    return plain_loop, lightning_loop


def compare_with_plain_loop(options: argparse.Namespace) -> None:
    """Times one epoch each way."""
    plain_loop, lightning_loop = ways(options)
    plain, ours = alternate(options.repeats, plain_loop, lightning_loop)
    ratio("training throughput / plain loop", plain, ours)
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            lightning_loop()
        torch.cuda.set_sync_debug_mode("default")
        places = Counter(
            f"{wait.filename}:{wait.lineno}"
            for wait in waits
            if "synchronizing" in str(wait.message)
        )
        steps = options.images // options.batch
        print(f"the host waits for the GPU {places.total()} times in {steps} steps")
        for place, count in places.most_common():
            print(f"  {count} times at {place}")


def main() -> None:
    """Compares what the command line asks for."""
    options = arguments(1280, 128, "recipes")
    (compare_recipes if options.recipes else compare_with_plain_loop)(options)


if __name__ == "__main__":
    main()

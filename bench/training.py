"""Training throughput of Classifier under Lightning, over a plain PyTorch loop.

python -m bench.training [--precision bf16-mixed --channels-last --compiled]
"""

import argparse
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial

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
from src.data import CropFlip


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


def main() -> None:
    """Times one epoch each way."""
    options = arguments(images=1280, batch=128)
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


if __name__ == "__main__":
    main()

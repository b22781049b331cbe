"""What BlockSelection adds to a validation epoch, over one plain forward of its images.

python -m bench.block_selection [--precision bf16-mixed --channels-last]
"""

import argparse
from collections.abc import Callable
from functools import partial

import lightning as L
import torch

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
from src.block_selection import BlockSelection
from src.classifier import Classifier
from src.data.pseudo_ood import Jigsaw


def ways(options: argparse.Namespace) -> list[Callable[[], None]]:
    """Returns the plain forward, and validation: bare, with the callback, and as it ends a run."""
    network = new_network(options.channels_last).eval()
    data = image_data(options.batch, options.images, [], options.batch)
    classifier = Classifier(network)
    without = new_trainer(options.precision)
    puzzles = Jigsaw(border="keep")
    with_selection = new_trainer(options.precision, BlockSelection(puzzles))
    stable = new_trainer(
        options.precision, BlockSelection(puzzles, bootstrap=1000, stability_seeds=4)
    )
    images = images_of(data.val_dataloader()).image

    @torch.no_grad()
    def plain_forward() -> None:
        network.to(DEVICE)  # a trainer leaves it on the CPU
        with without.precision_plugin.forward_context():
            for batch in images.split(options.batch):
                network(batch.float() / 255)

    def validate(trainer: L.Trainer) -> None:
        trainer.validate(classifier, datamodule=data, verbose=False)

    return [
        plain_forward,
        *(partial(validate, each) for each in (without, with_selection, stable)),
    ]


def main() -> None:
    """Times validation with and without the callback, and the plain forward."""
    options = arguments(images=2000, batch=250)
    plain, bare, selecting, repeating = alternate(options.repeats, *ways(options))
    added = [a - b for a, b in zip(selecting, bare, strict=True)]
    ratio("BlockSelection adds / plain forward", added, plain)
    ratio("the last epoch, which repeats the selection / another epoch", repeating, selecting)


if __name__ == "__main__":
    main()

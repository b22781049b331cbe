"""The same detectors, network and images here and in pytorch-ood 0.4: time, passes, AUROC.

python -m bench.pytorch_ood [--images 500]   # as many ID images, five OOD sets
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from pytorch_ood import detector as peer
from pytorch_ood.benchmark.base import Benchmark as PeerBenchmark
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset

from bench.common import image_data, images_of, new_network, new_trainer
from src.benchmark import Benchmark
from src.data import ImageData
from src.detectors import (
    DICE,
    FDBD,
    GEN,
    KNN,
    MSP,
    NCI,
    RMDS,
    Detector,
    Energy,
    Entropy,
    Mahalanobis,
    MaxLogit,
    ViM,
)
from src.metrics import ood_metrics
from src.network import Network

OURS: dict[str, Callable[[], Detector]] = {
    "MaxSoftmax": MSP, "MaxLogit": MaxLogit, "EnergyBased": Energy, "Entropy": Entropy, "GEN": GEN,
    "KNN": KNN, "Mahalanobis": Mahalanobis, "RMD": RMDS, "ViM": partial(ViM, 64),
    "DICE": partial(DICE, percent=90), "NCI": NCI, "fDBD": FDBD,
}  # fmt: skip


class Images(PeerBenchmark):
    """The images of our benchmark as pytorch-ood wants them."""

    def __init__(self, data: ImageData) -> None:
        self.ood_names = list(data.sources[1:])
        data.test_on(("train", *data.sources))
        data.setup("test")
        sets = [images_of(loader) for loader in data.test_dataloader()]
        self.parts = [
            TensorDataset(part.image.float() / 255, part.label if i < 2 else -1 - part.label)
            for i, part in enumerate(sets)
        ]

    def train_set(self) -> Dataset[Any]:
        """Returns the images to fit on."""
        return self.parts[0]

    def test_sets(self, known: bool = True, unknown: bool = True) -> list[Dataset[Any]]:
        """Returns each OOD set behind the ID images."""
        return [ConcatDataset([self.parts[1], part]) for part in self.parts[2:]]


def theirs(network: Network, encode: Callable[[Tensor], Tensor] | None) -> list[Any]:
    """Returns their detectors; with an encoder of each one's own if none is given."""

    def encoder() -> Callable[[Tensor], Tensor]:
        return encode or (lambda image: network.observe(image, keep_maps=False).feature)

    weight, bias = network.head.weight.detach(), network.head.bias.detach()
    return [
        peer.MaxSoftmax(network), peer.MaxLogit(network), peer.EnergyBased(network),
        peer.Entropy(network), peer.GEN(network), peer.KNN(encoder(), k=50),
        peer.Mahalanobis(encoder()), peer.RMD(encoder()),
        peer.ViM(encoder(), d=64, w=weight, b=bias),
        peer.DICE(encoder(), w=weight, b=bias, p=0.9), peer.NCI(encoder(), head=network.head),
        peer.fDBD(encoder(), head=network.head),
    ]  # fmt: skip


@torch.no_grad()
def run_theirs(images: Images, detectors: list[Any], batch: int, *, as_list: bool) -> list[Any]:
    """Returns the AUROC of each detector and OOD set."""
    train = DataLoader(images.train_set(), batch)
    for detector in detectors:
        detector.to("cpu").fit(train)
    if as_list:
        return images.evaluate(detectors, {"batch_size": batch})
    return [
        {**row, "Detector": type(detector).__name__}
        for detector in detectors
        for row in images.evaluate(detector, {"batch_size": batch})
    ]


def timed(network: Network, run: Callable[[], Any]) -> tuple[Any, float, int]:
    """Returns a result, its seconds, and how many images went through the network."""
    count: list[int] = []
    handle = network.net.register_forward_hook(lambda _, inputs, __: count.append(len(inputs[0])))
    start = perf_counter()
    result = run()
    seconds = perf_counter() - start
    handle.remove()
    return result, seconds, sum(count)


def main() -> None:
    """Runs the three once each, after a forward pass that is not counted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--batch", type=int, default=250)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    network = new_network(channels_last=False).eval()
    ood = [options.images // 2] * 5
    data = image_data(options.images * 9 // 2, options.images, ood, options.batch)
    benchmark = Benchmark(network, {name: build() for name, build in OURS.items()}, data.sources)
    images = Images(data)
    trainer = new_trainer("32-true")
    network(torch.rand(options.batch, *network.image_shape))

    def shared(image: Tensor) -> Tensor:
        return network.observe(image, keep_maps=False).feature

    _, seconds, passed = timed(network, lambda: benchmark.run(trainer, data))
    print(f"ours: {seconds:.1f} s, {passed} images through the network")
    for name, encode, as_list in (("list call", shared, True), ("tutorial call", None, False)):
        detectors = theirs(network, encode)
        run = partial(run_theirs, images, detectors, options.batch, as_list=as_list)
        rows, other, passed = timed(network, run)
        print(f"{name}: {other:.1f} s ({other / seconds:.2f} of ours), {passed} images")
        difference: dict[str, list[float]] = {detector: [] for detector in OURS}
        for row in rows:
            known, unknown = (
                benchmark.scores.of(source)[:, benchmark.scores.column(row["Detector"])]
                for source in ("id", row["Dataset"])
            )
            difference[row["Detector"]].append(
                abs(ood_metrics(known, unknown)["auroc"] - row["AUROC"])
            )
        for detector, values in difference.items():
            print(f"  {detector}: AUROC differs by at most {np.max(values):.1e}")


if __name__ == "__main__":
    main()

"""Twenty detectors in one pass, over a plain forward loop over the same images.

python -m bench.detectors [--images 10000 --repeats 1]    # as many ID images, 4.5 times to fit on
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from bench.common import DEVICE, image_data, images_of, new_network, new_trainer, ratio
from src.benchmark import Benchmark
from src.detectors import (
    ASH,
    DICE,
    FDBD,
    GEN,
    HDFF,
    KNN,
    MSP,
    NAN,
    NCI,
    RMDS,
    SCALE,
    SHE,
    Detector,
    Energy,
    FeatureNorm,
    GradNorm,
    Gram,
    Mahalanobis,
    ReAct,
    SelectedNorm,
    ViM,
)
from src.network import Network

FEWEST = 60  # 4.5 times as many to fit on, which must be more than the 256 dimensions of ViM


def twenty() -> dict[str, Detector]:
    """Returns detectors that need no gradient of the image, of every family."""
    detectors: list[Detector] = [
        FeatureNorm(), MSP(), Energy(), GEN(), GradNorm(), SelectedNorm(), NAN(), ReAct(), DICE(),
        ASH(), SCALE(), Mahalanobis(), RMDS(), KNN(), ViM(), SHE(), FDBD(), NCI(), HDFF(), Gram(),
    ]  # fmt: skip
    return {type(detector).__name__: detector for detector in detectors}


def main() -> None:
    """Runs both in turn, each in a process of its own: time, forward passes, peak memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["plain", "benchmark"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.images, options.batch)))
        return
    command = [sys.executable, "-m", "bench.detectors", *sys.argv[1:], "--only"]
    runs = [
        json.loads(subprocess.run([*command, which], check=True, stdout=subprocess.PIPE).stdout)
        for _ in range(options.repeats)
        for which in ("plain", "benchmark")
    ]
    plain, ours = runs[::2], runs[1::2]
    ratio(
        "20 detectors / plain forward", *([r["seconds"] for r in runs] for runs in (ours, plain))
    )
    peak, own = (median(r["GiB"] for r in runs) for runs in (ours, plain))
    print(f"forward passes: {ours[0]['passes']}; sum of ceil(n / B): {plain[0]['passes']}")
    print(f"peak memory: {peak:.2f} GiB, {peak - own:.2f} above a plain forward loop")


def ways(images: int, batch: int) -> tuple[Network, Callable[[], None], Callable[[], None]]:
    """Returns a network, a plain forward loop and the benchmark over the same images.

    Raises:
        ValueError: If there are too few images to fit on. ViM needs more than its dimension.
    """
    if images < FEWEST:
        raise ValueError(f"expected at least {FEWEST} images, which ViM needs, got {images}")
    network = new_network(channels_last=False).eval()
    network.norm_ratio = dict.fromkeys(network.blocks, 1.0)
    data = image_data(images * 9 // 2, images, [images // 2] * 5, batch)
    benchmark = Benchmark(network, twenty(), data.sources)
    data.test_on(benchmark.loaders)
    data.setup("test")
    sets = [images_of(loader).image for loader in data.test_dataloader()]
    trainer = new_trainer("32-true")

    @torch.no_grad()
    def plain() -> None:
        network.to(DEVICE)  # a trainer leaves it on the CPU
        for image in sets:
            for part in image.split(batch):
                network(part.float() / 255)

    def ours() -> None:
        benchmark.run(trainer, data)

    return network, plain, ours


def measure(which: str, images: int, batch: int) -> dict[str, float]:
    """Returns seconds, forward passes (counted from outside) and peak GiB of this process."""
    network, plain, ours = ways(images, batch)
    with torch.no_grad():
        network(torch.rand(batch, *network.image_shape))  # not counted
    passes: list[int] = []
    network.net.register_forward_hook(lambda *_: passes.append(1))
    start = perf_counter()
    (plain if which == "plain" else ours)()
    seconds = perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "passes": len(passes), "GiB": peak}


if __name__ == "__main__":
    main()

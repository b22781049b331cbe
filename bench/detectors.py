"""Twenty detectors in one pass, over a plain forward loop over the same images.

python -m bench.detectors [--images 10000 --repeats 1]    # as many ID images, 4.5 times to fit on
"""

import argparse
import resource
import subprocess
import sys
from statistics import median

import torch

from bench.common import alternate, image_data, images_of, new_network, new_trainer, ratio
from src.benchmark import Benchmark
from src.data import ImageData
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


def twenty() -> dict[str, Detector]:
    """Returns detectors that need no gradient of the image, of every family."""
    detectors: list[Detector] = [
        FeatureNorm(), MSP(), Energy(), GEN(), GradNorm(), SelectedNorm(), NAN(), ReAct(), DICE(),
        ASH(), SCALE(), Mahalanobis(), RMDS(), KNN(), ViM(), SHE(), FDBD(), NCI(), HDFF(), Gram(),
    ]  # fmt: skip
    return {type(detector).__name__: detector for detector in detectors}


def main() -> None:
    """Times both, counts forward passes, and measures each one's memory in its own process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-of", choices=["plain", "benchmark"])
    options = parser.parse_args()

    network = new_network(channels_last=False).eval()
    network.norm_ratio = dict.fromkeys(network.blocks, 1.0)
    ood = [options.images // 2] * 5
    data = image_data(options.images * 9 // 2, options.images, ood, options.batch)
    benchmark = Benchmark(network, twenty(), data.sources)
    data.fit_on = benchmark.fit_on
    data.setup("test")
    images = torch.cat([images_of(loader).image for loader in data.test_dataloader()])

    @torch.no_grad()
    def plain_forward() -> None:
        for batch in images.split(options.batch):
            network(batch.float() / 255)

    def run() -> None:
        new_trainer("32-true").test(benchmark, datamodule=data, verbose=False)

    if options.memory_of:
        plain_forward() if options.memory_of == "plain" else run()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    plain, ours = alternate(options.repeats, plain_forward, run)
    ratio("20 detectors / plain forward", ours, plain)
    print(f"median seconds: {median(ours):.1f} and {median(plain):.1f}, {len(images)} images")
    count(benchmark, data, options.batch)
    peak = [memory_of(which, options.images) for which in ("benchmark", "plain")]
    print(f"peak memory: {peak[0]:.2f} GiB, {peak[0] - peak[1]:.2f} above a plain forward loop")


def count(benchmark: Benchmark, data: ImageData, batch: int) -> None:
    """Counts the network's forward passes from outside."""
    sizes: list[int] = []
    handle = benchmark.network.net.register_forward_hook(lambda _, x, __: sizes.append(len(x[0])))
    new_trainer("32-true").test(benchmark, datamodule=data, verbose=False)
    handle.remove()
    expected = [-(-len(images_of(loader)) // batch) for loader in data.test_dataloader()]
    print(f"forward passes: {len(sizes)}; ceil(n / B) of each source: {expected}, {sum(expected)}")


def memory_of(which: str, images: int) -> float:
    """Returns the peak of a fresh process, in GiB."""
    command = ["-m", "bench.detectors", f"--images={images}", f"--memory-of={which}"]
    done = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 2**20


if __name__ == "__main__":
    main()

"""Wall time of the benchmark with 11 columns, over a plain forward loop over the same images.

python -m bench.benchmark [--channels-last]
"""

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
from src.benchmark import Benchmark
from src.detectors import MSP, Energy, FeatureNorm, MaxLogit


def main() -> None:
    """Times FeatureNorm on all 8 blocks, MSP, MaxLogit and Energy on ID and two OOD sets."""
    options = arguments(images=1000, batch=250)
    network = new_network(options.channels_last).eval()
    ood = [options.images // 2, options.images // 2]
    data = image_data(options.batch, options.images, ood, options.batch)
    images = torch.cat([images_of(loader).image for loader in data.test_dataloader()])
    detectors = {
        "featurenorm": FeatureNorm(at="each_block"),
        "msp": MSP(),
        "maxlogit": MaxLogit(),
        "energy": Energy(),
    }
    benchmark = Benchmark(network, detectors, data.sources)
    trainer = new_trainer(options.precision)

    @torch.no_grad()
    def plain_forward() -> None:
        network.to(DEVICE)  # a trainer leaves it on the CPU
        for batch in images.split(options.batch):
            network(batch.float() / 255)

    plain, ours = alternate(
        options.repeats,
        plain_forward,
        lambda: benchmark.run(trainer, data),
    )
    ratio("benchmark / plain forward", ours, plain)


if __name__ == "__main__":
    main()

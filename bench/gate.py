"""What a decision costs beside a plain forward: gate, cut gate, .pt2 and ONNX Runtime.

python -m bench.gate [--repeats 7] [--batches 1 64]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.common import alternate, new_network, ratio
from src.detectors import FeatureNorm
from src.gate import Calibration, Gate, Picture
from src.gate.export import FORMATS, SAVED, traced

BLOCKS = {"early": "layer1.0", "middle": "layer2.1", "last": "layer4.1"}


def new_gate(block: str) -> Gate:
    """Returns a gate of ResNet18 for images of 32 pixels; speed does not depend on weights."""
    network = new_network(channels_last=False)
    classes = [str(number) for number in range(network.num_classes)]
    calibration = Calibration(torch.rand(1000), None, 0.05, classes)
    return Gate(
        network,
        FeatureNorm(at=block),
        calibration,
        classes=classes,
        picture=Picture(network.image_shape),
        name="feature_norm",
    )


def exported(gate: Gate, folder: Path, *, classify: bool) -> dict[str, Callable[..., object]]:
    """Returns format -> function of uint8 pixels, read from a file."""
    program = traced(gate, classify=classify)
    runs = {}
    for each in FORMATS:
        save, read = SAVED[f".{each}"]
        path = folder / f"{classify}.{each}"
        save(program, path, {"detector": gate.name})
        runs[each] = read(path)
    return runs


def flops(run: Callable[[], object]) -> int:
    """Returns the floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def compare(place: str, image: Tensor, repeats: int) -> None:
    """Prints ratios to a plain forward of the same pixels."""
    gate = new_gate(BLOCKS[place])
    pixels = image.float() / 255
    array = np.ascontiguousarray(image.numpy())
    with TemporaryDirectory() as folder, torch.no_grad():
        whole = exported(gate, Path(folder), classify=True)
        cut = exported(gate, Path(folder), classify=False)
        runs = {
            "plain network": lambda: gate.network(pixels),
            "gate": lambda: gate.judge(pixels),
            "gate, classify=False": lambda: gate.judge(pixels, classify=False),
            **{f"{each}, with resize": lambda run=run: run(array) for each, run in whole.items()},
            **{
                f"{each}, with resize, classify=False": lambda run=run: run(array)
                for each, run in cut.items()
            },
        }
        seconds = dict(zip(runs, alternate(repeats, *runs.values()), strict=True))
    print(f"{place} block {BLOCKS[place]}, batch {len(image)}")
    for name, each in seconds.items():
        if name != "plain network":
            ratio(f"  {name} / plain network", each, seconds["plain network"])
    share = flops(lambda: gate.network.observe(pixels, keep_maps=False, until=gate.cut)) / flops(
        lambda: gate.network(pixels)
    )
    print(f"  the cut network has {share:.3f} of the floating-point operations")


def main() -> None:
    """Compares at every place, for one image and for a batch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    asked = parser.parse_args()
    for place in BLOCKS:
        for batch in asked.batches:
            image = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
            compare(place, image, asked.repeats)


if __name__ == "__main__":
    main()

"""What observing costs beside a plain forward: FeatureNorm of every block, inputs of NormProfile.

python -m bench.observe [--repeats 15]
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import resnet50

from bench.common import DEVICE, alternate, ratio
from src.data.distortions import Invert
from src.detectors import NormProfile
from src.models import resnet18
from src.network import Network

BLOCKS = r"layer[1-4]\.\d+"
PROFILE = NormProfile({"invert": Invert()})
CASES: dict[str, tuple[Callable[[], Network], int]] = {
    "ResNet18, 128 images of 32": (lambda: Network(resnet18(), BLOCKS), 128),
    "ResNet50, 16 images of 224": (
        lambda: Network(resnet50(), BLOCKS, image_shape=(3, 224, 224)),
        16,
    ),
}


@torch.no_grad()
def prepared(case: str) -> tuple[Network, Tensor]:
    """Returns a network in evaluation mode and a batch, on the device."""
    make, batch = CASES[case]
    torch.manual_seed(0)
    network = make().eval().to(DEVICE)
    return network, torch.rand(batch, *network.image_shape, device=DEVICE)


@torch.no_grad()
def run(network: Network, image: Tensor, way: str) -> None:
    """Makes one forward pass."""
    if way == "plain":
        network(image)
    elif way == "profile":
        read = PROFILE.reads(network)
        PROFILE.inputs(network.observe(image, keep_maps=False, read=read))
    else:
        network.observe(image, keep_maps=way == "observe, maps kept")


def peak(case: str, way: str) -> float:
    """Returns by how many MiB a process of its own grows in three forward passes."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.observe", "--case", case, "--way", way],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def growth(case: str, way: str) -> float:
    """Returns by how many MiB this process grows in three forward passes."""
    network, image = prepared(case)
    with torch.no_grad():
        network(image[:1])  # what is allocated once
    with peak_growth() as found:
        for _ in range(3):
            run(network, image, way)
    return found[0]


@contextmanager
def peak_growth() -> Iterator[list[float]]:
    """Yields a list that receives by how many MiB this process grew at most; reads /proc."""
    before, found = resident("VmRSS"), list[float]()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    yield found
    found.append(resident("VmHWM") - before)


def resident(entry: str) -> float:
    """Returns a line of /proc/self/status, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{entry}:")[1].split()[0]) / 1024


def compare(case: str, repeats: int) -> None:
    """Prints the ratios of one network."""
    network, image = prepared(case)
    ways = ("plain", "observe", "profile")
    plain, observed, profile = alternate(
        repeats, *(partial(run, network, image, way) for way in ways)
    )
    ratio(f"{case}: observe / plain forward", observed, plain)
    ratio(f"{case}: observe with the inputs of NormProfile / observe", profile, observed)
    memory = {way: peak(case, way) for way in (*ways, "observe, maps kept")}
    for way in ("observe", "profile", "observe, maps kept"):
        print(
            f"{case}: peak memory, {way} / plain forward: {memory[way] / memory['plain']:.3f} "
            f"({memory[way]:.0f} over {memory['plain']:.0f} MiB)"
        )


def main() -> None:
    """Times the ways in turn; measures each one's peak memory in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--way")
    options = parser.parse_args()
    if options.way:
        print(growth(options.case, options.way))
        return
    for case in CASES:
        compare(case, options.repeats)


if __name__ == "__main__":
    main()

"""What a decision costs beside a plain forward: gate, cut gate, .pt2 and ONNX Runtime.

python -m bench.gate [--seconds 420] [--threads 1] [--networks VGG11] [--result FILE]

The gates are FeatureNorm at the selected block of released networks. In each round every way of
running one takes its turn, so that a machine that slows down slows all of them down.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import onnxruntime
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from src.detectors import FeatureNorm
from src.gate import Calibration, Gate, Picture
from src.gate.export import SAVED, traced
from src.gate.file import save
from src.network import Network
from src.run.checkpoint import load_checkpoint
from src.run.configuration import without_weights
from src.run.pretrained import load_network, local_file

RESULT = Path(__file__).parents[1] / "docs/results/gate.json"
NETWORKS = {"VGG11": "vgg11_cifar10_short", "WRN-16-4": "wrn16_4_cifar10_short"}
PLAIN = "plain network"
CALLS = {1: 20, 64: 1}  # images -> calls of each way in a round
ROUNDS = (3, 15)  # fewest, even if it takes longer than asked for, and most
Ways = dict[str, Callable[[Tensor], object]]
CALIBRATION = 2500  # images; how many there are hardly changes the time


def new_gate(network: Network, score: Tensor) -> Gate:
    """Returns a gate of FeatureNorm at the selected block, calibrated on given scores."""
    classes = [str(number) for number in range(network.num_classes)]
    return Gate(
        network,
        FeatureNorm(),
        Calibration(score, None, 0.05, classes),
        classes=classes,
        picture=Picture(network.image_shape),
        name="featurenorm",
    )


def write_gate(gate: Gate, source: str, path: Path) -> None:
    """Writes a gate of a released network as `src.deploy` does."""
    config = OmegaConf.create(load_checkpoint(local_file(source))["config"])
    net: Any = OmegaConf.to_container(without_weights(config.net), resolve=True)
    save(gate, path, net, {"_target_": "src.detectors.FeatureNorm"})


def onnx(path: Path, threads: int) -> Callable[[Any], object]:
    """Returns what runs an ONNX file on so many threads, none of which waits by spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})


def exported(gate: Gate, folder: Path) -> dict[str, Path]:
    """Returns name -> file of each export, which it writes."""
    files = {}
    for classify, suffix in ((True, ""), (False, ", cut")):
        program = traced(gate, classify=classify)
        for ending, (write, _) in SAVED.items():
            path = files[f"{ending}{suffix}"] = folder / f"{classify}{ending}"
            write(program, path, {"detector": gate.name})
            print(f"  {ending}{suffix}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    return files


def ways(gate: Gate, files: Mapping[str, Path], threads: int) -> Ways:
    """Returns name -> function of (B, C, H, W) uint8 pixels; exports are read from files."""
    runs: Ways = {
        PLAIN: lambda image: gate.network(image.float() / 255),
        ".pt": lambda image: gate.judge(image.float() / 255),
        ".pt, cut": lambda image: gate.judge(image.float() / 255, classify=False),
    }
    for name, path in files.items():
        run = onnx(path, threads) if path.suffix == ".onnx" else SAVED[path.suffix][1](path)
        runs[name] = partial(on_array, run)
    return runs


def on_array(run: Callable[[Any], object], image: Tensor) -> object:
    """Runs an export, which takes arrays."""
    return run(image.numpy())


def timed(runs: Ways, image: Tensor, seconds: float) -> dict[str, list[list[float]]]:
    """Returns the seconds of each call of each way, round by round, for about so long."""
    until, calls = monotonic() + seconds, CALLS[len(image)]
    rounds: dict[str, list[list[float]]] = {name: [] for name in runs}
    for run in runs.values():
        run(image)  # warms up
    count = 0
    while count < ROUNDS[0] or (count < ROUNDS[1] and monotonic() < until):
        for name, run in runs.items():
            took = []
            for _ in range(calls):
                start = perf_counter()
                run(image)
                took.append(perf_counter() - start)
            rounds[name].append(took)
        count += 1
    return rounds


def summary(rounds: Mapping[str, list[list[float]]], images: int) -> dict[str, Any]:
    """Returns latency, throughput and ratio to the plain network of each way.

    A ratio is that of the medians of one round; its range is that over the rounds.
    """
    middle = {name: np.median(each, axis=1) for name, each in rounds.items()}
    found = {}
    for name, each in rounds.items():
        ratio = middle[name] / middle[PLAIN]
        rate = images / middle[name]
        found[name] = {
            "median_ms": 1000 * float(np.median(each)),
            "p95_ms": 1000 * float(np.quantile(each, 0.95)),
            "images_per_second": spread(rate),
            "ratio": spread(ratio),
            "rounds": len(each),
        }
    return found


def spread(values: Any) -> list[float]:
    """Returns median, minimum and maximum."""
    return [float(each(values)) for each in (np.median, np.min, np.max)]


def flops(run: Callable[[], object]) -> int:
    """Returns the floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    total: int = counter.get_total_flops()
    return total


def measured(title: str, threads: int, until: float, parts: int) -> dict[str, Any]:
    """Returns what is measured of a released network; each batch takes its part of the time."""
    source = NETWORKS[title]
    generator = torch.Generator().manual_seed(0)
    gate = new_gate(load_network(source), torch.rand(CALIBRATION, generator=generator))
    print(f"{title}: selected block {gate.network.selected}, cut behind {gate.cut}", flush=True)
    with TemporaryDirectory() as name, torch.no_grad():
        path = Path(name, "gate.pt")
        write_gate(gate, source, path)
        gate = Gate.load(path)
        files = exported(gate, path.parent)
        runs = ways(gate, files, threads)
        files |= {".pt": path, ".pt, cut": path}
        size = {way: file.stat().st_size / 1e6 for way, file in files.items()}
        image = torch.rand(1, *gate.network.image_shape, generator=generator)
        share = flops(lambda: gate.judge(image, classify=False)) / flops(
            lambda: gate.network(image)
        )
        batches = {}
        for count in CALLS:
            shape = (count, *gate.network.image_shape)
            pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
            rounds = timed(runs, pixels, max(0, until - monotonic()) / parts)
            batches[str(count)] = summary(rounds, count)
            parts -= 1
            for way, row in batches[str(count)].items():
                print(
                    f"  {count:2} images, {way:13}: {row['median_ms']:8.2f} ms, "
                    f"ratio {row['ratio'][0]:.3f} in {row['rounds']} rounds", flush=True
                )  # fmt: skip
    return {
        "selected_block": gate.network.selected,
        "cut": gate.cut,
        "share_of_flops": share,
        "megabytes": size,
        "batches": batches,
    }


def main() -> None:
    """Measures each network, and writes what is measured as soon as it is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--result", type=Path, default=RESULT)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    until, parts = monotonic() + asked.seconds, len(CALLS) * len(asked.networks)
    versions = {"torch": str(torch.__version__), "onnxruntime": onnxruntime.__version__}
    networks: dict[str, Any] = {}
    for title in asked.networks:
        networks[title] = measured(title, asked.threads, until, parts)
        parts -= len(CALLS)
        content = {"threads": asked.threads, "versions": versions, "networks": networks}
        asked.result.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

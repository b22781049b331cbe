"""Each figure of speed beside its floor, all in turn in one run.

python -m bench.limits [--images 200 --repeats 5 --limit 420]    # writes docs/results/limits.json
"""

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench import block_selection, detectors, gate, observe, training
from bench.common import DEVICE, alternate, new_network
from bench.speed_tables import LIMITS
from src.metrics import feature_norm, ood_metrics
from src.network.precision import in_float32

Run = Callable[[], object]
SCORES = 10**6
MIDDLE = "layer2.1"  # block of the gate


def in_benchmark_precision(run: Run) -> None:
    """Runs without TF32, as benchmark and gate do."""
    with in_float32(torch.device(DEVICE)):
        run()


def observing() -> dict[str, list[Run]]:
    """Returns part -> floor and ours, of what a forward pass of ResNet18 observes."""
    case = next(iter(observe.CASES))
    network, image = observe.prepared(case)
    plain, norms, profile = (
        partial(observe.run, network, image, way) for way in ("plain", "observe", "profile")
    )
    with torch.no_grad():
        maps = [*network.observe(image).feature_map.values()]
    guarded = new_network(channels_last=False)
    guarded.norm_ratio = {block: float(block == MIDDLE) for block in guarded.blocks}
    guard = gate.new_gate(guarded, torch.rand(1000)).to(DEVICE)

    @torch.no_grad()
    def behind_the_gate() -> None:
        guard.network(image)

    return {
        "norms of all blocks": [plain, norms],
        "norms alone": [
            lambda: [each.sum() for each in maps],
            lambda: list(map(feature_norm, maps)),
        ],
        "inputs of the profile": [plain, profile],
        "gate": [partial(in_benchmark_precision, behind_the_gate), lambda: guard.judge(image)],
    }


def metrics() -> list[Run]:
    """Returns one sort of all scores, and their figures."""
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(SCORES, generator=generator, dtype=torch.float64)
    id_score, ood_score = (score + (torch.arange(SCORES) < SCORES // 2)).split(SCORES // 2)
    return [lambda: score.sort(), lambda: ood_metrics(id_score, ood_score)]


def ways(asked: argparse.Namespace) -> dict[str, list[Run]]:
    """Returns part -> floor, ours, and what is to be subtracted from ours, if anything."""
    half = min(1000, max(1, asked.images // 2))
    options = partial(argparse.Namespace, precision="32-true", channels_last=False, compiled=False)
    forward, bare, selecting, _ = block_selection.ways(
        options(images=2 * asked.images, batch=half)
    )
    _, plain, twenty = detectors.ways(asked.images, half)
    steps = max(1, asked.images // 64)
    loop, lightning = training.ways(options(images=128 * steps, batch=128))
    return {
        "selection": [forward, selecting, bare],
        "benchmark, 20 detectors": [partial(in_benchmark_precision, plain), twenty],
        **observing(),
        "metrics": metrics(),
        "training": [loop, lightning],
    }


def measured(runs: Mapping[str, Sequence[Run]], repeats: int, limit: float) -> dict[str, Any]:
    """Returns of each part the ratios of ours to the floor, turn by turn, and both medians."""
    seconds = iter(
        alternate(repeats, *(run for each in runs.values() for run in each), limit=limit)
    )
    found = {}
    for part, each in runs.items():
        floor, ours, *less = (next(seconds) for _ in each)
        if less:
            ours = [a - b for a, b in zip(ours, less[0], strict=True)]
        ratios = [a / b for a, b in zip(ours, floor, strict=True)]
        found[part] = {"ratios": ratios, "floor": median(floor), "ours": median(ours)}
        print(f"{part}: median {median(ratios):.3f} of {len(ratios)}", flush=True)
    return found


def machine() -> dict[str, Any]:
    """Returns what the times depend on."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.machine()
    return {
        "device": f"{DEVICE}, {name}",
        "processors": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_before": os.getloadavg()[0],
    }


def main() -> None:
    """Runs everything in turn until the repeats or the seconds are used up."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=420, help="seconds")
    parser.add_argument("--output", type=Path, default=LIMITS)
    asked = parser.parse_args()
    content = {"images": asked.images, **machine()}
    content["parts"] = measured(ways(asked), asked.repeats, asked.limit)
    asked.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

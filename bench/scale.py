"""OOD figures of up to 10^8 scores from shards on disk: time, memory, and equality.

python -m bench.scale [--scores 1000000 10000000 100000000]    # writes docs/results/scale.json

Half of the scores are those of ID images. All are distinct, in an order that is as good as random,
and the ranks of both kinds are known, so that every figure has a value that needs no sort.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from math import gcd
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from bench.observe import peak_growth
from bench.speed_tables import SCALE
from src.metrics import ScoreShards, ood_metrics, ood_metrics_on_disk
from src.metrics.ood import metrics_of

BATCH = 2**16  # scores that come at a time, as from a test loop
SHIFT = 0.3  # ID scores lie higher by this share of their range
MOST_IN_MEMORY = 10**7


def batches(count: int, offset: int) -> Iterator[Tensor]:
    """Yields (B,) float64 scores: every second integer from the offset on, each once, mixed."""
    step = int(count * 0.618) | 1
    while gcd(step, count) > 1:
        step += 2
    for index in torch.arange(count).split(BATCH):
        yield (2 * (index * step % count) + offset).double()


def known(count: int, shift: int) -> Iterator[Tensor]:
    """Yields counts of accepted images for `metrics_of`, from ranks: ID 2 r + 1 + 2 s, OOD 2 r."""
    for start in range(0, 2 * (count + shift), MOST_IN_MEMORY):
        end = min(start + MOST_IN_MEMORY, 2 * (count + shift))
        threshold = 2 * (count + shift) - 1 - torch.arange(start - 1, end)
        accepted_id = (count + shift - threshold // 2).clamp(0, count)
        accepted_ood = (count - (threshold + 1) // 2).clamp(0, count)
        counts = torch.stack([accepted_id, accepted_ood])
        changed = counts.diff(dim=1).any(dim=0)  # some integers are no score
        yield torch.cat([counts[:, :1], counts[:, 1:][:, changed]], dim=1)


def on_disk(scores: int) -> dict[str, Any]:
    """Returns the figures from disk, seconds, and the growth of this process in MiB."""
    count = scores // 2
    offsets = {"id": 1 + 2 * int(SHIFT * count), "ood": 0}
    torch.ones(2).sort()  # what is loaded once
    seconds = {}
    with TemporaryDirectory(dir=Path.cwd()) as folder, peak_growth() as growth:
        start = perf_counter()
        for source, offset in offsets.items():
            shards = ScoreShards(Path(folder, source))
            for score in batches(count, offset):
                shards.append(score)
            shards.close()
        seconds["write"] = perf_counter() - start
        start = perf_counter()
        figures = ood_metrics_on_disk(Path(folder, "id"), Path(folder, "ood"))
        seconds["figures"] = perf_counter() - start
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.npy"))
    return {
        "figures": figures,
        "seconds": seconds,
        "growth": growth[0],
        "disk": size / 2**20,
    }


def in_memory(scores: int) -> dict[str, Any]:
    """Returns the same of `ood_metrics`; the scores count as growth."""
    count = scores // 2
    torch.ones(2).sort()
    with peak_growth() as growth:
        id_score = torch.cat(list(batches(count, 1 + 2 * int(SHIFT * count))))
        ood_score = torch.cat(list(batches(count, 0)))
        start = perf_counter()
        figures = ood_metrics(id_score, ood_score)
        seconds = {"figures": perf_counter() - start}
    return {"figures": figures, "seconds": seconds, "growth": growth[0]}


def from_ranks(scores: int) -> dict[str, Any]:
    """Returns the figures that follow from the ranks."""
    count = scores // 2
    return {"figures": metrics_of(known(count, int(SHIFT * count)), count, count)}


WAYS = {"disk": on_disk, "memory": in_memory, "ranks": from_ranks}


def apart(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Returns the difference of each figure."""
    return {name: abs(one[name] - other[name]) for name in one}


def main() -> None:
    """Computes each number of scores in each way, in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scores", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=SCALE)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(WAYS[asked.way](asked.scores[0])))
        return
    rows = {}
    for scores in asked.scores:
        found = {}
        for way in ("disk", "ranks", *(["memory"] if scores <= MOST_IN_MEMORY else [])):
            command = [sys.executable, "-m", "bench.scale", "--way", way, "--scores", str(scores)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            found[way] = json.loads(done.stdout)
        for way in ("ranks", "memory"):
            if way in found:
                found[way]["apart"] = apart(found["disk"]["figures"], found[way]["figures"])
        rows[str(scores)] = found
        print(scores, found, flush=True)
        asked.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

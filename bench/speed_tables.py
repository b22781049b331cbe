"""Tables of docs/studies/speed.md and docs/scale.md, from docs/results/{limits,scale}.json.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

from bench.cifar10_tables import RESULTS, table

LIMITS = RESULTS / "limits.json"
SCALE = RESULTS / "scale.json"
FLOORS: dict[str, tuple[str, float | None]] = {  # part -> its floor, and the goal
    "selection": ("a plain forward of its puzzles", 1.1),
    "benchmark, 20 detectors": ("a plain forward of the same images", 1.5),
    "norms of all blocks": ("a plain forward", 1.03),
    "norms alone": ("reading every feature map once", None),
    "inputs of the profile": ("a plain forward", 1.1),
    "gate": ("a plain forward", 1.1),
    "metrics": ("one sort of 10^6 scores", 3),
    "training": ("a plain PyTorch loop", 1.05),
}


def read(path: Path) -> Any:
    """Returns a result; empty if nothing was measured yet."""
    return json.loads(path.read_text()) if path.exists() else {}


def scale() -> str:
    """Time, memory and largest differences of the figures from shards on disk."""
    lines = []
    for scores, found in read(SCALE).items():
        disk, memory = found["disk"], found.get("memory")
        lines.append([
            f"{int(scores):,}",
            f"{disk['disk']:.0f}",
            f"{disk['seconds']['write']:.1f}",
            f"{disk['seconds']['figures']:.1f}",
            f"{disk['growth']:.0f}",
            f"{memory['seconds']['figures']:.1f}" if memory else "-",
            f"{memory['growth']:.0f}" if memory else "-",
            f"{max(max(found[way]['apart'].values()) for way in found if way != 'disk'):.0e}",
        ])  # fmt: skip
    header = [
        "scores", "MiB on disk", "write (s)", "figures (s)", "memory (MiB)",
        "figures in memory (s)", "its memory (MiB)", "largest difference",
    ]  # fmt: skip
    return table(header, lines)


def limits() -> str:
    """Each figure over its floor, with the goal."""
    parts = read(LIMITS).get("parts", {})
    lines = []
    for part, (floor, goal) in FLOORS.items():
        found = "not measured yet"
        if part in parts:
            ratios = parts[part]["ratios"]
            found = f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        lines.append([part, floor, "-" if goal is None else f"{goal:g}", found])
    return table(["part", "floor", "goal", "median over the floor (smallest to largest)"], lines)


TABLES = {"limits": limits, "scale": scale}

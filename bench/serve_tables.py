"""The tables of docs/serve.md, from docs/results/serve.json.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

import json
from typing import Any

from bench.cifar10_tables import RESULTS, table


def content() -> dict[str, Any]:
    """Returns what `python -m bench.serve` measured."""
    read: dict[str, Any] = json.loads((RESULTS / "serve.json").read_text())
    return read


def load() -> str:
    """Requests per second and latency of each engine, by the number of clients."""
    rows = content()["load"]["rows"]
    bare = {row["clients"]: row for row in rows if row["engine"] == "bare network"}
    lines = []
    for row in rows:
        rates = row["requests_per_second"]
        lines.append([
            row["clients"], row["engine"],
            f"{sum(rates) / len(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})",
            *(f"{row[f'p{q}_ms']:.1f}" for q in (50, 95, 99)),
            f"{row['p50_ms'] / bare[row['clients']]['p50_ms']:.2f}",
        ])  # fmt: skip
    header = ["clients", "engine", "requests/s", "p50, ms", "p95, ms", "p99, ms", "p50 / bare"]
    return table(header, lines)


def memory() -> str:
    """Memory of all processes on the way, and its peak."""
    endurance = content()["endurance"]
    lines = [
        [f"after {row['requests']:,} requests", *both(row)] for row in endurance["memory"]
    ] + [["peak", *both(endurance["peak"])]]
    return table(["", "RSS, MB", "PSS, MB"], lines)


def both(row: dict[str, float]) -> list[str]:
    """Returns resident and proportional memory."""
    return [f"{row['resident']:.0f}", f"{row['proportional']:.0f}"]


def kill() -> str:
    """What a kill costs, and what is counted afterwards."""
    row = content()["kill"]
    left = row["processes_left"]
    lines = [
        ["images answered until the kill", row["answered_before"]],
        ["of these, counted by the watch", row["counted_before"]],
        ["answered, but not counted", f"{row['lost']} (of the last {row['lost_seconds']:.2f} s)"],
        ["requests in flight, without an answer", row["unanswered"]],
        ["processes left", f"{left}, after {row['seconds_to_end']:.1f} s"],
        ["images answered after the restart", row["answered_after"]],
        ["the count goes on from where it was", "yes" if row["goes_on"] else "no"],
    ]
    return table(["", "found"], lines)


TABLES = {"serve-load": load, "serve-memory": memory, "serve-kill": kill}

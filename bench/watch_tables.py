"""Tables of docs/watch.md, from docs/results/watch.json.

Nothing here is a command: `python -m bench.pages` writes these tables into the documentation.
"""

import json
from functools import cache
from typing import Any

from bench.cifar10_tables import RESULTS, table

RESULT = RESULTS / "watch.json"
REFERENCES = ("growing", "fixed", "plain")


@cache
def content() -> dict[str, Any]:
    """Returns what `python -m bench.watch` measured."""
    read: dict[str, Any] = json.loads(RESULT.read_text())
    return read


def false_alarms() -> str:
    """Share of ID streams that raise an alarm, with its interval, in percent."""
    rows = content()["false_alarms"]
    sizes = [*dict.fromkeys(row["images"] for row in rows)]
    keys = dict.fromkeys((row["delta"], row["reference"], row["martingale"]) for row in rows)
    order = {name: place for place, name in enumerate(REFERENCES)}
    lines = []
    for key in sorted(keys, key=lambda key: (key[0], order[key[1]])):
        of = {
            row["images"]: row
            for row in rows
            if (row["delta"], row["reference"], row["martingale"]) == key
        }
        lines.append([f"{key[0]:.0%}", *key[1:], *(_rate(of[n]) for n in sizes)])
    header = ["delta", "reference", "martingale", *(f"{n:,} images" for n in sizes)]
    return table(header, lines)


def _rate(row: dict[str, Any]) -> str:
    rate = f"{row['alarms'] / row['streams']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
    return f"**{rate}**" if row["low"] > row["delta"] else rate


def start() -> str:
    """Images until the alarm, where a stream has OOD images from its start."""
    return _delays("start")


def change() -> str:
    """Images until the alarm, where a stream has OOD images after many ID images."""
    return _delays("change")


def _delays(part: str) -> str:
    rows = content()["delays"][part]
    shares = [*dict.fromkeys(row["share"] for row in rows)]
    names = ("set", "images", "reference", "martingale")
    keys = dict.fromkeys(tuple(row[name] for name in names) for row in rows)
    lines = []
    for key in sorted(keys, key=lambda key: (key[0], key[1], REFERENCES.index(key[2]))):
        of = {row["share"]: row for row in rows if tuple(row[name] for name in names) == key}
        lines.append([*key, *(_delay(of[share]) for share in shares)])
    return table([*names, *(f"{share:.0%} OOD" for share in shares)], lines)


def _delay(row: dict[str, Any]) -> str:
    found = f"{row['found']:.0%}"
    return found if row["median"] is None else f"{row['median']:g} ({found})"


TABLES = {"watch-false-alarms": false_alarms}
DELAYS = {"start": start, "change": change}  # on no page

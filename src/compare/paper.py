"""The paper's numbers, beside the runs with which they can be compared."""

__all__ = ["Paper", "read_paper"]

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from src.compare.rows import Row, Rows
from src.compare.runs import Run

FILE = Path(__file__).with_name("paper.yaml")
CIFAR10 = re.compile(r"cifar_?10(?!0)")


class Paper(NamedTuple):
    """Published numbers, in percent."""

    source: str
    differs: str
    images: Mapping[str, int]
    networks: Mapping[str, Mapping[str, Any]]

    def network(self, row: Row) -> str | None:
        """Returns the paper's name of a row's network, None if it has none on CIFAR-10."""
        run = row.runs[0]
        return next(
            (
                name
                for name, known in self.networks.items()
                if row.network in known["names"] and run.blocks == known["blocks"]
                if is_cifar10(run)
            ),
            None,
        )

    def score(self, row: Row, detector: str, source: str) -> tuple[float, float] | None:
        """Returns published AUROC and fpr95_id_pos of a detector on an OOD set, if there are."""
        name = self.network(row)
        detectors = self.networks[name]["detectors"] if name else {}
        found = detectors.get(detector, {}).get(source)
        return (found[0], found[1]) if found else None

    def blocks(self, row: Row) -> dict[str, list[float]]:
        """Returns what the paper's figures show of each block by depth: title -> numbers."""
        name = self.network(row)
        return dict(self.networks[name].get("digitised", {})) if name else {}

    def notes(self, rows: Rows) -> list[str]:
        """Returns where the numbers are from and what differs."""
        compared = [row for row in rows.rows if self.network(row)]
        if not compared:
            known = ", ".join(self.networks)
            return [f"paper: no row is a run of its networks ({known}) on CIFAR-10"]
        notes = [f"paper: {self.source}", f"paper, what differs: {self.differs}"]
        for source, count in self.images.items():
            found = {row.runs[0].metrics["counts"].get(source) for row in compared} - {None, count}
            if found:
                given = " and ".join(f"{number:,}" for number in sorted(found))
                notes.append(f"paper, what differs: {source} has {count:,} images, here {given}")
        if {"react", "dice"} & set(rows.detectors):
            notes.append("paper: react is its Energy+ReAct, dice its Energy+DICE")
        if any(self.blocks(row) for row in compared):
            notes.append(
                "paper: its numbers of single blocks were read from a figure, to about a point; "
                "averages over its six sets"
            )
        return notes


def read_paper() -> Paper:
    """Returns the numbers that ship with the code."""
    return Paper(**yaml.safe_load(FILE.read_text()))


def is_cifar10(run: Run) -> bool:
    """Returns whether the ID images are CIFAR-10's, as far as a run tells."""
    told = [value for key, value in run.setting.items() if key.startswith("data.test.")]
    protocol = (run.metrics.get("data") or {}).get("protocol")
    where = " ".join(told) or protocol or run.metrics["experiment"]
    return CIFAR10.search(where.lower()) is not None

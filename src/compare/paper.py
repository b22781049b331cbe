"""The numbers of the paper, for runs that can be compared with it."""

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
    """Published numbers in percent.

    Attributes:
        source: Publication that the numbers come from.
        differs: Differences between the paper's protocol and ours.
        images: Number of images of each set in the paper.
        networks: Facts and numbers of each network, by the paper's name for it.
    """

    source: str
    differs: str
    images: Mapping[str, int]
    networks: Mapping[str, Mapping[str, Any]]

    def network(self, row: Row) -> str | None:
        """Returns the paper's name for the network of a row, or None if the two do not match."""
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
        """Returns the published AUROC and fpr95_id_pos of a detector on an OOD set, if any."""
        name = self.network(row)
        detectors = self.networks[name]["detectors"] if name else {}
        found = detectors.get(detector, {}).get(source)
        return (found[0], found[1]) if found else None

    def blocks(self, row: Row) -> dict[str, list[float]]:
        """Returns numbers read from the paper's figures: title -> one number per block."""
        name = self.network(row)
        return dict(self.networks[name].get("digitised", {})) if name else {}

    def notes(self, rows: Rows) -> list[str]:
        """Returns notes about the source of the numbers and about differences."""
        compared = [row for row in rows.rows if self.network(row)]
        if not compared:
            known = ", ".join(self.networks)
            return [f"paper: no row is a run of one of its networks ({known}) on CIFAR-10"]
        notes = [f"paper: {self.source}", f"paper, differences: {self.differs}"]
        for source, count in self.images.items():
            found = {row.runs[0].metrics["counts"].get(source) for row in compared} - {None, count}
            if found:
                given = " and ".join(f"{number:,}" for number in sorted(found))
                notes.append(f"paper, differences: {source} has {count:,} images, here {given}")
        if {"react", "dice"} & set(rows.detectors):
            notes.append("paper: react is called Energy+ReAct there, dice Energy+DICE")
        if any(self.blocks(row) for row in compared):
            notes.append(
                "paper: numbers of single blocks are averages over its six sets, read from a "
                "figure to about one point"
            )
        return notes


def read_paper() -> Paper:
    """Returns the numbers in `paper.yaml`."""
    return Paper(**yaml.safe_load(FILE.read_text()))


def is_cifar10(run: Run) -> bool:
    """Returns whether the configuration or the name of a run says that its ID set is CIFAR-10."""
    told = [value for key, value in run.setting.items() if key.startswith("data.test.")]
    protocol = (run.metrics.get("data") or {}).get("protocol")
    where = " ".join(told) or protocol or run.metrics["experiment"]
    return CIFAR10.search(where.lower()) is not None

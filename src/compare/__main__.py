"""Compare finished runs.

python -m src.compare logs/sweeps/TIME                      one row per experiment and network
python -m src.compare logs --each --sort accuracy           one row per run
python -m src.compare logs --blocks                         also NormRatio and AUROC of each block
python -m src.compare logs --sets --paper --output DIR      also files: CSV, Markdown, LaTeX, HTML
"""

__all__ = ["main"]

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.compare.output import show, write
from src.compare.paper import read_paper
from src.compare.rows import compare
from src.compare.runs import find_runs
from src.records.console import say


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    asked = argparse.ArgumentParser(
        "python -m src.compare", description="Compare finished runs: one row per experiment "
        "and network, with mean ± sample standard deviation over seeds.",
    )  # fmt: skip
    asked.add_argument("path", type=Path, nargs="+", help="a directory of runs or a metrics file")
    asked.add_argument("--each", action="store_true", help="show one row per run")
    asked.add_argument("--sets", action="store_true", help="add a table per OOD set")
    asked.add_argument("--blocks", action="store_true", help="add a table of blocks per row")
    asked.add_argument("--paper", action="store_true", help="add the numbers of the paper")
    asked.add_argument(
        "--sort", metavar="KEY", help="sort by experiment, network, seed, accuracy, norm_ratio, "
        "gap, or DETECTOR[.SET][.METRIC], best first (default: average AUROC of featurenorm)",
    )  # fmt: skip
    asked.add_argument("--detectors", metavar="A,B", help="detectors to print, or all")
    asked.add_argument(
        "--output", type=Path, metavar="DIR", help="write comparison.{csv,md,tex,html} to DIR"
    )
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, prints the tables and writes the files.

    Raises:
        SystemExit: With one message, if there is nothing to compare or an argument is wrong.
    """
    command = parser()
    asked = command.parse_args(arguments)
    try:
        found = compare(*find_runs(asked.path), each=asked.each, sort=asked.sort)
        detectors = asked.detectors.split(",") if asked.detectors else None
        if detectors == ["all"]:
            detectors = found.detectors
        elif unknown := set(detectors or ()) - set(found.detectors):
            raise ValueError(
                f"expected detectors of these runs, got {', '.join(sorted(unknown))}; choose from "
                f"{', '.join(found.detectors)}, or all"
            )
    except (OSError, ValueError) as error:
        command.exit(2, f"{error}\n")
    paper = read_paper() if asked.paper else None
    extent: Any = {"sets": asked.sets, "blocks": asked.blocks, "paper": paper}
    if asked.output:  # before printing: a pager may close the pipe early
        write(asked.output, found, **extent)
    show(found, detectors=detectors, **extent)
    if asked.output:
        say(f"wrote comparison.csv, .md, .tex and .html to {asked.output}")


if __name__ == "__main__":
    main()

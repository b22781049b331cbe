"""Compare finished runs.

python -m src.compare logs/sweeps/TIME                      a row per experiment and network
python -m src.compare logs --each --sort accuracy           a row per run
python -m src.compare logs --blocks                         NormRatio and AUROC of each block
python -m src.compare logs --sets --paper --output DIR      CSV, Markdown, LaTeX, a page
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
    """Returns the command line."""
    asked = argparse.ArgumentParser(
        "python -m src.compare", description="Compare finished runs: a row per experiment and "
        "network, mean ± sample standard deviation over seeds.",
    )  # fmt: skip
    asked.add_argument("path", type=Path, nargs="+", help="directory of runs, or a metrics file")
    asked.add_argument("--each", action="store_true", help="a row per run")
    asked.add_argument("--sets", action="store_true", help="a table per OOD set, too")
    asked.add_argument("--blocks", action="store_true", help="a table of blocks per row, too")
    asked.add_argument("--paper", action="store_true", help="the paper's numbers, where there are")
    asked.add_argument(
        "--sort", metavar="KEY", help="experiment, network, seed, accuracy, norm_ratio, gap, or "
        "DETECTOR[.SET][.METRIC]; best first (default: featurenorm, its average AUROC)",
    )  # fmt: skip
    asked.add_argument("--detectors", metavar="A,B", help="those to print, or all")
    asked.add_argument(
        "--output", type=Path, metavar="DIR", help="writes comparison.{csv,md,tex,html} there"
    )
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, prints the tables, writes the files.

    Raises:
        SystemExit: with one message, if there is nothing to compare or it is asked for wrongly.
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
                f"expected detectors of these runs, got {', '.join(sorted(unknown))}; choose of "
                f"{', '.join(found.detectors)}, or all"
            )
    except (OSError, ValueError) as error:
        command.exit(2, f"{error}\n")
    paper = read_paper() if asked.paper else None
    extent: Any = {"sets": asked.sets, "blocks": asked.blocks, "paper": paper}
    if asked.output:  # first: what reads the printed tables may stop reading
        write(asked.output, found, **extent)
    show(found, detectors=detectors, **extent)
    if asked.output:
        say(f"comparison.csv, .md, .tex and .html in {asked.output}")


if __name__ == "__main__":
    main()

"""Writes the page of a finished run again, from the files in its directory.

python -m src.report logs/quickstart/2025-01-01_12-00-00
"""

__all__ = ["main"]

import argparse
from collections.abc import Sequence
from pathlib import Path

from src.report.page import write_page


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    asked = argparse.ArgumentParser("python -m src.report", description=main.__doc__)
    asked.add_argument("run_dir", type=Path, help="directory of a finished run")
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page of a finished run again."""
    command = parser()
    try:
        write_page(command.parse_args(arguments).run_dir)
    except (OSError, ValueError) as error:
        command.error(str(error))


if __name__ == "__main__":
    main()

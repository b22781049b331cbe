"""The tables of docs/results.md on the paper's networks are those of the committed metrics."""

from pathlib import Path

import pytest

from bench import cifar10_tables
from src.compare import __main__ as compare
from tests import REPOSITORY

PAGE = REPOSITORY / "docs/results.md"


def tables(text: str) -> list[str]:
    """Returns all rows."""
    return [line for line in text.splitlines() if line.startswith("|")]


def test_what_the_tables_command_prints_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    cifar10_tables.main()
    printed = tables(capsys.readouterr().out)
    assert len(printed) > 90
    assert not set(printed) - set(tables(PAGE.read_text()))


def test_what_compare_writes_is_on_the_page(tmp_path: Path) -> None:
    runs = str(cifar10_tables.RESULTS / "cifar10_short")
    output = ["--detectors", "all", "--output", str(tmp_path)]
    compare.main([runs, "--blocks", "--paper", *output])
    sections = (tmp_path / "comparison.md").read_text().split("\n## ")
    written = [
        row for part in sections if "fpr95" not in part.split("\n")[0] for row in tables(part)
    ]
    assert len(written) > 60
    assert not set(written) - set(tables(PAGE.read_text()))

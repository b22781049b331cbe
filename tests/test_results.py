"""The tables in README.md and docs are those that follow from the committed results."""

from pathlib import Path

import pytest

from bench import pages
from tests import REPOSITORY


def tables(text: str) -> set[str]:
    """Returns all rows."""
    return {line for line in text.splitlines() if line.startswith("|")}


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: page.name)
def test_a_page_has_the_tables_that_follow_from_the_results(page: Path) -> None:
    assert pages.with_tables(page.read_text()) == page.read_text()


def test_every_table_stands_on_a_page() -> None:
    shown = set().union(*(tables(page.read_text()) for page in pages.pages()))
    text = "".join(page.read_text() for page in pages.pages())
    for name, table in pages.TABLES.items():
        try:
            written = tables(table())
        except FileNotFoundError:  # not measured yet
            assert f"<!-- table: {name} -->\n<!-- end -->" in text, name
            continue
        assert len(written) > 3, name
        assert written <= shown, name


def test_every_place_of_a_table_is_closed() -> None:
    for page in pages.pages():
        text = page.read_text()
        assert text.count("<!-- table: ") == len(pages.PLACE.findall(text)), page


def test_the_command_writes_what_a_page_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n\n<!-- table: summary -->\n<!-- end -->\n\nafter\n")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    pages.main()
    assert tables(page.read_text()) == tables(pages.TABLES["summary"]())
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")


def test_the_summary_is_in_the_readme_and_in_the_results() -> None:
    for page in ("README.md", "docs/results.md"):
        assert tables(pages.TABLES["summary"]()) <= tables((REPOSITORY / page).read_text())

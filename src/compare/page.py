"""The page of a comparison: one HTML file with tables, figures and notes."""

__all__ = ["page"]

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from src.compare.figures import figures
from src.compare.rows import Rows
from src.compare.tables import UNIT, Table
from src.records.template import page_template

TEMPLATE = Path(__file__).with_name("page.html")


def page(found: Rows, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Returns the page, which loads no other file."""
    drawn = {title: Markup(svg) for title, svg in figures(found).items()}
    return page_template(TEMPLATE).render(tables=tables, notes=notes, figures=drawn, unit=UNIT)

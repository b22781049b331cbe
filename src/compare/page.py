"""The page of a comparison: one HTML file with tables, figures and notes."""

__all__ = ["page"]

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from src.compare.figures import figures
from src.compare.rows import Rows
from src.compare.tables import UNIT, Table

TEMPLATE = Path(__file__).with_name("page.html")


def page(found: Rows, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Returns the page, which loads no other file."""
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(TEMPLATE.read_text(encoding="utf-8"))
    drawn = {title: Markup(svg) for title, svg in figures(found).items()}
    return template.render(tables=tables, notes=notes, figures=drawn, unit=UNIT)

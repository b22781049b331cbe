"""Templates of the pages, which escape what they are given."""

__all__ = ["page_template"]

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def page_template(path: Path, **filters: Callable[..., Any]) -> Template:
    """Returns the template of an HTML page.

    Names of files, classes and sets come from strangers: whatever is not marked as safe is
    escaped. A variable that the page does not get is an error.

    Args:
        path: File of the template; it may include others that lie beside it.
        filters: Functions that the template may use, by their names.
    """
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(path.name)

"""Output of the commands, with names as they are; rich is imported when something is printed."""

__all__ = ["console", "say", "show"]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def console(width: int | None = None) -> "Console":
    """Returns a console that takes no bracket for a style and no colon for a picture.

    Args:
        width: Columns of an output that is no terminal.
    """
    from rich.console import Console

    asked = Console(markup=False, emoji=False)
    if not asked.is_terminal and width is not None:
        asked.width = width  # a file has no width
    return asked


def say(text: str) -> None:
    """Prints a line."""
    console().print(text, highlight=False, soft_wrap=True)


def show(*content: "RenderableType") -> None:
    """Prints tables, which fit into 100 columns, and text."""
    console(100).print(*content, sep="\n")

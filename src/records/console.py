"""Output of the commands; rich is imported when something is printed."""

__all__ = ["say", "show"]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def say(text: str) -> None:
    """Prints a line literally."""
    from rich.console import Console

    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def show(*content: "Table | str") -> None:
    """Prints tables and text."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 100  # a file has no width; the tables fit into 100 columns
    console.print(*content, sep="\n")

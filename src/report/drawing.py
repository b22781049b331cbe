"""What is drawn of a finished run can fail, and then costs nothing but itself."""

__all__ = ["drawn"]

import logging
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger(__name__)
LONGEST = 200  # characters of an error
Drawing = TypeVar("Drawing")


def drawn(name: str, draw: Callable[[], Drawing]) -> Drawing | None:
    """Returns what `draw` returns; None, after a warning with the name, if it fails."""
    try:
        return draw()
    except Exception as error:  # whatever a name or a number does to it
        log.warning("%s cannot be drawn: %s", name, " ".join(str(error).split())[:LONGEST])
        return None

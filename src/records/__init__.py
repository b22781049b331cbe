"""What every room may use and that needs no torch: atomic writes, histories, column names, output.

It imports no other room. Names are imported when they are first used, so that a command that only
prints help stays fast.
"""

from typing import TYPE_CHECKING

from src.records.lazy import exports

if TYPE_CHECKING:
    from src.records.atomic import try_to_write, write_whole
    from src.records.configs import CONF
    from src.records.console import say, show
    from src.records.history import read_history

__all__ = [
    "CONF",
    "exports",
    "read_history",
    "say",
    "show",
    "try_to_write",
    "write_whole",
]

MODULES = {
    "atomic": ("try_to_write", "write_whole"),
    "configs": ("CONF",),
    "console": ("say", "show"),
    "history": ("read_history",),
}

__getattr__ = exports(__name__, MODULES)

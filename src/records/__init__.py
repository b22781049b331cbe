"""What every room may use and that needs no torch: atomic writes, histories, column names, output.

It imports no other room.
"""

__all__ = ["exports", "git_state", "read_history", "say", "show", "try_to_write", "write_whole"]

from src.records.atomic import try_to_write, write_whole
from src.records.console import say, show
from src.records.git_state import git_state
from src.records.history import read_history
from src.records.lazy import exports

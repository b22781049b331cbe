"""Which commit of this project runs, and whether it was changed since."""

__all__ = ["git_state"]

import subprocess
from functools import cache
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).resolve().parents[2]


class GitState(TypedDict):
    """What git says of the working tree."""

    commit: str  # 40 hexadecimal digits
    dirty: bool  # whether a file that git knows differs from it


@cache
def git_state(root: Path = ROOT) -> GitState | None:
    """Returns the state of the repository at `root`, as it was when first asked for.

    None where there is no git, or no repository of which `root` is the top: an installed copy
    within the repository of something else is not of that one's commit.
    """
    try:
        top, commit = run("rev-parse", "--show-toplevel", "HEAD", at=root).splitlines()
        changes = run("status", "--porcelain", "--untracked-files=no", at=root)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)} if Path(top) == root else None


def run(*arguments: str, at: Path) -> str:
    """Returns what git prints."""
    command = ["git", "-C", str(at), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

"""The commit of this project that is running, and whether files differ from it."""

__all__ = ["git_state"]

import subprocess
from functools import cache
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).resolve().parents[2]


class GitState(TypedDict):
    """State of the working tree."""

    commit: str  # 40 hexadecimal digits
    dirty: bool  # whether a tracked file differs from it


@cache
def git_state(root: Path = ROOT) -> GitState | None:
    """Returns the state of the repository at `root` at the time of the first call.

    Returns None without git, or if `root` is not the top of a repository: a copy installed inside
    another repository does not belong to that repository's commits.
    """
    try:
        top, commit = run("rev-parse", "--show-toplevel", "HEAD", at=root).splitlines()
        changes = run("status", "--porcelain", "--untracked-files=no", at=root)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)} if Path(top) == root else None


def run(*arguments: str, at: Path) -> str:
    """Returns the output of a git command."""
    command = ["git", "-C", str(at), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

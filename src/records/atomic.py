"""Atomic writes: a file appears whole or not at all."""

__all__ = ["try_to_write", "write_whole"]

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)
warned: set[int] = set()  # devices of full disks that were reported


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name and renames it: a kill leaves the old file or the new.

    Args:
        path: Path of the file; its folder is created if necessary.
        write: Receives the path to write to, which has the same suffix.

    Raises:
        OSError: If it cannot be written; the old file stays.
    """
    partial = path.with_name(f".partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except RuntimeError as error:  # torch's writer raises it when the disk is full
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def try_to_write(path: Path, write: Callable[[Path], object]) -> bool:
    """Writes like `write_whole`; on failure warns once per disk and returns False."""
    try:
        write_whole(path, write)
    except OSError as error:
        folder = next(each for each in path.absolute().parents if each.exists())
        disk = folder.stat().st_dev
        if disk not in warned:
            warned.add(disk)
            log.warning("%s; the run continues, and writes what is missing when it can", error)
        return False
    return True

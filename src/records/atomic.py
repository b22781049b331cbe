"""Files that are whole or not there: written under another name, then renamed."""

__all__ = ["try_to_write", "write_whole"]

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)
warned: set[int] = set()  # disks


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path` and renames it: a kill leaves the old or the new.

    Args:
        path: the file; its folder is made if it is not there.
        write: is given the path to write to, of the same suffix.

    Raises:
        OSError: if there is no room; the old file is still there.
    """
    partial = path.with_name(f".partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except RuntimeError as error:  # torch's writer turns a full disk into one
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def try_to_write(path: Path, write: Callable[[Path], object]) -> bool:
    """Writes as `write_whole` does; a failure is said, once for a disk, and False returned."""
    try:
        write_whole(path, write)
    except OSError as error:
        folder = next(each for each in path.absolute().parents if each.exists())
        disk = folder.stat().st_dev
        if disk not in warned:
            warned.add(disk)
            log.warning("%s; the run goes on, and writes what is missing when it can", error)
        return False
    return True

"""Atomic writes: a file appears whole or not at all, and has one owner at a time."""

__all__ = ["held", "is_intact", "try_to_write", "write_whole"]

import fcntl
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

log = logging.getLogger(__name__)
PARTIAL = ".partial."  # how the folder of a file begins while it is written
warned: set[int] = set()  # devices of full disks that were reported
locks: set[int] = set()  # file descriptors of the files that this process holds


def write_whole(path: Path, write: Callable[[Path], object], *, may_replace: bool = True) -> None:
    """Writes a file elsewhere, syncs it and renames it: a kill leaves the old file or the new.

    It is written in a new folder beside its place, so that nothing that was there before, such as
    a link of that name, is written through.

    Args:
        path: Path of the file; its folder is created if necessary.
        write: Receives the path to write to, which has the same name.
        may_replace: Whether the file may be there already.

    Raises:
        FileExistsError: If it may not be there and is; of two that write it, one gets this error.
        OSError: If it cannot be written; the old file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(
            prefix=PARTIAL, dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            partial = Path(folder, path.name)
            write(partial)
            _sync(partial)
            if may_replace:
                partial.replace(path)
            else:
                _link(partial, path)
        with suppress(OSError):  # not every file system syncs folders
            _sync(path.parent)
    except RuntimeError as error:  # torch's writer raises it when the disk is full
        raise OSError(f"{path} cannot be written: {error}") from error


def _sync(path: Path) -> None:
    """Waits until a file or folder is on the disk, where a power cut leaves it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(partial: Path, path: Path) -> None:
    """Gives a written file its name, which must be free."""
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        partial.replace(path)


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


def is_intact(path: Path) -> bool:
    """Returns whether a file of `torch.save` or `numpy.savez` has the bytes that were written.

    Their checksums, which torch does not look at, tell it.
    """
    try:
        with ZipFile(path) as file:
            return file.testzip() is None
    except (BadZipFile, EOFError, OSError, RuntimeError, ValueError, zlib.error):
        return False


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds a file for this process: inside, nobody else can; a kill lets it go.

    On a file system without locks nothing is held.

    Raises:
        BlockingIOError: If another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR)
    locks.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            log.debug("%s: no locks", path)
        yield
    finally:
        if descriptor in locks:
            locks.remove(descriptor)
            os.close(descriptor)


def _let_go() -> None:
    """Gives up in a new worker process what its parent holds, as a worker may live longer."""
    while locks:
        os.close(locks.pop())


os.register_at_fork(after_in_child=_let_go)

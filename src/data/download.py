"""Fetches registered image sets; a set appears only when it is complete and verified."""

__all__ = ["extract", "fetch", "prepare"]

import errno
import hashlib
import lzma
import os
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Self

from filelock import FileLock
from tqdm import tqdm

from src.data.opening import check_method
from src.data.registry import Known, RemoteFile
from src.data.transfer import RefusedError, ask, check_safe

TRIES = 3  # attempts at each address
KEPT_FREE = 2**28  # bytes of the disk
GROWTH, SPARE = 100, 2**30  # an archive may unpack to 100 times its size plus 1 GiB
SMALLEST = 2**12  # bytes that even an empty file takes on a disk
LONGEST_HEADER = 2**20  # bytes of a tar archive that describe one member
BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError),
    *(OSError, RuntimeError, ValueError, struct.error),  # RuntimeError: locked, or unknown methods
)
OF_ARCHIVE = {None, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL}


def prepare(known: Known, folder: Path) -> None:
    """Fetches, verifies and unpacks a set, unless its folder exists.

    The files are collected in `.<folder>.partial` next to the folder, which is renamed at the end.
    A later call resumes what an interrupted one has left there.

    Raises:
        FileNotFoundError: If the set must be fetched by hand.
        ConnectionError: If no address provides the correct file.
        OSError: If the folder cannot be written or the disk is full.
        ValueError: If an archive is broken or unsafe.
    """
    if folder.exists():
        return
    if not known.files:
        raise FileNotFoundError(
            f"expected {known.title} in {folder}, which must be fetched by hand: {known.manual}"
        )
    partial = folder.with_name(f".{folder.name}.partial")
    with writing(partial):
        partial.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{partial}.lock"):
            if folder.exists():  # another process was faster
                return
            for file in known.files:
                done = partial / f".{file.name.replace('/', '_')}.unpacked"
                if not done.exists():
                    path = fetch(file, partial)
                    if file.extract:
                        extract(path, path.parent)
                        done.touch()
                if done.exists():
                    (partial / file.name).unlink(missing_ok=True)
            for mark in partial.glob(".*.unpacked"):
                mark.unlink()
            partial.rename(folder)
    Path(f"{partial}.lock").unlink(missing_ok=True)


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Returns the path of a verified file, which is fetched if it is missing.

    A partial file, `<name>.part`, is resumed if the server supports that. Each address is tried
    three times, but only once if it provides wrong bytes.

    Raises:
        ConnectionError: If no address provides the correct file.
        OSError: If the folder cannot be written or the disk is full.
        ValueError: If an address is not https.
    """
    path = folder / file.name
    if path.exists() and not wrong(path, file):
        return path
    for url in file.urls:
        check_safe(url)
    part = path.with_name(path.name + ".part")
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        check_room(file, part)
        failures = []
        for url in file.urls:
            for attempt in range(TRIES):
                try:
                    receive(url, part, file)
                except RefusedError as error:
                    failures.append(f"{url}: {error}")
                    break
                except ConnectionError as error:
                    failures.append(f"{url}: {error}")
                    sleep(min(attempt, 2))
                    continue
                if problem := wrong(part, file):
                    part.unlink()
                    failures.append(f"{url}: {problem}")
                    break
                part.replace(path)
                return path
    raise ConnectionError(
        f"expected {file.name} from one of its addresses, got:\n  " + "\n  ".join(failures) + "\n"
        f"try later, or fetch it by other means to {path}; the next attempt resumes the download"
    )


def receive(url: str, part: Path, file: RemoteFile) -> None:
    """Appends the missing bytes to a partial file, and sends them to the disk.

    Raises:
        ConnectionError: If the server refuses, sends too much, or the connection is lost.
        OSError: If the disk has no room.
    """
    if part.is_symlink():
        part.unlink()
    have = part.stat().st_size if part.exists() else 0
    with ask(url, have) as answer:
        if answer.status == 416:  # the partial file is complete or too long
            if file.bytes != have:
                part.unlink()
                raise ConnectionError("the partial file is longer than the complete file")
            return
        if answer.status != 206:
            have = 0  # the server sends the whole file
        expected = have + answer.length if answer.length else 0
        check_size(file, expected, part)
        free = shutil.disk_usage(part.parent).free
        with (
            part.open("ab" if have else "wb") as out,
            tqdm(
                desc=file.name, initial=have, total=expected or None, unit="B", unit_scale=True,
                disable=not sys.stderr.isatty(), leave=False,
            ) as bar,
        ):  # fmt: skip
            size = have
            for piece in answer.pieces:
                size += len(piece)
                check_size(file, size, part)
                if size - have > free - KEPT_FREE:
                    raise OSError(f"{file.name} needs more than the {free / 1e9:.1f} GB free")
                out.write(piece)
                bar.update(len(piece))
            out.flush()
            os.fsync(out.fileno())
        if size < expected:
            raise ConnectionError(f"cut off after {size} bytes")


def check_size(file: RemoteFile, size: int, part: Path) -> None:
    """Refuses a file that is larger than it should be, and removes what is there of it."""
    if size > (file.bytes or file.max_bytes):
        part.unlink(missing_ok=True)
        raise RefusedError(
            f"expected at most {file.bytes or file.max_bytes} bytes, got {size} or more"
        )


def wrong(path: Path, file: RemoteFile) -> str:
    """Returns what is wrong with a complete file; "" if nothing is."""
    size = path.stat().st_size
    if file.bytes not in (None, size):
        return f"expected {file.bytes} bytes, got {size}"
    for name, expected in (("md5", file.md5), ("sha256", file.sha256)):
        if expected is not None:
            with path.open("rb") as content:
                found = hashlib.file_digest(content, name).hexdigest()
            if found != expected:
                return f"expected {name} {expected}, got {found}"
    return ""


def check_room(file: RemoteFile, part: Path) -> None:
    """Refuses a file for which the disk has no room."""
    have = part.stat().st_size if part.exists() else 0
    free = shutil.disk_usage(part.parent).free
    if file.bytes is not None and file.bytes - have > free:
        raise OSError(f"{file.name} needs {(file.bytes - have) / 1e9:.1f} GB of {free / 1e9:.1f}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises an error with advice if a folder cannot be written."""
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        if str(error).startswith("expected "):
            raise
        raise OSError(
            f"expected to write {path}, got: {error}; make room, or set data_dir (for weights "
            "TORCH_HOME) to a writable folder; the next attempt resumes the download"
        ) from error


def extract(archive: Path, folder: Path) -> None:
    """Unpacks a ZIP or tar archive into a folder.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
        ValueError: If the archive is broken or of another type, if it would write outside the
            folder, if it holds anything but files, folders and links within the folder, or if it
            unpacks to more than 100 times its size plus 1 GiB.
    """
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as entries:
                found = entries.infolist()
                check_members(archive, ((entry.filename, entry.file_size) for entry in found))
                for entry in found:
                    check_method(entry)
                entries.extractall(folder)
            return
        with tarfile.open(archive, tarinfo=Member) as members:
            check_members(archive, ((member.name, member.size) for member in members))
            members.extractall(folder, filter="data")  # refuses outside links and devices
    except BROKEN as error:
        is_of_disk = isinstance(error, OSError) and error.errno not in OF_ARCHIVE
        if is_of_disk or str(error).startswith("expected "):
            raise
        raise ValueError(
            f"expected a whole archive, got {archive}, which cannot be unpacked ({error}); delete "
            "it and fetch it again"
        ) from error


class Member(tarfile.TarInfo):
    """A member of a tar archive whose own description is short."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Returns the member of a header.

        Raises:
            TarError: If its size is negative, or if it is a description of more than a megabyte,
                which would be read into memory.
        """
        member = super().frombuf(buf, encoding, errors)
        is_file = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if member.size < 0 or (not is_file and member.size > LONGEST_HEADER):
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member


def check_members(archive: Path, members: Iterable[tuple[str, int]]) -> None:
    """Refuses names that lead outside the folder, and sizes that would fill the disk."""
    limit = GROWTH * archive.stat().st_size + SPARE
    total = 0
    for name, size in members:
        if name.startswith(("/", "\\")) or ".." in Path(name).parts or ":" in name:
            raise ValueError(f"expected names within {archive}, got {name!r}; delete it")
        total += max(size, SMALLEST)
        if total > limit:
            raise ValueError(
                f"expected at most {limit / 1e9:.1f} GB in {archive}, got more; it may be "
                "harmful: delete it"
            )

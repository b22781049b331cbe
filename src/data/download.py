"""Fetches registered image sets; a set appears only when it is complete and verified."""

__all__ = ["extract", "fetch", "prepare"]

import hashlib
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from urllib.parse import urlparse

import requests
from filelock import FileLock
from tqdm import tqdm

from src.data.registry import Known, RemoteFile

TRIES = 3  # attempts at each address
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
PIECE = 2**20  # bytes read at once
GROWTH, SPARE = 100, 2**30  # an archive may unpack to 100 times its size plus 1 GiB


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
                except (requests.RequestException, ConnectionError) as error:
                    failures.append(f"{url}: {error}")
                    status = getattr(getattr(error, "response", None), "status_code", None)
                    if status is not None and 400 <= status < 500:
                        break  # another attempt would fail, too
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
    """Appends the missing bytes to a partial file.

    Raises:
        requests.RequestException: If the server refuses or the connection is lost.
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as answer:
        try:
            for step in (*answer.history, answer):
                check_safe(step.url)
        except ValueError as error:  # an unsafe redirect; the next address may be better
            raise requests.ConnectionError(str(error)) from error
        if answer.status_code == 416:  # the partial file is complete or too long
            if file.bytes != have:
                part.unlink()
                raise requests.ConnectionError("the partial file is longer than the complete file")
            return
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0  # the server sends the whole file
        expected = have + int(answer.headers.get("Content-Length", 0))
        with (
            part.open("ab" if have else "wb") as out,
            tqdm(
                desc=file.name, initial=have, total=expected or None, unit="B", unit_scale=True,
                disable=not sys.stderr.isatty(), leave=False,
            ) as bar,
        ):  # fmt: skip
            for piece in answer.iter_content(PIECE):
                out.write(piece)
                bar.update(len(piece))
        if expected > have and part.stat().st_size < expected:
            raise requests.ConnectionError(f"cut off after {part.stat().st_size} bytes")


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


def check_safe(url: str) -> None:
    """Refuses an address whose answer can be changed on the way."""
    address = urlparse(url)
    if address.scheme != "https" and address.hostname not in ("127.0.0.1", "localhost"):
        raise ValueError(f"expected an https address, got {url}; use a mirror that has one")


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
        if isinstance(error, requests.RequestException) or str(error).startswith("expected "):
            raise
        raise OSError(
            f"expected to write {path}, got: {error}; make room, or set data_dir (for weights "
            "TORCH_HOME) to a writable folder; the next attempt resumes the download"
        ) from error


def extract(archive: Path, folder: Path) -> None:
    """Unpacks a ZIP or tar archive into a folder.

    Raises:
        ValueError: If the archive is broken or of another type, if it would write outside the
            folder, if it holds anything but files, folders and links within the folder, or if it
            unpacks to more than 100 times its size plus 1 GiB.
    """
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as entries:
                check_members(archive, ((e.filename, e.file_size) for e in entries.infolist()))
                entries.extractall(folder)
            return
        with tarfile.open(archive) as members:
            check_members(archive, ((member.name, member.size) for member in members))
            members.extractall(folder, filter="data")  # refuses outside links and devices
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"expected a whole archive, got {archive}, which cannot be unpacked ({error}); delete "
            "it and fetch it again"
        ) from error


def check_members(archive: Path, members: Iterable[tuple[str, int]]) -> None:
    """Refuses names that lead outside the folder, and sizes that would fill the disk."""
    limit = GROWTH * archive.stat().st_size + SPARE
    total = 0
    for name, size in members:
        if name.startswith(("/", "\\")) or ".." in Path(name).parts or ":" in name:
            raise ValueError(f"expected names within {archive}, got {name!r}; delete it")
        total += size
        if total > limit:
            raise ValueError(
                f"expected at most {limit / 1e9:.1f} GB in {archive}, got more; it may be "
                "harmful: delete it"
            )

"""Downloads against a real server on this machine that breaks off, refuses and lies."""

import gzip
import hashlib
import io
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZipFile

import pytest

from src.data import download
from src.data.download import extract, fetch, prepare
from src.data.registry import Known, RemoteFile

CONTENT = os.urandom(3 * 2**20)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves bytes by path.

    Attributes:
        cut: Number of bytes after which it breaks off, once.
        ranges: Whether it serves a file from the middle.
        hold: Number of bytes after which it waits for `released`.
    """

    def __init__(self) -> None:
        super().__init__(("", 0), Handler)
        self.files: dict[str, bytes] = {"/whole": CONTENT}
        self.moved: dict[str, str] = {}
        self.cut: int | None = None
        self.ranges = True
        self.hold: int | None = None  # where it stops until it is released
        self.released = Event()
        self.served: list[tuple[str, int]] = []  # path, bytes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answers(self, count: int) -> list[tuple[str, int]]:
        """What was served, once so many answers have ended."""
        while len(self.served) < count:
            time.sleep(0.02)
        return self.served


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        server, content = self.server, self.server.files.get(self.path)
        if self.path in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[self.path])
            self.end_headers()
            return
        if content is None:
            self.send_error(404)
            return
        asked, start = self.headers.get("Range"), 0
        if asked and server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = len(content)
        if server.cut is not None:
            stop, server.cut = start + server.cut, None
        sent = 0
        try:
            for first in range(start, stop, 2**16):
                if first == server.hold:
                    server.released.wait()
                piece = content[first : min(first + 2**16, stop)]
                self.wfile.write(piece)
                sent += len(piece)
        except OSError:
            pass
        server.served.append((self.path, sent))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def remote(server: Server, *paths: str, **facts: Any) -> RemoteFile:
    return RemoteFile("set/file.bin", tuple(server.url + path for path in paths), **facts)


def test_a_fetched_file_is_whole_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    file = remote(server, "/whole", md5=MD5, bytes=len(CONTENT))
    for _ in range(2):
        assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.answers(1) == [("/whole", len(CONTENT))]
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["file.bin"]


def test_a_connection_that_breaks_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut = 2**20
    assert fetch(remote(server, "/whole", md5=MD5), tmp_path).read_bytes() == CONTENT
    assert [sent for _, sent in server.answers(2)] == [2**20, len(CONTENT) - 2**20]


def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.cut, server.ranges = 2**20, False
    assert fetch(remote(server, "/whole", md5=MD5), tmp_path).read_bytes() == CONTENT
    assert [sent for _, sent in server.answers(2)] == [2**20, len(CONTENT)]


def test_a_killed_download_is_resumed_by_the_next(server: Server, tmp_path: Path) -> None:
    server.hold = 2 * 2**20
    code = (
        "import sys; from pathlib import Path; from src.data.download import *;"
        "from src.data.registry import *;"
        "fetch(RemoteFile('set/file.bin', (sys.argv[1],), md5=sys.argv[2]), Path(sys.argv[3]))"
    )
    arguments = [sys.executable, "-c", code, server.url + "/whole", MD5, str(tmp_path)]
    with subprocess.Popen(arguments) as process:
        part = tmp_path / "set/file.bin.part"
        while not part.exists() or part.stat().st_size < 2**20:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    have = part.stat().st_size
    assert not part.with_name("file.bin").exists()
    server.hold = None
    server.released.set()
    server.answers(1)  # the server notices that nobody listens
    assert fetch(remote(server, "/whole", md5=MD5), tmp_path).read_bytes() == CONTENT
    assert server.answers(2)[-1] == ("/whole", len(CONTENT) - have)


def test_wrong_bytes_are_left_for_the_next_address(server: Server, tmp_path: Path) -> None:
    server.files["/wrong"] = b"an error page"
    file = remote(server, "/missing", "/wrong", "/whole", md5=MD5)
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_all_that_went_wrong_is_said(server: Server, tmp_path: Path) -> None:
    server.files["/wrong"] = b"an error page"
    with pytest.raises(ConnectionError) as error:
        fetch(remote(server, "/missing", "/wrong", md5=MD5), tmp_path)
    for part in ("/missing: 404", f"/wrong: expected md5 {MD5}, got", "by other means"):
        assert part in str(error.value)
    assert not list(tmp_path.rglob("file.bin*"))


def test_a_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    file = remote(server, "/whole", md5=MD5)
    fetch(file, tmp_path).write_bytes(CONTENT[:-1] + b"x")
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_a_half_file_that_is_too_long_is_begun_anew(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "set/file.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT + b"more")
    assert fetch(remote(server, "/whole", md5=MD5), tmp_path).read_bytes() == CONTENT


def test_an_address_that_is_not_https_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected an https address, got http://example.com/a"):
        fetch(RemoteFile("a", ("http://example.com/a",)), tmp_path)


@pytest.mark.slow
def test_an_address_that_leads_away_from_https_is_left_for_the_next(
    server: Server, tmp_path: Path
) -> None:
    server.moved["/moved"] = f"http://127.0.0.2:{server.server_port}/whole"  # any other host
    assert fetch(remote(server, "/moved", "/whole", md5=MD5), tmp_path).read_bytes() == CONTENT
    with pytest.raises(
        ConnectionError, match=r"/moved: expected an https address, got http://127"
    ):
        fetch(remote(server, "/moved", md5=MD5), tmp_path / "other")


def test_no_room_is_said_before_anything_is_fetched(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"needs 1000000000.0 GB of .* make room, or set data_dir"):
        fetch(remote(server, "/whole", bytes=10**18), tmp_path)
    assert not server.served


def test_a_disk_that_fills_up_loses_nothing(server: Server, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from src.data.download import *;"
        "from src.data.registry import *; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20));"
        "fetch(RemoteFile('set/file.bin', (sys.argv[1],)), Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, server.url + "/whole", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"expected to write {tmp_path}/set/file.bin.part, got: " in done.stderr
    assert (tmp_path / "set/file.bin.part").stat().st_size == 2**20


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"expected to write .*/set/file.bin.part, got: .*data_dir"):
        fetch(remote(server, "/whole"), tmp_path)


def tar(names: dict[str, bytes], mode: str = "w:gz") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in names.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def known(server: Server, **files: bytes) -> Known:
    server.files.update({f"/{name}": content for name, content in files.items()})
    urls = {name: (f"{server.url}/{name}",) for name in files}
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    remotes = tuple(RemoteFile(name, urls[name], md5=md5[name], extract=True) for name in files)
    return Known("pets", "Pets", "https://example.com", 2, "none", "none", "none", remotes)


def test_a_set_is_there_when_all_of_it_is(server: Server, tmp_path: Path) -> None:
    pets = known(server, one=tar({"cat/1.png": b"1"}), two=tar({"dog/2.png": b"2"}))
    two = server.files.pop("/two")
    with pytest.raises(ConnectionError):
        prepare(pets, tmp_path / "pets")
    assert not (tmp_path / "pets").exists()
    server.files["/two"] = two
    for _ in range(2):
        prepare(pets, tmp_path / "pets")
    assert sorted(p.name for p in (tmp_path / "pets").rglob("*")) == [
        "1.png", "2.png", "cat", "dog"
    ]  # fmt: skip
    assert [path for path, _ in server.answers(2)] == ["/one", "/two"]
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_a_set_that_is_fetched_by_hand_says_how(tmp_path: Path) -> None:
    pets = Known("pets", "Pets", "", 2, "", "", "", manual="ask the authors")
    with pytest.raises(FileNotFoundError, match=r"Pets in .* by hand: ask the authors"):
        prepare(pets, tmp_path / "pets")


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nothing_lands_outside_of_the_folder(kind: str, name: str, tmp_path: Path) -> None:
    archive = tmp_path / f"a.{kind}"
    if kind == "zip":
        with ZipFile(archive, "w") as entries:
            entries.writestr(name, "x")
    else:
        archive.write_bytes(tar({name: b"x"}))
    folder = tmp_path / "inside/deep"
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"expected names within"):
        extract(archive, folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [archive.name, "deep", "inside"]


def test_a_link_to_the_outside_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../etc"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"expected a whole archive"):
        extract(tmp_path / "a.tar", tmp_path / "inside")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_would_fill_the_disk_is_refused(kind: str, tmp_path: Path) -> None:
    archive = tmp_path / f"a.{kind}"
    if kind == "tar":
        with tarfile.open(archive, "w") as members:
            entry = tarfile.TarInfo("big")
            entry.size = 2**40
            assert members.fileobj
            members.fileobj.write(entry.tobuf())  # a header without its terabyte
    else:
        with ZipFile(archive, "w") as entries:
            entries.writestr("big", b"x")
            entries.getinfo("big").file_size = 2**40
    with pytest.raises(ValueError, match=r"expected at most .* GB in .*, got more"):
        extract(archive, tmp_path / "inside")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_half_an_archive_is_no_archive(kind: str, tmp_path: Path) -> None:
    archive = tmp_path / f"a.{kind}"
    if kind == "zip":
        with ZipFile(archive, "w") as entries:
            entries.writestr("a", os.urandom(10_000))
    else:
        archive.write_bytes(tar({"a": os.urandom(10_000)}))
    archive.write_bytes(archive.read_bytes()[:5_000])
    with pytest.raises(ValueError, match=r"expected a whole archive, got .* fetch it again"):
        extract(archive, tmp_path / "inside")


def tar_of(*headers: bytes, zeros: int = 0) -> bytes:
    """A packed tar archive of these headers, each followed by so many megabytes of zeros."""
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb", compresslevel=1) as file:
        for header in headers:
            file.write(header)
            for _ in range(zeros):
                file.write(bytes(2**20))
        file.write(bytes(1024))
    return content.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


def zip_of(method: int = ZIP_DEFLATED, **names: bytes) -> bytes:
    content = io.BytesIO()
    with ZipFile(content, "w", method) as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return content.getvalue()


def changed(content: bytes, at: int, to: int) -> bytes:
    """Sets a byte in the header of the only member of a ZIP archive, in both of its places."""
    edited = bytearray(content)
    edited[at] = edited[content.index(b"PK\x01\x02") + at + 2] = to
    return bytes(edited)


BAD: dict[str, tuple[str, bytes]] = {
    "a web page": ("zip", b"<html>log in</html>"),
    "a web page as tar": ("tar.gz", b"<html>log in</html>"),
    "nothing": ("zip", b""),
    "nothing as tar": ("tar.gz", b""),
    "a password": ("zip", changed(zip_of(a=b"x" * 99), 6, 1)),
    "bzip2, which unpacks to any size at once": ("zip", zip_of(ZIP_BZIP2, a=b"x")),
    "lzma": ("zip", zip_of(ZIP_LZMA, a=b"x")),
    "an unknown method": ("zip", changed(zip_of(a=b"x" * 99), 8, 99)),
    "a wrong checksum": ("zip", zip_of(0, a=b"xyz").replace(b"xyz", b"xyy")),
    "a name too long": ("tar.gz", tar({"a" * 300: b"x"})),
    "a file in the place of a folder": ("tar.gz", tar({"a": b"x", "a/b": b"y"})),
    "a device": ("tar.gz", tar_of(header("a", 0, tarfile.CHRTYPE))),
    "a negative size": ("tar.gz", tar_of(header("a", 0)[:124] + b"\xff" * 12 + bytes(376))),
    "long names without end": ("tar.gz", tar_of(header("a", 200 * 2**20, b"L"), zeros=200)),
    "a description without end": ("tar.gz", tar_of(header("a", 200 * 2**20, b"x"), zeros=200)),
    "empty files without end": ("tar.gz", tar_of(*[header("a", 0)] * 3000)),
    "bits that are wrong": ("tar.gz", tar_of(header("a", 5))[:-12] + bytes(12)),
}


@pytest.mark.parametrize(("suffix", "content"), BAD.values(), ids=BAD)
def test_a_bad_archive_is_refused_in_a_sentence_and_little_memory(
    suffix: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SPARE", 2**20)
    archive = tmp_path / f"a.{suffix}"
    archive.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"^expected .*\ba\b.*"):
        extract(archive, tmp_path / "inside")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KB


def test_a_full_disk_is_not_the_fault_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of(a=bytes(2**16)))
    code = (
        "import resource, signal, sys; from pathlib import Path; from src.data.download import *;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**10, 2**10));"
        "extract(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "a.zip"), str(tmp_path / "inside")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert "OSError: [Errno 27] File too large" in done.stderr
    assert "expected a whole archive" not in done.stderr

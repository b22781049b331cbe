"""Servers that drip, never end, lead elsewhere or speak no HTTP: given up, in a sentence."""

import gzip
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from itertools import count, repeat
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import pytest

from src.data import download, transfer
from src.data.download import fetch
from src.data.registry import RemoteFile

CONTENT = os.urandom(1000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OK = b"HTTP/1.1 200 OK\r\n"
Parts = Callable[[str], Iterator[bytes]]


class Server(ThreadingTCPServer):
    """Answers every request with the parts that `says` returns for its path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.says: dict[str, Parts] = {}
        self.asked: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseRequestHandler):
    server: Any

    def handle(self) -> None:
        path = self.request.recv(2**16).split(b" ")[1].decode()
        self.server.asked.append(path)
        try:
            for part in self.server.says[path](path):
                self.request.sendall(part)
        except OSError:
            pass


@pytest.fixture
def server() -> Iterator[Server]:
    from threading import Thread

    with Server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        server.says["/good"] = said(OK, b"Content-Length: 1000\r\n\r\n", CONTENT)
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PATIENCE", 0.5)
    monkeypatch.setattr(download, "sleep", lambda seconds: None)


def said(*parts: bytes) -> Parts:
    return lambda path: iter(parts)


def slowly(start: bytes, each: bytes) -> Parts:
    def says(path: str) -> Iterator[bytes]:
        yield start
        for _ in range(600):
            time.sleep(0.02)
            yield each

    return says


def moved(to: str, *more: bytes) -> Parts:
    return said(b"HTTP/1.1 302 Found\r\nLocation: ", to.encode(), b"\r\n", *more, b"\r\n")


def endless(start: bytes, each: bytes) -> Parts:
    def says(path: str) -> Iterator[bytes]:
        yield start
        yield from repeat(each)

    return says


ZEROS = bytes(2**16)
ANSWERS: dict[str, tuple[Parts, str]] = {
    "bytes that drip": (slowly(OK + b"Content-Length: 1000\r\n\r\n", b"x"), "within 0.5 seconds"),
    "a status that drips": (slowly(b"HTTP/1.1 200 ", b"O"), "within 0.5 seconds"),
    "headers that drip": (slowly(OK, b"X: y\r\n"), "within 0.5 seconds"),
    "chunks that drip": (
        slowly(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        "within 0.5 seconds",
    ),
    "silence": (slowly(b"", b""), "within 0.5 seconds"),
    "bytes without end": (endless(OK + b"\r\n", ZEROS), "expected at most 1000 bytes, got"),
    "chunks without end": (
        endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + ZEROS + b"\r\n"),
        "expected at most 1000 bytes, got",
    ),
    "a header without end": (endless(OK + b"X: ", ZEROS), "."),
    "headers without end": (endless(OK, b"X: y\r\n" * 100), "."),
    "a size that is too large": (
        said(OK, b"Content-Length: 99999999999\r\n\r\n"),
        "expected at most 1000 bytes, got 99999999999",
    ),
    "a size that is none": (
        said(OK, b"Content-Length: many\r\n\r\n", b"x"),
        "expected 1000 bytes, got 1\n",
    ),
    "a negative size": (said(OK, b"Content-Length: -5\r\n\r\n", b"x"), "."),
    "two sizes": (said(OK, b"Content-Length: 5\r\nContent-Length: 7\r\n\r\nhello"), "."),
    "no HTTP": (said(b"SSH-2.0-OpenSSH_9.6\r\n"), "."),
    "nothing": (said(), "."),
    "half": (said(OK, b"Content-Length: 1000\r\n\r\n", CONTENT[:500]), "."),
    "a broken chunk": (said(OK, b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), "."),
    "forbidden": (said(b"HTTP/1.1 403 Forbidden\r\n\r\n"), "403 Forbidden"),
    "broken": (said(b"HTTP/1.1 500 Oops\r\n\r\n"), "500 Oops"),
    "a status of its own": (said(b"HTTP/1.1 204 No Content\r\n\r\n"), "204 No Content"),
    "moved to itself": (moved("/bad"), "at most 10 redirects"),
    "moved for ever": (lambda path: moved(f"/{next(NUMBER)}")(path), "at most 10 redirects"),
    "moved to http": (moved("http://example.com/a"), "expected an https address, got http://ex"),
    "moved to a file": (moved("file:///etc/passwd"), "expected an https address, got file:"),
    "moved to nonsense": (moved("http://[::1"), "."),
    "moved to an address of other letters": (moved("https://\udcff..\x00/".encode(
        "utf-8", "surrogatepass").decode("latin-1")), "."),
    "moved, with an endless page": (
        endless(b"HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\n\r\n", ZEROS),
        "expected an https address",
    ),
}  # fmt: skip
NUMBER = count()


@pytest.mark.parametrize(("parts", "says"), ANSWERS.values(), ids=ANSWERS)
def test_a_useless_answer_is_left_for_the_next_address(
    parts: Parts, says: str, server: Server, tmp_path: Path
) -> None:
    server.says["/bad"] = parts
    server.says |= {f"/{number}": parts for number in range(50)}
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"(?s)expected a from one of its .*/bad: .*{says}"):
        fetch(RemoteFile("a", (server.url("/bad"),), bytes=1000, sha256=SHA256), tmp_path)
    assert time.monotonic() - start < 30
    urls = (server.url("/bad"), server.url("/good"))
    assert (
        fetch(RemoteFile("a", urls, sha256=SHA256, bytes=1000), tmp_path).read_bytes() == CONTENT
    )


def test_a_file_of_unknown_size_has_a_bound_that_its_entry_may_raise(
    server: Server, tmp_path: Path
) -> None:
    server.says["/endless"] = endless(OK + b"\r\n", ZEROS)
    file = RemoteFile("a", (server.url("/endless"),), sha256=SHA256, max_bytes=10**6)
    with pytest.raises(ConnectionError, match="expected at most 1000000 bytes, got 10"):
        fetch(file, tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(server.asked) == 1  # another attempt would be as long
    good = (server.url("/good"),)
    with pytest.raises(ConnectionError, match="expected at most 999 bytes, got 1000"):
        fetch(RemoteFile("a", good, sha256=SHA256, max_bytes=999), tmp_path)
    assert fetch(RemoteFile("a", good, sha256=SHA256, max_bytes=1000), tmp_path)


def test_a_full_disk_is_left_some_room(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "KEPT_FREE", 2**60)  # of a disk that has less
    with pytest.raises(OSError, match=r"a needs more than the .* GB free; make room"):
        fetch(RemoteFile("a", (server.url("/good"),), sha256=SHA256), tmp_path)


def test_bytes_come_as_they_are(server: Server, tmp_path: Path) -> None:
    """A server that calls an archive's compression its own, as many do for .tar.gz."""
    packed = gzip.compress(CONTENT)
    server.says["/a.gz"] = said(OK, b"Content-Encoding: gzip\r\n\r\n", packed)
    digest = hashlib.sha256(packed).hexdigest()
    path = fetch(RemoteFile("a", (server.url("/a.gz"),), sha256=digest), tmp_path)
    assert path.read_bytes() == packed


def test_a_foreign_server_does_not_make_us_ask_this_machine() -> None:
    transfer.check_safe("http://localhost/a")
    with pytest.raises(ValueError, match="expected an https address, got http://localhost/a"):
        transfer.check_safe("http://localhost/a", local=False)


def test_a_link_in_the_place_of_a_half_file_is_not_followed(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "a.part").symlink_to("mine.txt")
    fetch(RemoteFile("a", (server.url("/good"),), sha256=SHA256), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()


def test_a_server_that_is_not_there_is_given_up(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match="refused"):
        fetch(RemoteFile("a", (f"http://127.0.0.1:{port}/",), sha256=SHA256), tmp_path)

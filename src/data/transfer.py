"""One answer of a web server, which may be slow, endless or malformed."""

__all__ = ["Answer", "RefusedError", "ask", "check_safe"]

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any
from urllib.parse import urljoin, urlparse

import requests

TIMEOUT = (10, 60)  # seconds to connect, and between two packets
PIECE = 2**18  # bytes
PATIENCE = 60  # seconds in which a piece, or the beginning of the answer, must come
REDIRECTS = 10
LOCAL = ("127.0.0.1", "localhost")
Heard = tuple[int, int] | bytes | Exception | None


class RefusedError(ConnectionError):
    """A failure that another attempt at the same address would repeat."""


@dataclass(frozen=True)
class Answer:
    """The answer of a server.

    Attributes:
        status: Status code.
        length: Number of bytes that the server announces; 0 if it announces none.
        pieces: The bytes as they are sent; raises ConnectionError if they fail to come.
    """

    status: int
    length: int
    pieces: Iterator[bytes]


@contextmanager
def ask(url: str, start: int = 0) -> Iterator[Answer]:
    """Asks for a file from byte `start` on, and hangs up at the end of the context.

    A thread listens to the server, so that one which sends single bytes, be it in its header, is
    given up after a minute.

    Raises:
        RefusedError: If the server refuses, or leads to an unsafe address.
        ConnectionError: If the connection fails or is too slow.
    """
    said: Queue[Heard] = Queue(2)
    gone = Event()
    Thread(target=_listen, args=(url, start, said, gone), daemon=True).start()

    def hear() -> Any:
        try:
            heard = said.get(timeout=PATIENCE)
        except Empty:
            raise ConnectionError(
                f"expected {PIECE} bytes within {PATIENCE} seconds, got fewer"
            ) from None
        if isinstance(heard, Exception):  # of many types, which all mean a useless answer
            is_final = isinstance(heard, RefusedError | ValueError)  # ValueError: of the address
            kind = RefusedError if is_final else ConnectionError
            raise kind(str(heard) or repr(heard)) from heard
        return heard

    try:
        status, length = hear()
        yield Answer(status, length, iter(hear, None))
    finally:
        gone.set()


def _listen(url: str, start: int, said: "Queue[Heard]", gone: Event) -> None:
    """Passes on status and length, full pieces and at last None, or what went wrong."""

    def tell(heard: Heard) -> None:
        while not gone.is_set():
            with suppress(Full):
                said.put(heard, timeout=1)
                return

    piece = bytearray()
    try:
        with Session() as session, _opened(session, url, start) as response:
            length = response.headers.get("Content-Length", "")
            is_known = length.isdecimal() and len(length) < 19
            tell((response.status_code, int(length) if is_known else 0))
            for part in response.raw.stream(PIECE, decode_content=False):
                piece += part  # of single bytes, if the server wishes
                if len(piece) >= PIECE:
                    tell(bytes(piece))
                    piece.clear()
                if gone.is_set():
                    return
        tell(bytes(piece))
        tell(None)
    except Exception as error:
        if piece:
            tell(bytes(piece))
        tell(error)


class Session(requests.Session):
    """A session that neither follows redirects nor reads what stands beside them."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Returns None: there is nowhere to go."""


def _opened(session: Session, url: str, start: int) -> requests.Response:
    """Returns the answer of the address to which the redirects lead."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    is_local = urlparse(url).hostname in LOCAL
    for _ in range(REDIRECTS):
        check_safe(url, local=is_local)
        response = session.get(url, stream=True, timeout=TIMEOUT, headers=headers)
        if not response.is_redirect:
            if response.status_code not in (200, 206, 416):
                response.close()
                kind = RefusedError if 400 <= response.status_code < 500 else ConnectionError
                raise kind(f"{response.status_code} {response.reason}")
            return response
        response.close()
        url = urljoin(url, response.headers["Location"])
    raise RefusedError(f"expected at most {REDIRECTS} redirects, got more")


def check_safe(url: str, *, local: bool = True) -> None:
    """Refuses an address whose answer can be changed on the way.

    Args:
        url: Address.
        local: Whether this machine may be asked without https.

    Raises:
        ValueError: If it is neither https nor, where that is permitted, of this machine.
    """
    address = urlparse(url)
    if address.scheme == "https" or (
        local and address.scheme == "http" and address.hostname in LOCAL
    ):
        return
    raise ValueError(f"expected an https address, got {url}; use a mirror that has one")

"""What every request passes before anything reads it: token, size, headers, counters."""

__all__ = ["Guard", "refusal"]

import asyncio
import base64
import hmac
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.service.limits import Limits
from src.service.meters import Meters
from src.service.orphans import end_with_parent

ANSWERS = ("/", "/predict")  # what decides about images, and is timed
OPEN = ("/health",)  # what a probe may ask without the token
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
DRAINED = 4  # times the largest body that is read and dropped, so that the client hears why


class Guard:
    """ASGI middleware around the whole server.

    Args:
        app: What comes behind.
        token: Secret of those who may ask: as a bearer token, or, for a browser, as the password
            of HTTP Basic. None admits all.
        limits: Bounds of a request.
        meters: Counters.
        at_end: Called when the server has answered its last request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        limits: Limits,
        meters: Meters,
        at_end: Callable[[], object],
    ) -> None:
        self.app, self.token, self.limits, self.meters = app, token, limits, meters
        self.at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "lifespan":
            end_with_parent()  # in the process that listens
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            self.at_end()
            return
        began = time.perf_counter()

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                self.meters.requests.labels(str(message["status"])).inc()
            await send(message)

        headers = Headers(scope=scope)
        refused = self._refusal(scope["path"], headers)
        if refused is not None:
            await self._drain(receive)
            await refused(scope, receive, sent)
            return
        await self.app(scope, self._counted(receive), sent)
        if scope["path"] in ANSWERS and scope["method"] == "POST":
            self.meters.seconds.observe(time.perf_counter() - began)

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        """Returns why a request is refused by its head alone; None if it is not."""
        if self.token and path not in OPEN and not is_known(headers, self.token):
            return refusal(
                401,
                'expected the token of this server in the header "Authorization: Bearer", got '
                + ("another" if "authorization" in headers else "none"),
                {"WWW-Authenticate": 'Bearer, Basic realm="gate", charset="UTF-8"'},
            )
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return refusal(400, "expected a content-length in digits, got another")
        if len(length) > 18 or int(length) > self.limits.max_bytes:
            return refusal(413, too_large(self.limits))
        return None

    def _counted(self, receive: Receive) -> Receive:
        """Returns a way to receive a body that ends where it is too large."""
        left = self.limits.max_bytes

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, too_large(self.limits))
            return message

        return counted

    async def _drain(self, receive: Receive) -> None:
        """Reads and drops a body of a bearable size."""
        left = DRAINED * self.limits.max_bytes
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.seconds):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return


def is_known(headers: Mapping[str, str], token: str) -> bool:
    """Returns whether a request has the token; takes as long for any wrong one of its length."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), token.encode())


def too_large(limits: Limits) -> str:
    """Returns what is said of a body that is too large."""
    return f"expected at most {limits.max_bytes} bytes in a request, got more; send fewer images"


def refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Returns the answer to a request that is refused."""
    return JSONResponse({"error": sentence}, status, dict(headers or {}))

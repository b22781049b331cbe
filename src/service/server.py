"""Starts the server: the front door in one process, the gate in the workers."""

__all__ = ["new_server", "run", "serve"]

import os
import signal
import socket
import threading
from pathlib import Path
from types import FrameType

import torch
from fastapi import Request
from fastapi.responses import JSONResponse
from litserve import LitServer
from PIL import Image
from starlette.exceptions import HTTPException

from src.gate import Gate
from src.records.console import say
from src.service.door import FAILED, Door
from src.service.engine import GateAPI
from src.service.facts import Facts
from src.service.guard import Guard, refusal
from src.service.limits import Limits
from src.service.meters import Meters
from src.service.orphans import TetheredServer
from src.service.stream import Stream

HOSTS = ("127.0.0.1", "0.0.0.0", "::")  # those that LitServe knows


def serve(
    path: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    batch: int = 32,
    accelerator: str = "auto",
    limits: Limits | None = None,
    token: str | None = None,
    trust: bool = False,
    watch: Path | None = None,
    delta: float = 0.01,
    log_level: str = "warning",
) -> None:
    """Serves a gate until SIGTERM or Ctrl-C; then answers the requests in flight, and returns.

    Args:
        path: File of `src.deploy`.
        host: Address to listen at: 127.0.0.1 for this machine alone, 0.0.0.0 or :: for all.
        port: Port, from 1024 to 65535.
        workers: Processes that hold the gate, on each device.
        batch: Largest number of requests that are answered together.
        accelerator: "auto", "cpu", "cuda" or "mps".
        limits: Bounds of a request.
        token: Secret without which nobody is answered, but for `GET /health`.
        trust: Whether the file may name classes of any package.
        watch: File of the state of a watch over all images; None for no watch.
        delta: Of the watch: probability of a false alarm, ever.
        log_level: Of LitServe and uvicorn.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the port is taken.
        ValueError: If the file is no gate, or a setting cannot be.
    """
    limits = limits or Limits()
    check(host, port, workers, batch, token)
    torch.set_num_threads(1)  # no threads that the forked front door would miss
    gate = Gate.load(path, trust=trust)
    facts, picture = Facts.of(gate), gate.picture
    picture.pixels(Image.new("RGB", (8, 8)))  # refuses a network that no picture fits
    del gate
    server = new_server(
        path, facts, limits, watch=watch, delta=delta,
        workers=workers, batch=batch, accelerator=accelerator, token=token, trust=trust,
    )  # fmt: skip
    say(
        f"http://{'[::]' if host == '::' else host}:{port}: {facts.detector} calls an image OOD "
        f"if p <= {facts.alpha}; gate {facts.digest[:12]}"
    )
    run(server, host, port, log_level)


def run(server: LitServer, host: str, port: int, log_level: str = "warning") -> None:
    """Runs a server until SIGTERM or Ctrl-C; one process listens, which counts and watches."""
    stop_on_sigterm(server)
    server.run(
        host, port, num_api_servers=1, log_level=log_level, generate_client_file=False,
        server_header=False, access_log=False,
    )  # fmt: skip


def check(host: str, port: int, workers: int, batch: int, token: str | None) -> None:
    """Refuses settings that cannot be.

    Raises:
        OSError: If the port is taken.
        ValueError: If a setting is out of its range.
    """
    if host not in HOSTS:
        raise ValueError(f"expected host to be {', '.join(HOSTS)}, got {host}; correct host=")
    if not 1024 <= port <= 65535:
        raise ValueError(f"expected a port from 1024 to 65535, got {port}; correct port=")
    for name, value in (("workers", workers), ("batch", batch)):
        if value < 1:
            raise ValueError(f"expected {name} of 1 or more, got {value}; correct {name}=")
    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise ValueError(
            "expected a token of printable ASCII characters, got another; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    family = socket.AF_INET6 if host == "::" else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"expected a free port, got {port} at {host}: {error.strerror}; set port="
            ) from None


def new_server(
    path: Path,
    facts: Facts,
    limits: Limits,
    *,
    workers: int = 1,
    batch: int = 32,
    accelerator: str = "auto",
    token: str | None = None,
    trust: bool = False,
    watch: Path | None = None,
    delta: float = 0.01,
    engine: type[GateAPI] = GateAPI,
) -> LitServer:
    """Returns a server that has not started.

    Args:
        path: File of `src.deploy`.
        facts: Facts of the gate in it.
        limits: Bounds of a request.
        workers: As in `serve`, like the next four.
        batch: Of a worker.
        accelerator: Of all workers.
        token: Secret of those who may ask.
        trust: Of the file.
        watch: As in `serve`, like the next one.
        delta: Of the watch.
        engine: What a worker does.
    """
    meters = Meters()
    stream = Stream(facts, meters, watch, delta)
    api = engine(
        path.absolute(), Door(facts, limits, meters, stream),
        max_pixels=limits.max_pixels, batch=batch,
        threads=max(1, (os.cpu_count() or 1) // workers), trust=trust,
    )  # fmt: skip
    server = TetheredServer(
        api, accelerator=accelerator, workers_per_device=workers, timeout=limits.seconds,
        disable_openapi_url=True,
        model_metadata=facts.described(),
        middlewares=[
            (Guard, {"token": token, "limits": limits, "meters": meters, "at_end": stream.save})
        ],
    )  # fmt: skip
    server.uvicorn_graceful_timeout = max(1, round(limits.seconds))
    routes = server.app.router.routes  # LitServe's greeting makes room for the page
    routes[:] = [
        route
        for route in routes
        if getattr(route, "path", "") != "/" or getattr(route, "name", "") != "index"
    ]
    server.app.add_exception_handler(HTTPException, refused)
    server.app.add_exception_handler(Exception, failed)
    return server


async def refused(request: Request, error: Exception) -> JSONResponse:
    """Answers a refusal in JSON."""
    if not isinstance(error, HTTPException):
        return await failed(request, error)
    status, sentence = error.status_code, error.detail
    if status == 404:
        sentence = "expected the path /, /predict, /health, /info or /metrics, got another"
    if status == 405:
        sentence = f"expected another method at this path, got {request.method}"
    return refusal(status, sentence, error.headers)


async def failed(request: Request, error: Exception) -> JSONResponse:
    """Answers where the server is at fault; the log says more."""
    return refusal(500, FAILED)


def stop_on_sigterm(server: LitServer) -> None:
    """Makes SIGTERM end the server; the processes that it starts answer what is in flight.

    The event for which the server waits is set by a thread, since the main thread may be in the
    middle of a call of the event's process. An exception would leave it unset: a worker that has
    ended would then count as broken.
    """
    own = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            return
        if server._shutdown_event is None:
            raise SystemExit(0)  # it has not begun
        threading.Thread(target=server._shutdown_event.set, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)

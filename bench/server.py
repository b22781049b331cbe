"""A server in processes of its own: started, asked by many clients, measured, killed, ended.

python -m bench.server bare|gate GATE PORT BATCH [STATE]    serves until SIGTERM; for bench.serve
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from src.gate import Gate, Verdict
from src.service.engine import GateAPI
from src.service.facts import Facts
from src.service.limits import Limits
from src.service.server import new_server, run

START = 240.0  # seconds that a busy machine may need to start a server
GRACE = 20.0  # seconds in which a server ends after SIGTERM, before it is killed
TIMEOUT = 60.0  # seconds to wait for an answer
PAUSE = 0.5  # seconds between two looks at the memory


class BareAPI(GateAPI):
    """The network alone: no detector, no p-value."""

    def verdicts(self, pixels: Sequence[Tensor]) -> list[Verdict]:
        """Returns the class of each image; score and p-value mean nothing."""
        found = []
        for first in range(0, len(pixels), self.max_batch_size):
            part = torch.stack([*pixels[first : first + self.max_batch_size]])
            with torch.no_grad():
                softmax = self.gate.network(part.to(self.gate.device)).softmax(dim=1)
            probability, label = (each.tolist() for each in softmax.max(dim=1))
            for share, number in zip(probability, label, strict=True):
                found.append(Verdict(self.gate.classes[number], share, 0.0, 1.0, False))
        return found


@dataclass(frozen=True)
class Memory:
    """Memory of all processes of a server, in MB."""

    resident: float  # what several processes share counts once in each
    proportional: float  # what several processes share counts once


class Server:
    """A server that runs.

    Attributes:
        port: Its port at 127.0.0.1.
        leader: Its first process, after which its group of processes is named.
    """

    def __init__(self, port: int, leader: int) -> None:
        self.port, self.leader = port, leader

    def processes(self) -> list[int]:
        """Returns the processes of the server that live."""
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError):  # no process, or one that has ended
                if os.getpgid(int(folder.name)) == self.leader and not _is_dead(folder):
                    found.append(int(folder.name))
        return found

    def memory(self) -> Memory:
        """Returns the memory of its processes now."""
        total: Counter[str] = Counter()
        for process in self.processes():
            with suppress(OSError):  # it has ended
                for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                    if line.startswith(("Rss:", "Pss:")):
                        total[line[:3]] += int(line.split()[1])
        return Memory(total["Rss"] / 1024, total["Pss"] / 1024)

    @contextmanager
    def peak(self) -> Iterator[list[Memory]]:
        """Inside, looks at the memory again and again."""
        seen, is_over = [self.memory()], threading.Event()

        def look() -> None:
            while not is_over.wait(PAUSE):
                seen.append(self.memory())

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            is_over.set()
            thread.join()


def _is_dead(folder: Path) -> bool:
    return (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"


@contextmanager
def server(kind: str, gate: Path, batch: int, state: Path | None = None) -> Iterator[Server]:
    """A server from its start to its end; none of its processes outlives this.

    Args:
        kind: "gate", or "bare" for the network alone.
        gate: File of the gate.
        batch: Most requests that are answered together; 1 for no batching.
        state: File of the state of a watch; None for no watch.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [kind, str(gate), str(port), str(batch), *([] if state is None else [str(state)])]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.server", *words],
        stdin=subprocess.PIPE, process_group=0,
    )  # fmt: skip
    try:
        while not _is_ready(port):
            if process.poll() is not None:
                raise RuntimeError(f"expected a server, got exit code {process.returncode}")
            if time.monotonic() - began > START:
                raise TimeoutError(f"expected a server within {START:g} s, got none")
            time.sleep(0.2)
        print(f"{kind}, batch={batch}: ready after {time.monotonic() - began:.0f} s", flush=True)
        yield Server(port, process.pid)
    finally:
        try:
            process.terminate()
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            print("the server did not end after SIGTERM, and was killed", flush=True)
        finally:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_ready(port: int) -> bool:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        line.request("GET", "/health")
        return line.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        line.close()


@dataclass
class Load:
    """What clients were answered.

    Attributes:
        elapsed: Seconds from the first request to the last answer.
        status: Status of each request, in the order of the answers; 0 if there was no answer.
        ended: Time of each answer, by `time.monotonic`.
        seconds: Seconds that each took.
    """

    elapsed: float = 0.0
    status: list[int] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def load(
    port: int,
    images: Sequence[bytes],
    clients: int,
    *,
    seconds: float = float("inf"),
    most: int | None = None,
    may_fail: bool = False,
) -> Load:
    """Asks about one image after the other, each client as soon as it is answered.

    Args:
        port: Port of the server.
        images: Files of images, which are asked about in turn.
        clients: Number of clients, each with a connection that it keeps.
        seconds: How long.
        most: Number of requests; None for as many as can be.
        may_fail: Whether a client that gets no answer ends, and raises nothing.
    """
    found, lock, is_over = Load(), threading.Lock(), threading.Event()
    numbers, began = count(), time.monotonic()

    def work() -> None:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        while not is_over.is_set() and time.monotonic() - began < seconds:
            number = next(numbers)
            if most is not None and number >= most:
                break
            start = time.monotonic()
            try:
                line.request(
                    "POST", "/predict", images[number % len(images)], {"Content-Type": "image/png"}
                )
                answer = line.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                if not may_fail:
                    raise
                status = 0
            end = time.monotonic()
            with lock:
                found.status.append(status)
                found.ended.append(end)
                found.seconds.append(end - start)
            if status == 0:
                break
        line.close()

    with ThreadPoolExecutor(clients) as pool:
        try:
            for client in [pool.submit(work) for _ in range(clients)]:
                client.result()
        finally:
            is_over.set()
    found.elapsed = time.monotonic() - began
    return found


def start(kind: str, gate: Path, port: int, batch: int, state: Path | None) -> None:
    """Runs a server in this process; all of it ends with the process that started it."""

    def end_with_parent() -> None:
        os.read(sys.stdin.fileno(), 1)  # the other end is closed when that process ends
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    facts, limits = Facts.of(Gate.load(gate)), Limits()
    engine = {"gate": GateAPI, "bare": BareAPI}[kind]
    run(
        new_server(gate, facts, limits, batch=batch, watch=state, engine=engine), "127.0.0.1", port
    )


if __name__ == "__main__":
    start(
        sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]),
        Path(sys.argv[5]) if len(sys.argv) > 5 else None,
    )  # fmt: skip

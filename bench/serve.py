"""Load on a server: latency beside the bare network in the same engine, broken images, memory.

python -m bench.serve gate=FILE images=FOLDER            the table
python -m bench.serve gate=FILE images=FOLDER count=500  a quick look
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import local

import numpy as np
import torch
from torch import Tensor

from src.gate import Gate, Verdict
from src.service.engine import GateAPI
from src.service.facts import Facts
from src.service.limits import Limits
from src.service.server import new_server, run

CLIENTS = (1, 8, 64)
BROKEN = 100  # one image in so many is broken


class BareAPI(GateAPI):
    """The network alone: no detector, no p-value."""

    def verdicts(self, pixels: Sequence[Tensor]) -> list[Verdict]:
        """Returns the class of each image; score and p-value mean nothing."""
        found = []
        for first in range(0, len(pixels), self.max_batch_size):
            part = torch.stack([*pixels[first : first + self.max_batch_size]])
            with torch.no_grad():
                softmax = self.gate.network(part.to(self.gate.device)).softmax(dim=1)
            for probability, label in zip(*(each.tolist() for each in softmax.max(dim=1))):  # noqa: B905
                found.append(Verdict(self.gate.classes[label], probability, 0.0, 1.0, False))
        return found


@contextmanager
def server(gate: Path, kind: str) -> Iterator[tuple[int, int]]:
    """A server in processes of its own, from its start to its end: its port and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "bench.serve", kind, str(gate), str(port)]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            while True:
                assert process.poll() is None, "the server ended"
                try:
                    if asked(port, "GET", "/health")[0] == 200:
                        break
                except OSError:
                    time.sleep(0.2)
            yield port, process.pid
        finally:
            os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == 0


def start(kind: str, gate: Path, port: int) -> None:
    """Runs a server in this process."""
    torch.set_num_threads(1)
    facts, limits = Facts.of(Gate.load(gate)), Limits()
    engine = {"gate": GateAPI, "bare": BareAPI}[kind]
    run(new_server(gate, facts, limits, engine=engine), "127.0.0.1", port)


own = local()


def asked(port: int, method: str, path: str, content: bytes = b"") -> tuple[int, bytes]:
    """Returns status and body; each thread keeps its connection."""
    if getattr(own, "port", None) != port:
        own.port, own.line = port, http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        own.line.request(method, path, content, {"Content-Type": "image/png"})
        answer = own.line.getresponse()
        return answer.status, answer.read()
    except OSError:
        own.line.close()
        raise


def load(port: int, images: Sequence[bytes], clients: int) -> tuple[Counter[int], list[float]]:
    """Returns the statuses and the seconds of requests of one image each, by so many clients."""

    def ask(content: bytes) -> tuple[int, float]:
        began = time.perf_counter()
        status, _ = asked(port, "POST", "/predict", content)
        return status, time.perf_counter() - began

    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, images))
    return Counter(status for status, _ in answers), [seconds for _, seconds in answers]


def memory(leader: int) -> float:
    """Returns the proportional memory of a server's processes, in MB."""
    total = 0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getsid(int(folder.name)) == leader:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except OSError:  # it has ended
            continue
    return total / 1024


def compare(gate: Path, images: Sequence[bytes], count: int) -> None:
    """Prints requests per second and latency of the gate and of the bare network, in turns."""
    rows = [images[k % len(images)] for k in range(count)]
    with server(gate, "bare") as (bare, _), server(gate, "gate") as (whole, _):
        for port in (bare, whole):
            load(port, rows[:50], 8)
        print("clients  engine  requests/s  p50 ms  p99 ms")
        for clients in CLIENTS:
            middle = {}
            for name, port in (("bare", bare), ("gate", whole)):
                began = time.perf_counter()
                statuses, seconds = load(port, rows, clients)
                rate = count / (time.perf_counter() - began)
                assert statuses == {200: count}, statuses
                middle[name], high = 1000 * np.quantile(seconds, [0.5, 0.99])
                print(
                    f"{clients:7}  {name:6}  {rate:10.1f}  {middle[name]:6.1f}  {high:6.1f}",
                    flush=True,
                )
            print(f"{clients:7}  p50 of the gate / bare: {middle['gate'] / middle['bare']:.2f}")


def endure(gate: Path, images: Sequence[bytes], count: int) -> None:
    """Prints what is answered if one image in a hundred is broken, and memory on the way."""
    rows = [images[k % len(images)][: 40 if k % BROKEN == 0 else None] for k in range(count)]
    with server(gate, "gate") as (port, leader):
        load(port, rows[: max(100, count // 20)], 8)
        print(f"memory after warming up: {memory(leader):.0f} MB")
        total: Counter[int] = Counter()
        for part in range(4):
            statuses, _ = load(port, rows[part::4], 8)
            total += statuses
            print(f"after {sum(total.values())} requests: {memory(leader):.0f} MB")
        broken = len(range(0, count, BROKEN))
        print(f"answered: {dict(total)}; expected {count - broken} of 200, {broken} of 422")
        assert total == {200: count - broken, 422: broken}


def main() -> None:
    """Reads the command line."""
    if sys.argv[1] in ("gate", "bare"):
        start(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
        return
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    gate, count = Path(given["gate"]).absolute(), int(given.get("count", 10000))
    images = [path.read_bytes() for path in sorted(Path(given["images"]).glob("*.*"))]
    compare(gate, images, max(100, count // 10))
    endure(gate, images, count)


if __name__ == "__main__":
    main()

"""Load on a server: latency beside the bare network in the same engine, memory, a kill.

python -m bench.serve [--seconds 7] [--repeats 2] [--endure 80] [--network NAME] [--result FILE]
"""

import argparse
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
from PIL import Image

from bench.common import RandomImages
from bench.gate import new_gate, write_gate
from bench.server import Load, Memory, Server, load, server
from src.run.pretrained import load_network

RESULT = Path(__file__).parents[1] / "docs/results/serve.json"
IMAGES = 500  # random ones, which also calibrate: p-values are as those of ID images
CLIENTS = (1, 4, 16)
BATCH = 32
ENGINES = {
    "bare network": ("bare", BATCH),
    "gate, batch=1": ("gate", 1),
    f"gate, batch={BATCH}": ("gate", BATCH),
}
BROKEN = 100  # one image in so many is broken
PARTS = 4  # of the load under which the memory is watched
LONGEST = 590  # seconds, after which it ends as it does after SIGTERM


def write_images(source: str, path: Path) -> list[bytes]:
    """Writes a gate of a released network; returns PNG files of its calibration images."""
    network, pixels = load_network(source), RandomImages(IMAGES).load().image
    with torch.no_grad():
        norms = [
            network.observe(part.float() / 255).norm[network.block("selected")]
            for part in pixels.split(50)
        ]
    write_gate(new_gate(network, torch.cat(norms)), source, path)
    files = []
    for each in pixels:
        Image.fromarray(each.movedim(0, 2).numpy()).save(file := BytesIO(), "PNG")
        files.append(file.getvalue())
    return files


def compare(gate: Path, images: Sequence[bytes], seconds: float, repeats: int) -> dict[str, Any]:
    """Returns requests per second and latency of each engine, in turns, and the peak memory."""
    cells: dict[tuple[int, str], list[Load]] = {}
    peaks: dict[str, list[Memory]] = {name: [] for name in ENGINES}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(server(kind, gate, batch))
            for name, (kind, batch) in ENGINES.items()
        }
        for each in servers.values():
            load(each.port, images, 4, most=20)
        for clients in CLIENTS:
            for name, each in list(servers.items()) * repeats:
                with each.peak() as seen:
                    found = load(each.port, images, clients, seconds=seconds)
                assert set(found.status) == {200}, Counter(found.status)
                cells.setdefault((clients, name), []).append(found)
                peaks[name] += seen
                print(f"{clients:2} clients, {name}: {len(found.status)} requests", flush=True)
    rows = [
        {"clients": clients, "engine": name} | summary(loads)
        for (clients, name), loads in cells.items()
    ]
    return {"rows": rows, "peak": {name: largest(seen) for name, seen in peaks.items()}}


def summary(loads: Sequence[Load]) -> dict[str, Any]:
    """Returns requests per second, of each repeat, and latencies over all of them."""
    taken = np.concatenate([each.seconds for each in loads])
    return {
        "requests": len(taken),
        "requests_per_second": [len(each.seconds) / each.elapsed for each in loads],
        **{f"p{q}_ms": 1000 * float(np.quantile(taken, q / 100)) for q in (50, 95, 99)},
    }


def largest(seen: Sequence[Memory]) -> dict[str, float]:
    """Returns the largest memory that was seen, of each kind."""
    return {kind: max(getattr(each, kind) for each in seen) for kind in vars(seen[0])}


def endure(gate: Path, images: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """Returns what is answered if one image in a hundred is broken, and memory on the way."""
    rows = [image[: 40 if k % BROKEN == 0 else None] for k, image in enumerate(images)]
    total: Counter[int] = Counter()
    broken, memory, peak = 0, [], []
    with server("gate", gate, BATCH) as running:
        load(running.port, images, 8, most=100)
        for part in range(PARTS + 1):
            memory.append({"requests": sum(total.values()), **vars(running.memory())})
            print(f"after {memory[-1]['requests']} requests: {memory[-1]}", flush=True)
            if part == PARTS:
                break
            with running.peak() as seen:
                found = load(running.port, rows, 8, seconds=seconds / PARTS)
            peak += seen
            total += Counter(found.status)
            broken += len(range(0, len(found.status), BROKEN))
    expected = Counter({200: sum(total.values()) - broken, 422: broken})
    assert total == expected, f"expected {expected}, got {total}"
    return {"answered": dict(total), "memory": memory, "peak": largest(peak)}


def watched(running: Server) -> int:
    """Returns the number of images that the watch has counted."""
    text = urlopen(f"http://127.0.0.1:{running.port}/metrics").read().decode()
    (found,) = re.findall(r"^gate_watch_images (\S+)$", text, re.MULTILINE)
    return int(float(found))


def kill(gate: Path, images: Sequence[bytes], state: Path, seconds: float) -> dict[str, Any]:
    """Returns what of the watch is lost if the server is killed under load, and then goes on.

    Only the first process is killed, as `kill -9` does; the others must end by themselves.
    """
    with ThreadPoolExecutor(1) as pool, server("gate", gate, BATCH, state) as running:
        waiting = pool.submit(load, running.port, images, 4, seconds=10 * seconds, may_fail=True)
        time.sleep(seconds)
        killed = time.monotonic()
        os.kill(running.leader, signal.SIGKILL)
        found = waiting.result()
        while len(running.processes()) and time.monotonic() - killed < 10:
            time.sleep(0.01)
        left, ended = len(running.processes()), time.monotonic() - killed
    answered = sum(status == 200 for status in found.status)
    kept = json.loads(state.read_text())["watch"]["position"]
    times = [end for end, status in zip(found.ended, found.status, strict=True) if status == 200]
    lost = max(0, answered - kept)
    with server("gate", gate, BATCH, state) as running:
        again = load(running.port, images, 4, most=100)
        whole = watched(running) == kept + 100 and set(again.status) == {200}
    at_end = json.loads(state.read_text())["watch"]["position"]
    return {
        "answered_before": answered,
        "unanswered": found.status.count(0),
        "counted_before": kept,
        "lost": lost,
        "lost_seconds": max(0.0, killed - times[-lost]) if lost else 0.0,
        "processes_left": left,
        "seconds_to_end": ended,
        "answered_after": len(again.status),
        "goes_on": whole and at_end == kept + 100,
    }


def end(number: int, frame: FrameType | None) -> None:
    """Ends this program so that its servers are ended, too."""
    raise SystemExit(f"ended by {signal.Signals(number).name}")


def main() -> None:
    """Reads the command line, measures, and writes each part as soon as it is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=7, help="of each load")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--endure", type=float, default=80, help="seconds of the longest load")
    parser.add_argument("--network", default="vgg11_cifar10_short")
    parser.add_argument("--result", type=Path, default=RESULT)
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, end)
    signal.alarm(LONGEST)
    content: dict[str, Any] = {"network": asked.network, "detector": "featurenorm"}
    with TemporaryDirectory() as folder:
        gate = Path(folder, "gate.pt")
        images = write_images(asked.network, gate)
        state = Path(folder, "watch.json")
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "kill": lambda: kill(gate, images, state, asked.seconds),
            "load": lambda: compare(gate, images, asked.seconds, asked.repeats),
            "endurance": lambda: endure(gate, images, asked.endure),
        }
        for name, measure in parts.items():
            content[name] = measure()
            asked.result.write_text(json.dumps(content, indent=1) + "\n")
            print(name, json.dumps(content[name]), flush=True)


if __name__ == "__main__":
    main()

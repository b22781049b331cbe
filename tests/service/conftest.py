"""A gate of digits, and a server of it: started as a user would, and stopped with SIGTERM."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from torch import Tensor

from src.data.digits import Digits, Photographs
from tests import REPOSITORY
from tests.conftest import Process

pytest.importorskip("litserve", reason="pip install 'block-selection[serve]'")
STARTS = 300  # seconds that a busy machine may need to start


class Running:
    """A server that runs.

    Attributes:
        url: Its address.
        process: The process that a user would stop.
    """

    def __init__(self, port: int, process: "subprocess.Popen[str]") -> None:
        self.url, self.process = f"http://127.0.0.1:{port}", process

    def post(self, path: str = "/predict", **options: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=STARTS, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=STARTS, **options)

    def is_ready(self) -> bool:
        try:
            return self.get("/health").status_code == 200
        except requests.ConnectionError:
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    gate: Path, environment: dict[str, str], *arguments: str, code: int = 0
) -> Iterator[Running]:
    """`python -m src.serve gate=FILE argument...` until the block ends, then with this code."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "src.serve", f"gate={gate}", f"port={port}", *arguments],
        cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        server = Running(port, process)
        until = time.monotonic() + STARTS
        try:
            while not server.is_ready():
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < until, "the server does not start"
                time.sleep(0.2)
            yield server
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=STARTS)
        assert process.returncode == code, said
        assert "Traceback" not in said, said


@pytest.fixture(scope="session")
def gate_file(
    finished_run: Path, process: Process, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A gate of the digits 0 to 6, made from the session's run."""
    folder = tmp_path_factory.mktemp("gate")
    done = process(
        "src.deploy", f"checkpoint={finished_run}/checkpoints/last.ckpt", "detector=featurenorm",
        f"hydra.run.dir={folder}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "gate.pt"


@pytest.fixture(scope="module")
def server(gate_file: Path, user: dict[str, str]) -> Iterator[Running]:
    """A server of the gate of digits, without a token, with small limits."""
    with running(gate_file, user, "limits.max_bytes=2000000", "limits.max_images=9") as server:
        yield server


def png(image: Tensor) -> bytes:
    """The PNG file of a (1, H, W) uint8 image."""
    Image.fromarray(image[0].numpy()).save(file := BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def digit() -> bytes:
    """A digit of a class that the gate knows."""
    return png(Digits([0, 1, 2, 3, 4, 5, 6], "test").load().image[0])


@pytest.fixture(scope="session")
def digits() -> list[bytes]:
    return [png(each) for each in Digits([0, 1, 2, 3, 4, 5, 6], "test").load().image[:60]]


@pytest.fixture(scope="session")
def photograph() -> bytes:
    """A coloured photograph in JPEG."""
    image = Photographs(1, 96).load().image[0, 0].numpy()
    Image.fromarray(np.stack([image, image, 255 - image], axis=2)).save(
        file := BytesIO(), "JPEG", quality=90
    )
    return file.getvalue()

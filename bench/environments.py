"""Environments of the libraries that `bench.peers` compares: one for each, outside the repository.

An environment sees the packages of the running one through a .pth file, so that torch is not
installed again. What a library needs in another version lies in its own folder, which comes first.
"""

import json
import os
import subprocess
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
# what the documentation says to install, then what else it takes until the import succeeds
WAYS: dict[str, tuple[str, list[Sequence[str]]]] = {
    "ours": ("src.benchmark", [["--no-deps", "--ignore-installed", str(ROOT)]]),
    "pytorch-ood": (
        "pytorch_ood.detector", [["--no-deps", "--ignore-installed", "pytorch-ood==0.4.0"]],
    ),
    "oodeel": (
        "oodeel.methods, oodeel.eval.metrics, pyarrow",
        [["oodeel==0.4.0"], ["faiss-cpu"], ["pyarrow==19.0.1"]],
    ),
    "torch-uncertainty": (
        "torch_uncertainty.routines",
        [["torch-uncertainty==0.13.0"], ["torch-uncertainty[cpu]==0.13.0"]],
    ),
    "detectors": ("detectors", [["detectors==0.1.11"], ["timm==0.9.16"], ["timm==0.8.23.dev0"]]),
}  # fmt: skip


def environment(name: str, folder: Path) -> dict[str, Any]:
    """Returns the facts of an environment, which is made at the first call.

    Args:
        name: One of `WAYS`.
        folder: Folder of all environments.

    Returns:
        python: Path of its interpreter.
        attempts: What was installed, the seconds, and the error of the import or None.
        versions: Version of each distribution that lies in the environment itself.
    """
    facts = folder / f"{name}.json"
    if facts.exists():
        read: dict[str, Any] = json.loads(facts.read_text())
        return read
    place = folder / name
    venv.create(place, clear=True, with_pip=True)
    own = next(place.glob("lib/python*/site-packages"))
    (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python, attempts = str(place / "bin/python"), []
    module, ways = WAYS[name]
    for way in ways:
        attempts.append(attempt(python, way, module))
        if attempts[-1]["error"] is None:
            break
    versions = dict(
        path.name.removesuffix(".dist-info").split("-", 1) for path in own.glob("*.dist-info")
    )
    made = {"python": python, "attempts": attempts, "versions": versions}
    facts.write_text(json.dumps(made, indent=1))
    return made


def attempt(python: str, requirements: Sequence[str], module: str) -> dict[str, Any]:
    """Installs requirements, imports a module, and returns seconds and error."""
    start = perf_counter()
    installed = called([python, "-m", "pip", "install", "--quiet", *requirements])
    seconds = perf_counter() - start
    error = installed or called([python, "-c", f"import {module}"])
    named = ["." if each == str(ROOT) else each for each in requirements]
    return {
        "requirements": [each for each in named if not each.startswith("--")],
        "seconds": seconds,
        "error": error,
    }


def called(command: Sequence[str]) -> str | None:
    """Runs a command outside the repository; returns the last line of its error, if it fails."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path.home(), env=variables, timeout=600
    )
    return done.stderr.strip().splitlines()[-1][:200] if done.returncode else None

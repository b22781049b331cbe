"""The command line: taken literally where Hydra cannot read it, and written to be repeated."""

__all__ = ["literally", "repeated"]

import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from src.records.configs import CONF
from src.records.literal import literal_word, shell_word


def literally(main: Callable[[], Any]) -> Callable[[], Any]:
    """Returns a Hydra command that takes literally what Hydra has no reading for.

    See `literal_word`.
    """

    @wraps(main)
    def run() -> Any:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        parse = OverridesParser.create().parse_override
        sys.argv[1:] = [literal_word(_present(word), parse) for word in sys.argv[1:]]
        return main()

    return run


def _present(word: str) -> str:
    """Returns an override with the present name of a detector at each block."""
    return re.sub(r"^([+~]*detectors\.\w+)@each_block\b", r"\1_each_block", word)


def repeated() -> str:
    """Returns the command that repeats this run, in another directory; "" outside of Hydra."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return ""
    job = HydraConfig.get()
    start = ["python"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        start = ["torchrun", f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}"]
    name = job.job.name
    flags = []
    for source in job.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
        if source.provider == "main" and Path(source.path) != CONF:
            flags += ["--config-path", source.path]
    if job.job.config_name != name:
        flags += ["--config-name", str(job.job.config_name)]
    composed = [each for each in job.overrides.hydra if each.startswith("hydra.searchpath=")]
    if any(each.startswith("sweep=") for each in job.overrides.task):
        composed.append("hydra.mode=RUN")  # of the sweep, only this run
    words = [*start, "-m", f"src.{name}", *flags, *composed, *job.overrides.task]
    return " ".join(map(shell_word, words))

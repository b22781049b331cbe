"""Where a configuration of a file reads and writes: in the run, in `data_dir`, or where named."""

__all__ = ["check_places"]

import logging
import os
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.run.targets import found, nodes

log = logging.getLogger(__name__)

FOLDERS = {"save_dir", "dir"}  # arguments of loggers that are not annotated as paths
CACHE = ".cache"  # of decoded images, unless the command names another


def check_places(cfg: DictConfig, own: DictConfig, source: object, *, trust: bool) -> None:
    """Refuses a configuration from a file that leads elsewhere than the command does.

    What the command itself has under the same key, by its defaults or on its line, is its own. A
    cache, which is written, may lie in `data_dir` only if the command itself names that.

    Args:
        cfg: Configuration from a file, completed by the command.
        own: Configuration composed for this command.
        source: The file, for messages.
        trust: Whether the user trusts the file; what leads elsewhere is then logged.

    Raises:
        ValueError: If a path is outside of the run directory and of `data_dir`.
    """
    written = [_absolute(folder) for folder in (cfg.run_dir, CACHE, own.get("data_dir") or CACHE)]
    read = [*written, _absolute(cfg.data_dir)]
    plain = OmegaConf.to_container(cfg, resolve=True)
    outside = {
        key: place
        for key, place in _places(plain)
        if OmegaConf.select(own, key, throw_on_missing=False) != place
        and not any(
            _inside(_absolute(place), folder)
            for folder in (written if key.endswith(".cache_dir") else read)
        )
    }
    if outside and not trust:
        key, place = next(iter(outside.items()))
        raise ValueError(
            f"expected paths within the run directory and data_dir={cfg.data_dir}, got "
            f"{key}={place} from {source}; name it on the command line if it is right, or set "
            "trust=true"
        )
    if outside:
        log.warning("trusted in %s: %s", source, outside)


def _places(config: Any) -> Iterator[tuple[str, str]]:
    """Yields key and value of what is read from or written to a place on this machine."""
    for path, node in nodes(config):
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            continue
        declared = _declared(node["_target_"])
        placed = enumerate(node.get("_args_", ()))
        given = {
            f"_args_.{n}": (key, value) for key, (n, value) in zip(declared, placed, strict=False)
        }
        given |= {key: (key, value) for key, value in node.items()}
        for where, (key, value) in given.items():
            is_place = "Path" in declared.get(key, "") or key in FOLDERS or _leads_away(value)
            is_name = key == "weights" and "_Weights." in str(value) and os.sep not in value
            if isinstance(value, str) and is_place and not is_name:
                yield f"{path}.{where}", value


def _leads_away(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith(("/", "~")) or ".." in Path(value).parts)


def _declared(target: str) -> dict[str, str]:
    """Returns the annotation of each argument by its name."""
    try:
        it = found(target)
    except ModuleNotFoundError:
        return {}
    return {} if it is None else {
        name: str(each.annotation) for name, each in signature(it).parameters.items()
    }  # fmt: skip


def _absolute(place: str) -> str:
    """Returns the whole path; links on the way are the user's own."""
    return os.path.normpath(Path(place).absolute())


def _inside(place: str, folder: str) -> bool:
    return os.path.commonpath([place, folder]) == folder

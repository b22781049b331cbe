"""What a configuration names to be called: is it there, and may a file name it?"""

__all__ = ["admitted", "check_installed", "found", "nodes"]

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from inspect import isfunction
from typing import Any

from src.records.schema import plain

log = logging.getLogger(__name__)

# package -> extra that installs it; a logger declares its own
EXTRAS = {"timm": "timm", "datasets": "hf", "pytorch_ood": "pytorch-ood"}

# constructors beside those of the rooms below: they do nothing but construct
SINGLE = {
    "datetime.timedelta", "lightning.Trainer", "lightning.pytorch.callbacks.EarlyStopping",
    "timm.create_model",
}  # fmt: skip
OPTIONS = {  # of what calls a library, by where it is defined: others read files or run code
    "timm.create_model": {
        "_target_", "model_name", "pretrained", "num_classes", "in_chans", "img_size",
    },
    "src.data.libraries.Torchvision": {
        "_target_", "dataset", "root", "size", "num_classes", "download", "known", "train",
        "split", "partition", "short_side", "count", "sample", "seed", "on_corrupt",
    },
    "src.data.libraries.HuggingFace": {
        "_target_", "path", "name", "revision", "split", "image", "label", "size", "short_side",
        "count", "sample", "seed", "on_corrupt",
    },
}  # fmt: skip
# where a class may be defined, and whether a function of that place may be called too
ROOMS = {
    "src.block_selection": False,
    "src.callbacks": False,
    "src.data": False,
    "src.detectors": False,
    "src.loggers": True,
    "src.models": True,
    "src.network": False,
    "src.objectives": False,
    "torchvision.models": True,
}
FAMILIES = {  # whose classes derive from one
    "lightning.pytorch.strategies": "lightning.pytorch.strategies.Strategy",
    "torch.nn": "torch.nn.Module",
    "torch.optim": "torch.optim.Optimizer",
    "torch.optim.lr_scheduler": "torch.optim.lr_scheduler.LRScheduler",
}
REFERENCE = re.compile(r"\$\{[\w.@\-]+\}")  # to another key; anything else calls a resolver
SETTINGS = {"_partial_": bool, "_recursive_": bool, "_convert_": str, "_args_": list}


def packages_of(target: str) -> dict[str, str | None]:
    """Returns the packages that a target imports, each with the extra that installs it."""
    first = target.partition(".")[0]
    place, _, name = target.rpartition(".")
    logger = getattr(import_module(place), name, None) if place == "src.loggers" else None
    return {first: EXTRAS.get(first)} | getattr(logger, "packages", {})


def nodes(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each node of a plain configuration with its path, outer ones first."""
    yield path, config
    pairs = enumerate(config) if isinstance(config, list) else ()
    for key, value in config.items() if isinstance(config, dict) else pairs:
        yield from nodes(value, f"{path}.{key}".lstrip("."))


def check_installed(config: Any) -> None:
    """Refuses a configuration of plain containers that names a package which is not there.

    Raises:
        ModuleNotFoundError: If a `_target_` is in a package that is not installed.
    """
    for path, node in nodes(config):
        if not isinstance(node, dict) or "_target_" not in node:
            continue
        for package, extra in packages_of(str(node["_target_"])).items():
            if find_spec(package) is None:
                how = f"pip install -e .[{extra}]" if extra else "correct it"
                raise ModuleNotFoundError(
                    f"expected an installed package in {path}._target_, got {node['_target_']}, "
                    f"but there is no {package}; {how}"
                )


def admitted(
    config: Mapping[str, Any],
    source: object,
    *,
    replaced: Collection[str] = (),
    known: Collection[str] = (),
    trust: bool = False,
) -> dict[str, Any]:
    """Returns a configuration that was read from a file, if it builds nothing foreign.

    It may hold plain values, references to its own keys, and as a `_target_` a class of this
    project, a network of this project or torchvision, a layer, optimizer or schedule of torch,
    Lightning's trainer or one of its strategies. A name is looked up in its module and there must
    be the very object that was defined under it, so that no name leads through a module to
    another one. A resolver could read the environment or build what is checked, so none may run.

    Args:
        config: Containers as they were read.
        source: The file, for messages.
        replaced: Top-level keys that the command replaces; they are left out, not trusted.
        known: Further targets that it may name, since the command names them too.
        trust: Whether the user trusts the file; what is foreign is then logged.

    Returns:
        Lists, dictionaries and plain values.

    Raises:
        ValueError: If it builds something foreign, or holds anything but plain values.
    """
    try:
        kept: dict[str, Any] = plain({k: v for k, v in config.items() if k not in replaced})
    except ValueError as error:
        raise ValueError(f"expected {error}, in {source}; fetch it again") from None
    foreign = list(_foreign(kept, known))
    if foreign and not trust:
        raise ValueError(
            "expected a checkpoint or run that builds what this project trains, got "
            f"{foreign[0]} in {source}; if you trust the file, set trust=true on the command line"
        )
    if foreign:
        log.warning("trusted in %s: %s", source, "; ".join(foreign))
    return kept


def _foreign(config: dict[str, Any], known: Collection[str]) -> Iterator[str]:
    """Yields what a plain configuration would build or resolve that is none of ours."""
    for path, node in nodes(config):
        if isinstance(node, str) and "${" in REFERENCE.sub("", node):
            yield f"{path}: {node}"
        if not isinstance(node, dict):
            continue
        for key in SETTINGS.keys() & node.keys():
            if not isinstance(node[key], SETTINGS[key]):
                yield f"{path}.{key}: {node[key]}"
        target = node.get("_target_", "datetime.timedelta")
        if isinstance(target, str) and target in known:
            continue
        defined = _defined(target, path)
        if defined is None:
            yield f"{path}._target_: {target}"
        elif more := node.keys() - OPTIONS.get(defined, node.keys()):
            yield f"{path}.{min(more)}: an option that a file may not set"
        elif defined == "timm.create_model" and ":" in str(node.get("model_name")):
            yield f"{path}.model_name: {node['model_name']}"  # of a hub or a folder


def _defined(target: Any, path: str) -> str | None:
    """Returns the name under which something was defined that a file may build there, or None."""
    if not isinstance(target, str):
        return None
    if target.startswith("src.loggers.") and not path.startswith("logger."):
        return None  # a logger writes where it is told to
    if target in SINGLE:
        return target
    try:
        it = found(target)
    except ModuleNotFoundError as error:  # of an extra: its name is told by check_installed
        is_ours = str(error.name or target).startswith(("src.", "torchvision."))
        return None if is_ours else target
    return None if it is None else f"{it.__module__}.{it.__name__}"


def found(target: str) -> Any:
    """Returns the object of this name that a file may build, or None.

    Raises:
        ModuleNotFoundError: If its module needs one that is not installed.
    """
    place, _, name = target.rpartition(".")
    if not all(word.isidentifier() and not word.startswith("_") for word in target.split(".")):
        return None
    if place in FAMILIES:
        parent_place, _, parent = FAMILIES[place].rpartition(".")
        family = getattr(import_module(parent_place), parent)
        it = getattr(import_module(place), name, None)
        return it if isinstance(it, type) and issubclass(it, family) else None
    room = next((each for each in ROOMS if f"{place}.".startswith(f"{each}.")), None)
    it = getattr(import_module(place), name, None) if room else None
    if not isinstance(it, type) and not (room and ROOMS[room] and isfunction(it)):
        return None
    home = str(it.__module__)
    ours = f"{home}.".startswith(f"{room}.") and "._" not in home and it.__name__ == name
    return it if ours else None

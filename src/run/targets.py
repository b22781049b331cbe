"""What a configuration names to be called: is it there, and may a file name it?"""

__all__ = ["admitted", "check_installed", "targets_of"]

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from inspect import isfunction
from typing import Any

import src.loggers as loggers

log = logging.getLogger(__name__)

# package -> extra that installs it; a logger declares its own
EXTRAS = {"timm": "timm", "datasets": "hf", "pytorch_ood": "pytorch-ood"}

# constructors beside those of the rooms below: they do nothing but construct
SINGLE = {"datetime.timedelta", "lightning.Trainer", "timm.create_model"}
OF_TIMM = {"_target_", "model_name", "pretrained", "num_classes", "in_chans", "img_size"}
# where a class may be defined, and whether a function of that place may be called too
ROOMS = {
    "src.block_selection": False,
    "src.data": False,
    "src.detectors": False,
    "src.loggers": True,
    "src.models": True,
    "src.network": False,
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
DEEPEST = 40


def packages_of(target: str) -> dict[str, str | None]:
    """Returns the packages that a target imports, each with the extra that installs it."""
    first = target.partition(".")[0]
    logger = getattr(loggers, target.removeprefix("src.loggers."), None)
    return {first: EXTRAS.get(first)} | getattr(logger, "packages", {})


def check_installed(config: Any, path: str = "") -> None:
    """Refuses a configuration that names a package which is not there.

    Args:
        config: Plain containers.
        path: Of the configuration, with a dot behind it.

    Raises:
        ModuleNotFoundError: If a `_target_` is in a package that is not installed.
    """
    if isinstance(config, list):
        config = dict(enumerate(config))
    if isinstance(config, dict):
        target = str(config.get("_target_", "src."))
        for package, extra in packages_of(target).items():
            if find_spec(package) is None:
                how = f"pip install -e .[{extra}]" if extra else "correct it"
                raise ModuleNotFoundError(
                    f"expected an installed package in {path}_target_, got {target}, but there is "
                    f"no {package}; {how}"
                )
        for key, value in config.items():
            check_installed(value, f"{path}{key}.")


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
    plain: dict[str, Any] = _plain({k: v for k, v in config.items() if k not in replaced}, "")
    foreign = list(_foreign(plain, known, ""))
    if foreign and not trust:
        raise ValueError(
            "expected a checkpoint or run that builds what this project trains, got "
            f"{foreign[0]} in {source}; if you trust the file, set trust=true on the command line"
        )
    if foreign:
        log.warning("trusted in %s: %s", source, "; ".join(foreign))
    return plain


def _plain(node: Any, path: str) -> Any:
    """Returns a node with lists for tuples, checked to hold nothing but plain values."""
    if path.count(".") > DEEPEST:
        raise ValueError(
            f"expected a configuration of at most {DEEPEST} levels, got {path[:80]}..."
        )
    if isinstance(node, Mapping):
        return {key: _plain(value, f"{path}{key}.") for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value, f"{path}{place}.") for place, value in enumerate(node)]
    if node is None or type(node) in (bool, int, float, str):
        return node
    raise ValueError(f"expected plain values in a configuration, got {type(node)} at {path[:-1]}")


def _foreign(node: Any, known: Collection[str], path: str) -> Iterator[str]:
    """Yields what a plain configuration would build or resolve that is none of ours."""
    if isinstance(node, str) and "${" in REFERENCE.sub("", node):
        yield f"{path[:-1]}: {node}"
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        target = node.get("_target_", "datetime.timedelta")
        if not (isinstance(target, str) and target in known) and not _is_ours(target, path):
            yield f"{path}_target_: {target}"
        if target == "timm.create_model" and (more := node.keys() - OF_TIMM):
            yield f"{path}{min(more)}: an option of timm that can read a file"
        for key, value in node.items():
            if key in SETTINGS and not isinstance(value, SETTINGS[key]):
                yield f"{path}{key}: {value}"
            yield from _foreign(value, known, f"{path}{key}.")


def _is_ours(target: Any, path: str) -> bool:
    """Whether a name is that of an object which a file may build."""
    if not isinstance(target, str):
        return False
    if target in SINGLE:
        return True
    place, _, name = target.rpartition(".")
    words = target.split(".")
    if not all(word.isidentifier() and not word.startswith("_") for word in words):
        return False
    if target.startswith("src.loggers.") and not path.startswith("logger."):
        return False  # a logger writes where it is told to
    room = next((each for each in ROOMS if f"{place}.".startswith(f"{each}.")), None)
    if room is None and place not in FAMILIES:
        return False
    try:
        module = import_module(place)
        found = getattr(module, name, None)
    except ModuleNotFoundError as error:  # of an extra: its name is told by check_installed
        return not str(error.name or place).startswith(("src.", "torchvision."))
    if room is None:
        family = import_module(FAMILIES[place].rpartition(".")[0])
        parent = getattr(family, FAMILIES[place].rpartition(".")[2])
        return isinstance(found, type) and issubclass(found, parent)
    if not isinstance(found, type) and not (ROOMS[room] and isfunction(found)):
        return False
    home = str(found.__module__)
    return f"{home}.".startswith(f"{room}.") and "._" not in home and found.__name__ == name


def targets_of(node: Any) -> Iterator[str]:
    """Yields every `_target_` of a plain configuration."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets_of(value)

"""Configurations of earlier versions, brought up to date in one place."""

__all__ = ["upgraded"]

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

# until format 1, an option chose between two detectors of one class
CHOSEN_BY = {
    "src.detectors.SelectedNorm": ("match_length", "src.detectors.MatchedNorm"),
    "src.detectors.NormProduct": ("standardize", "src.detectors.StandardizedNormProduct"),
}
MOVED = {
    "src.profile_curves.ProfileCurves": "src.callbacks.ProfileCurves",
    "src.weight_averaging.EMA": "src.callbacks.EMA",
}


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a checkpoint or run as this version would have written it.

    Args:
        config: Plain containers, of this or any earlier version; not changed.
    """
    new: dict[str, Any] = deepcopy(dict(config))
    optim = new.get("optim") or {}
    for key in ("channels_last", "compiled"):  # until format 1 keys of `optim`
        new.setdefault(key, optim.pop(key, False))
    selection = new["selection"] = new.get("selection") or None  # none was {} until format 1
    if selection and "history" in selection:  # until format 1 the path of the file
        selection["history"] = bool(selection["history"])
    detectors = _renamed(new.get("detectors"))
    if isinstance(detectors, dict):  # until format 1 a name that no command line can hold
        detectors = {_key(name): node for name, node in detectors.items()}
    new["detectors"] = detectors
    if "optim" in new:  # earlier trainings knew no other
        new.setdefault("objective", {"_target_": "src.objectives.CrossEntropy"})
    trainer = new.setdefault("trainer", {})
    trainer.setdefault("enable_progress_bar", True)
    if "callbacks" in trainer:  # of a run that is resumed
        trainer["callbacks"] = _renamed(trainer["callbacks"])
    return new


def _key(name: Any) -> Any:
    """Returns the present name of a detector at each block."""
    return re.sub("@each_block$", "_each_block", name) if isinstance(name, str) else name


def _renamed(node: Any) -> Any:
    """Returns a configuration, at any depth, with the present classes."""
    if isinstance(node, list | tuple):
        return [_renamed(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    new = {key: _renamed(value) for key, value in node.items()}
    target = str(new.get("_target_"))
    option, other = CHOSEN_BY.get(target, ("", ""))
    if new.pop(option, False):
        new["_target_"] = other
    if target in MOVED:
        new["_target_"] = MOVED[target]
    return new

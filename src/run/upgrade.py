"""Configurations of earlier versions, brought up to date in one place."""

__all__ = ["upgraded"]

from collections.abc import Mapping
from copy import deepcopy
from typing import Any


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a checkpoint or run as this version would have written it.

    Args:
        config: Plain containers, of this or any earlier version; not changed.
    """
    new: dict[str, Any] = deepcopy(dict(config))
    optim = new.get("optim") or {}
    for key in ("channels_last", "compiled"):  # until format 1 keys of `optim`
        new.setdefault(key, optim.pop(key, False))
    selection = new.setdefault("selection", None) or {}
    if "history" in selection:  # until format 1 the path of the file
        selection["history"] = bool(selection["history"])
    new.setdefault("trainer", {}).setdefault("enable_progress_bar", True)
    return new

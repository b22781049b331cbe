"""Weights that were trained elsewhere: read safely, unwrapped, and compared before they load."""

__all__ = ["load_weights"]

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema")
SHOWN = 3  # differences of each kind in an error message


def load_weights(net: nn.Module, weights: str | Path) -> None:
    """Loads weights into a network; it is left as it was when they do not fit.

    A file may hold a state dict or a dict around one (`{'state_dict': ...}`, as the authors' code,
    timm and Lightning write it), and its keys may begin with what a wrapper added (`module.`,
    `_orig_mod.`, `network.net.`). It is read with `weights_only=True`: no code in it runs.

    Args:
        net: the network.
        weights: path of a file, or a name in torchvision such as
            "ResNet50_Weights.IMAGENET1K_V1", which is downloaded unless torch.hub has it.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a name, or no network.
        ValueError: if the file holds no state dict, or keys or shapes differ.
    """
    state: Mapping[str, Tensor]
    if Path(weights).is_file():
        state = _unwrapped(_read(Path(weights)), net)
    else:
        state = _of_torchvision(str(weights))
    own = net.state_dict()
    differences = {
        "missing": [
            key for key in own if key not in state and not key.endswith("num_batches_tracked")
        ],  # which old files lack
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    if any(differences.values()):
        told = "; ".join(
            f"{len(keys)} {kind}: {', '.join(keys[:SHOWN])}{', ...' if keys[SHOWN:] else ''}"
            for kind, keys in differences.items()
            if keys
        )
        raise ValueError(
            f"expected the {len(own)} entries of {type(net).__name__}, got {weights}, of which "
            f"{told}. {_cause(own, state)}"
        )
    net.load_state_dict(own | dict(state))


def _read(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([Namespace]):  # timm keeps the command line
            return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError, ValueError):
        reason = "cut short, no checkpoint, or a pickled object"
    raise ValueError(  # not in the handler: torch advises there to trust the file
        f"expected a file of weights alone, got {path}, which is {reason}; "
        "save net.state_dict() where the network can be loaded"
    )


def _of_torchvision(name: str) -> Mapping[str, Tensor]:
    from torchvision.models import get_weight  # everything else works without torchvision

    try:
        weights = get_weight(name)
    except (ValueError, KeyError, AttributeError):
        raise FileNotFoundError(
            f"expected a file of weights or a name in torchvision, got {name!r}, which is "
            "neither; names look like ResNet50_Weights.IMAGENET1K_V1"
        ) from None
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            check_hash=True, map_location="cpu", weights_only=True
        )
    except OSError as error:
        raise FileNotFoundError(
            f"expected the weights {name}, got no answer from {weights.url} ({error}); put the "
            f"file into {torch.hub.get_dir()}/checkpoints"
        ) from error
    return state


def _unwrapped(content: Any, net: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict in what was read, under the names that `net` gives its parts."""
    for _ in range(2):  # Lightning within a dict of one's own, at most
        inner = (content.get(key) for key in WRAPPERS) if isinstance(content, Mapping) else ()
        content = next((value for value in inner if isinstance(value, Mapping)), content)
    if not isinstance(content, Mapping) or not any(
        isinstance(v, Tensor) for v in content.values()
    ):
        raise ValueError(
            f"expected a state dict or a dict around one, got {_described(content)}; "
            "save net.state_dict()"
        )
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    ours = {key: value for key, value in state.items() if key.startswith("network.net.")}
    state = ours or state  # src.train: beside them lie the normalisation and the selection
    parts = {name.split(".")[0] for name in net.state_dict()}
    while len(first := {key.partition(".")[0] for key in state}) == 1 and not first <= parts:
        if any("." not in key for key in state):
            break
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict of {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    return f"a {type(content).__name__}"


def _cause(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Returns the likely reason of a difference, and what to do about it."""
    common = [key for key in own if key in state]
    other = [key for key in common if own[key].shape != state[key].shape]
    normed = [any(key.endswith("running_mean") for key in part) for part in (own, state)]
    shortened = [any("shortcut.0." in key for key in part) for part in (own, state)]
    if not common:
        return "Nothing is in common: choose the architecture that was trained."
    if shortened[0] and any("downsample.0." in key for key in state):
        return "They are of a ResNet of torchvision or timm: choose that one."
    if shortened[1] and any("downsample.0." in key for key in own):
        return "They are of a ResNet for small images: choose one of src.models."
    if normed[0] != normed[1]:
        return f"They are of a network {'with' if normed[1] else 'without'} batch norm: choose it."
    if len(common) == len(own) == len(state) and set(other) <= set(common[-2:]):
        return f"Only the head differs: set net.net.num_classes={len(state[other[0]])}."
    if other and own[other[0]].shape[2:] != state[other[0]].shape[2:]:
        return "The kernels differ, as between networks for small images and for ImageNet."
    return "They are of a deeper, shallower, wider or narrower network: choose that one."

"""Weights trained elsewhere: read without running code, unwrapped, loaded whole or not at all."""

__all__ = ["check_finite", "digest", "load_weights"]

import hashlib
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from copy import deepcopy
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present as drop_prefix

from src.network.safetensors import is_safetensors, read_safetensors

State = dict[str, Any]
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # in torchvision's files
SHOWN = 3  # differences of each kind in an error message


def load_weights(net: nn.Module, weights: str | Path) -> None:
    """Loads weights into a network, which stays unchanged if they do not fit.

    A file may hold a state dict or a dict around one (`{'state_dict': ...}`, as the authors' code,
    timm and Lightning write it), or be one of safetensors. Prefixes that a wrapper added to the
    keys (`module.`, `_orig_mod.`, `network.net.`) are removed. The file is read with
    `weights_only=True`, so that no code in it runs.

    Args:
        net: Network that receives the weights.
        weights: Path of a file, or a name in torchvision such as
            "ResNet50_Weights.IMAGENET1K_V1", which is downloaded unless torch.hub has it.

    Raises:
        FileNotFoundError: If there is neither such a file nor such a name, or the download fails.
        ValueError: If the file holds no state dict, weights are not finite, or keys or shapes
            differ.
    """
    path = Path(weights)
    state = _unwrapped(_read(path if path.is_file() else _of_torchvision(str(weights))), net)
    own = deepcopy(net.state_dict())
    counter = "num_batches_tracked"  # missing from old files
    for key in own:
        if key.endswith(counter) and key.replace(counter, "running_mean") in state:
            state.setdefault(key, own[key])
    try:
        net.load_state_dict(state)  # also renames keys of old module versions
    except Exception as error:
        net.load_state_dict(own)  # torch has loaded what fits
        raise ValueError(
            f"expected the {len(own)} entries of {type(net).__name__}, got {weights}, of which "
            f"{_misfit(own, state) or ' '.join(str(error).split())}"
        ) from None
    try:
        check_finite(net.state_dict(), weights)
    except ValueError:
        net.load_state_dict(own)
        raise


def check_finite(state: Mapping[str, Any], source: object) -> None:
    """Refuses a state dict with a value that training left undefined.

    Raises:
        ValueError: If a tensor holds NaN or infinity; minus infinity may mask an attention.
    """
    for name, value in state.items():
        dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
        if dense and value.is_floating_point() and not (value.float() < torch.inf).all():
            raise ValueError(
                f"expected finite weights, got NaN or infinity in {name} of {source}; fetch it "
                "again, or take an earlier checkpoint of that training"
            )


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            if is_safetensors(file):
                return read_safetensors(file)
            with torch.serialization.safe_globals([Namespace]):  # timm stores the command line
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # a broken file can raise anything
            reason = "incomplete, no checkpoint, or holds more than weights"
    raise ValueError(  # not in the handler: torch advises there to trust the file
        f"expected a file of weights alone, got {path}, which is {reason}; fetch it again, or "
        "save net.state_dict() where the network can be loaded"
    )


def _of_torchvision(name: str) -> Path:
    from torchvision.models import get_weight  # everything else works without torchvision

    try:
        weights = get_weight(name)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise FileNotFoundError(
            f"expected a file of weights or a name in torchvision, got {name!r}, which is "
            "neither; names look like ResNet50_Weights.IMAGENET1K_V1"
        ) from None
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if not path.is_file():
        try:
            weights.get_state_dict(
                progress=sys.stderr.isatty(),
                check_hash=True,
                map_location="cpu",
                weights_only=True,
            )
        except (OSError, RuntimeError, HTTPException) as error:
            raise FileNotFoundError(
                f"expected the weights {name}, got no such file from {weights.url} ({error}); "
                f"put it at {path}"
            ) from error
    return path


def _unwrapped(content: Any, net: nn.Module) -> State:
    """Returns the state dict within the content of a file, with the key names of `net`."""
    found = list(_states(content))
    if not found:
        keys = f" of {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) else ""
        raise ValueError(
            f"expected a state dict or a dict around one, got a {type(content).__name__}{keys}; "
            "save net.state_dict()"
        )
    _, state = max(found, key=lambda s: (s[0] == "state_dict", "ema" not in s[0], len(s[1])))
    ours = any(key.startswith("network.net.") for key in state)  # of src.train
    for key in list(state):
        value = state.pop(key)
        kept = key.startswith("network.net.") if ours else key != "n_averaged"  # of torch's EMA
        if kept and isinstance(value, Tensor):
            state[key] = value
    for prefix in ("network.", "net.") if ours else ():
        drop_prefix(state, prefix)
    own = net.state_dict()
    parts = {name.partition(".")[0] for name in own}
    while all("." in key for key in state):
        first = {key.partition(".")[0] for key in state}
        if len(first) > 1 or first <= parts:
            break
        drop_prefix(state, f"{first.pop()}.")
    for key in [key for key in state if key not in own]:
        state[OLD_DENSENET.sub(r"\1\2", key)] = state.pop(key)
    return state


def _states(content: Any, name: str = "", depth: int = 2) -> Iterator[tuple[str, State]]:
    """Yields each state dict in nested dicts, with the key that holds it."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return  # optimizers number their entries
    if any(isinstance(value, Tensor) for value in content.values()):
        yield name, content
    for key, value in content.items() if depth else ():
        yield from _states(value, key, depth - 1)


def _misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Returns the first differences and their likely cause; "" if keys and shapes agree."""
    differences = {
        "missing": [k for k in own if k not in state and not k.endswith("num_batches_tracked")],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [
            f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
            for k in own
            if k in state and state[k].shape != own[k].shape
        ],
    }
    told = "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:SHOWN])}{', ...' if keys[SHOWN:] else ''}"
        for kind, keys in differences.items()
        if keys
    )
    return told and f"{told}. {_cause(own, state)}"


def _cause(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Returns the likely cause of a difference, and what to do about it."""
    common = [key for key in own if key in state]
    other = [key for key in common if own[key].shape != state[key].shape]
    stem = next((key for key in own if own[key].dim() == 4), "")
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
    if stem in other and own[stem].shape[2:] != state[stem].shape[2:]:
        return "The stems differ, as between networks for small images and for ImageNet."
    return "They are of a deeper, shallower, wider or narrower network: choose that one."


def digest(*parts: Any) -> str:
    """Returns a hash of tensors, bytes, and of anything else by its representation."""
    content = hashlib.sha256()
    for part in parts:
        if torch.is_tensor(part):
            content.update(repr((part.dtype, part.shape)).encode())
            part = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        content.update(part if isinstance(part, bytes) else repr(part).encode())
    return content.hexdigest()

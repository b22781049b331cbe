"""The file of a gate: plain values and tensors, checked before anything is built from them."""

__all__ = ["load", "save"]

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from src.gate.calibration import Calibration
from src.gate.picture import Picture
from src.network.weights import check_finite
from src.records.atomic import is_intact, write_whole
from src.records.schema import fields, many, maybe, number, plain, text, whole
from src.run.rebuild import check_measured, detector_of, network_of
from src.run.targets import admitted

if TYPE_CHECKING:
    from src.gate.gate import Gate

FORMAT = 1
FACTS = fields(
    needed={
        "format": whole,
        "net": fields(),
        "detector": fields(),
        "name": text,
        "alpha": number(0, 1),
        "by_class": whole,
        "classes": many(text),
        "shape": many(whole),
        "short_side": maybe(whole),
        "max_pixels": whole,
        "digest": text,
        "made": fields(),
    }
)
STATES = ("network", "fitted", "calibration")


def save(gate: "Gate", path: Path, net: Mapping[str, Any], detector: Mapping[str, Any]) -> None:
    """Writes a gate whole or not at all.

    Args:
        gate: Gate.
        path: File, which may be there already.
        net: Plain configuration from which the network is built, without its weights.
        detector: Plain configuration from which the detector is built.

    Raises:
        OSError: If there is no room.
    """
    facts = {
        "format": FORMAT,
        "net": dict(net),
        "detector": dict(detector),
        "name": gate.name,
        "alpha": gate.alpha,
        "by_class": int(gate.calibration.by_class),
        "classes": list(gate.classes),
        "shape": list(gate.picture.shape),
        "short_side": gate.picture.short_side,
        "max_pixels": gate.picture.max_pixels,
        "digest": gate.digest,
        "made": gate.made,
    }
    states = {
        "network": gate.network.state_dict(),
        "fitted": gate.detector.state_dict(),
        "calibration": {"score": gate.calibration.known, "prediction": gate.calibration.group},
    }
    content = {"gate": facts, **{name: _on_cpu(state) for name, state in states.items()}}
    write_whole(path, lambda partial: torch.save(content, partial))


def load(path: Path, build: Callable[..., "Gate"], *, trust: bool = False) -> "Gate":
    """Returns the gate in a file; see `Gate.load`.

    Args:
        path: File of `save`.
        build: What receives the parts: `Gate`.
        trust: Whether the file may name classes of any package.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a gate, got no file at {path}; make one: python -m src.deploy "
            "checkpoint=<checkpoint or name>"
        )
    facts, states = _read(path)
    kept = admitted({k: facts[k] for k in ("net", "detector")}, path, trust=trust)
    network = network_of(kept["net"], states["network"], path)
    detector = detector_of(kept["detector"], path)
    _load_state(network, states["network"], path)
    check_measured(network, path)
    _load_state(detector, states["fitted"], path)
    score, prediction = states["calibration"]["score"], states["calibration"]["prediction"]
    by_class = bool(facts["by_class"])
    try:
        calibration = Calibration(
            score, prediction if by_class else None, facts["alpha"], facts["classes"]
        )
        gate = build(
            network,
            detector,
            calibration,
            classes=facts["classes"],
            picture=Picture(tuple(facts["shape"]), facts["short_side"], facts["max_pixels"]),
            name=facts["name"],
            made=facts["made"],
        )
    except (RuntimeError, TypeError, AttributeError, KeyError, IndexError) as error:
        first = str(error).partition("\n")[0]
        raise _damaged(path, f"{first[:300]}") from None
    if len(gate.classes) != network.num_classes or gate.picture.shape != network.image_shape:
        raise _damaged(path, "its classes or its images are not those of its network")
    if gate.digest != facts["digest"]:
        raise _damaged(path, "its digest is not that of its content")
    return gate


def _read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Returns facts and states of a file, which are of the right kinds."""
    content: Any = None
    if is_intact(path):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # a broken file can raise anything, and torch advises to trust the file
            content = None
    if not isinstance(content, dict) or not isinstance(content.get("gate"), dict):
        raise _damaged(path, "it is none, or was cut short")
    number = content["gate"].get("format")
    if isinstance(number, int) and number > FORMAT:
        raise ValueError(
            f"expected a gate of format {FORMAT} or before, got {number} in {path}; it was made "
            "by a later version: update this one"
        )
    try:
        facts = plain(content["gate"])
        FACTS(facts, "")
    except ValueError as error:
        raise _damaged(path, f"expected {error}") from None
    states = {name: content[name] for name in STATES if isinstance(content.get(name), dict)}
    if len(states) < len(STATES):
        raise _damaged(path, "a part is missing")
    check_finite(states["network"], path)
    score, prediction = (states["calibration"].get(name) for name in ("score", "prediction"))
    if not (isinstance(score, Tensor) and isinstance(prediction, Tensor)):
        raise _damaged(path, "its calibration is missing")
    is_whole = score.dtype == torch.float64 and prediction.dtype == torch.int64
    if not is_whole or not score.shape == prediction.shape == (len(score),):
        raise _damaged(path, "its calibration is not one score and one class of each image")
    if not ((prediction >= 0) & (prediction < len(facts["classes"]))).all():
        raise _damaged(path, "its calibration has other classes")
    return facts, states


def _load_state(module: nn.Module, state: dict[str, Any], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError, KeyError) as error:
        first = ": ".join(line.strip(": ") for line in str(error).splitlines()[:2])
        raise _damaged(path, first[:300]) from None


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"expected a gate of src.deploy, got {path}: {why}; make or fetch it again")


def _on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.cpu() if isinstance(v, Tensor) else v for k, v in state.items()}

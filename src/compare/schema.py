"""What the files of a run must hold, so that one that is malformed leaves the others compared."""

__all__ = ["METRICS", "read_config", "read_metrics"]

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

METRICS = ("auroc", "fpr95_id_pos", "fpr95_ood_pos")
MOST_BYTES = 2**26
LARGEST = 1e300
Check = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    """Whether a value is text."""
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and abs(value) < LARGEST and not is_bool(value)


def is_bool(value: Any) -> bool:
    """Whether a value is true or false."""
    return isinstance(value, bool)


def maybe(check: Check) -> Check:
    """Returns a check that None passes too."""
    return lambda value: value is None or check(value)


def each(check: Check) -> Check:
    """Returns a check of the values of a dictionary whose keys are text."""
    return lambda value: (
        isinstance(value, dict) and all(map(is_text, value)) and all(map(check, value.values()))
    )


def is_detector(value: Any) -> bool:
    """Whether a value holds the results of a detector, with their average."""
    return each(each(is_number))(value) and set(METRICS) <= value.get("average", {}).keys()


def is_set(value: Any) -> bool:
    """Whether a value holds facts about a set of images."""
    return isinstance(value, dict) and maybe(is_text)(value.get("sha256"))


def are_facts(value: Any) -> bool:
    """Whether a value holds facts about all images."""
    return (
        isinstance(value, dict)
        and maybe(is_text)(value.get("protocol"))
        and each(is_set)(value.get("sets", {}))
    )


NEEDED: dict[str, Check] = {
    "experiment": is_text,
    "network": is_text,
    "selected_block": maybe(is_text),
    "norm_ratio": each(is_number),
    "counts": each(is_number),
    "detectors": each(is_detector),
}
OPTIONAL: dict[str, Check] = {
    "id_accuracy": maybe(is_number),
    "data": maybe(are_facts),
    "versions": maybe(each(is_text)),
}


def read_metrics(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Returns the bytes of the metrics file of a run, and what they hold.

    Raises:
        ValueError: If it is not the metrics file of a run.
        OSError: If it cannot be read.
    """
    content = bytes_of(path)
    try:
        metrics = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected the metrics.json of a run, got {path}, which is not valid JSON "
            f"({error}); repeat its benchmark: python -m src.evaluate checkpoint=..."
        ) from None
    found: dict[str, Any] = metrics if isinstance(metrics, dict) else {}
    if missing := [key for key in NEEDED if key not in found]:
        raise ValueError(
            f"expected the metrics.json of a run, got {path} without {', '.join(missing)}; "
            "give directories of src.train or src.evaluate"
        )
    if isinstance(found["detectors"], dict):
        for name, detector in found["detectors"].items():
            if not is_detector(detector):
                raise ValueError(
                    f"expected {', '.join(METRICS)} of each detector's average, got {path} "
                    f"without those of {name}; repeat its benchmark: python -m src.evaluate ..."
                )
    checks = NEEDED | {key: check for key, check in OPTIONAL.items() if key in found}
    if wrong := [key for key, check in checks.items() if not check(found[key])]:
        raise ValueError(
            f"expected the metrics.json of a run, got {path} with something else as "
            f"{', '.join(wrong)}; repeat its benchmark: python -m src.evaluate ..."
        )
    return content, found


def read_config(path: Path) -> dict[str, Any]:
    """Returns the configuration of a run.

    Raises:
        ValueError: If it is not a configuration.
        OSError: If it cannot be read.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = bytes_of(path)
        # a few aliases can stand for more than fits into memory; no run writes any
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, loader)):
            raise ValueError("it has aliases")
        config = yaml.load(content, loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        said = " ".join(str(error).split())[:100]
        raise ValueError(
            f"expected the config.yaml of a run, got {path}, which cannot be read ({said}); "
            "leave it out, or give another run"
        ) from None
    return config if isinstance(config, dict) else {}


def bytes_of(path: Path) -> bytes:
    """Returns the bytes of a plain file of reasonable size."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError(
            f"expected a plain file of at most {MOST_BYTES >> 20} MiB, got {path}; leave it out"
        )
    return path.read_bytes()

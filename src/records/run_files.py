"""The files of a run as they are read again: of strangers, damaged, or written by hand.

Each file has a size, a form and a schema. What does not keep to them is refused in one sentence.
"""

__all__ = ["CONFIG_FILE", "METRICS_FILE", "read_bytes", "read_config", "read_metrics", "refusal"]

import json
from pathlib import Path
from typing import Any

import yaml

from src.records.schema import DEEPEST, each, fields, many, maybe, number, plain, text, whole

CONFIG_FILE, METRICS_FILE = "config.yaml", "metrics.json"
MOST_BYTES = {".json": 64 * 2**20, ".yaml": 2**20, ".csv": 64 * 2**20, ".png": 64 * 2**20}
SHOWN = ("auroc", "fpr95_id_pos", "fpr95_ood_pos")
SHARE = number(0, 1)
FORM = fields(
    {
        "experiment": text,
        "network": text,
        "selected_block": maybe(text),
        "norm_ratio": each(number()),
        "counts": fields({"id": whole}),
        "detectors": each(each(fields(dict.fromkeys(SHOWN, SHARE)))),
    },
    id_accuracy=maybe(SHARE),
    data=maybe(
        fields(
            protocol=maybe(text),
            groups=each(many(text)),
            classes=many(text),
            sets=each(fields(images=whole, skipped=whole, view=text, sha256=text)),
            codec_change=each(number()),
        )
    ),
    selection=fields(
        criterion=text,
        value=each(number()),
        standard_error=each(number(0)),
        tied=many(text),
    ),
    selection_stability=fields(
        bootstrap=fields(
            {
                "replicates": whole,
                "share": each(SHARE),
                "standard_error": each(number()),
                "margin_standard_error": number(),
            }
        ),
        seeds=many(fields({"seed": whole, "selected": text})),
    ),
    block_weights=each(each(each(maybe(number())))),
    forward_passes=whole,
    seconds=each(number(0)),
    versions=each(text),
)
SETTINGS = fields(
    data=maybe(fields(ood=maybe(each(lambda value, place: None)))),
    trainer=maybe(fields()),
    run_dir=maybe(text),
    data_dir=maybe(text),
    checkpoint=maybe(text),
)


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads plain YAML as OmegaConf does: dates are texts. Merged keys, which grow, are not."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in pairs if not pair[0].endswith((":timestamp", ":merge"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: Any) -> None:
        """Merges nothing."""


def _check_depth(written: str) -> None:
    """Refuses nested YAML before a loader, which may be recursive in C, meets it."""
    depth = 0
    for event in yaml.parse(written, Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")


def refusal(what: str, path: Path, problem: object) -> ValueError:
    """Returns the error about a file that is not what it should be, in one sentence."""
    words = " ".join(str(problem).split())[:300]
    return ValueError(f"expected {what}, got {path}, which {words}")


def read_bytes(path: Path) -> bytes:
    """Returns the content of a file of limited size.

    Raises:
        ValueError: If it is no regular file, cannot be read, or is too large for its kind.
    """
    most = MOST_BYTES[path.suffix]
    what = f"a file of at most {most // 2**20} MB"
    if not path.is_file():
        raise refusal(what, path, "is no regular file")
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise refusal(what, path, f"cannot be read ({error.strerror})") from None
    if len(content) > most:
        raise refusal(what, path, "is larger")
    return content


def read_metrics(path: Path, *needed: str) -> dict[str, Any]:
    """Returns the content of a `metrics.json`.

    Args:
        path: Path of the file.
        needed: Further keys that it must have.

    Raises:
        ValueError: If it is not the metrics file of a run.
    """
    what = "the metrics.json of a run"
    remedy = "; give directories of src.train or src.evaluate, or repeat the benchmark"
    raw = read_bytes(path)
    try:
        metrics = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise refusal(what, path, f"is not valid JSON ({error}){remedy}") from None
    keys: dict[str, Any] = metrics if isinstance(metrics, dict) else {}
    first = ("experiment", "network", "selected_block", "norm_ratio", "counts", "detectors")
    if missing := [key for key in (*first, *needed) if key not in keys]:
        raise ValueError(f"expected {what}, got {path} without {', '.join(missing)}{remedy}")
    try:
        keys = plain(keys)
        FORM(keys, "")
        _agree(keys)
    except ValueError as error:
        raise refusal(what, path, f"does not have {error}{remedy}") from None
    return keys


def _agree(metrics: dict[str, Any]) -> None:
    """Checks what one part of `metrics.json` says about another."""
    sets = [name for name in metrics["counts"] if name != "id"]
    groups = (metrics.get("data") or {}).get("groups", {})
    columns = ["average", *sets, *groups] if sets else []
    for detector, results in metrics["detectors"].items():
        if missing := [name for name in columns if name not in results]:
            raise ValueError(f"results of {detector} on {missing[0]}")
    each(whole)(metrics["counts"], "counts")
    value = metrics.get("selection", {}).get("value") or metrics["norm_ratio"]
    if missing := [block for block in metrics["norm_ratio"] if block not in value]:
        raise ValueError(f"a value of {missing[0]} in selection.value")
    share = metrics.get("selection_stability", {}).get("bootstrap", {}).get("share")
    if share is not None and (missing := [b for b in metrics["norm_ratio"] if b not in share]):
        raise ValueError(f"a share of {missing[0]} in selection_stability.bootstrap")


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Returns the text of a `config.yaml`, and its content; both are empty if there is none.

    Raises:
        ValueError: If it is not the resolved configuration of a run.
    """
    if not path.exists():
        return "", {}
    what = "the config.yaml of a run"
    raw = read_bytes(path)
    try:
        written = raw.decode()
        _check_depth(written)
        parsed = yaml.load(written, Loader)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise refusal(what, path, f"is not valid YAML ({error}); restore it") from None
    try:
        config: dict[str, Any] = plain(parsed) or {}
        SETTINGS(config, "")
    except ValueError as error:
        raise refusal(what, path, f"does not have {error}; restore it") from None
    return written, config

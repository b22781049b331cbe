"""The card beside weights that are given away, and a configuration without places of a machine."""

__all__ = ["Released", "card", "portable"]

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.data.registry import known
from src.records.columns import detector_columns
from src.report.page import described, set_rows

TEMPLATES = Path(__file__).parent
COMPOSED_ANEW = ("run_dir", "resume", "logger", "group", "job_type", "run_name")  # by src.evaluate
ROOTS = ("data_dir", "run_dir")  # what other places begin with
# an absolute path, at the start of a word or behind a sign of Hydra's
PLACE = re.compile(r"(^|[=:,\[{'\" ])(?:~|/(?!/))[^,'\"\]}]*")


class Released(NamedTuple):
    """A file of weights."""

    path: Path
    size: float  # MB
    digest: str  # SHA-256, hexadecimal


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a run without the places of its machine.

    What lies in the folder of the data or of the run follows `data_dir` and `run_dir` again, which
    a resumed run has resolved; of any other absolute path its last part is kept.
    """
    roots = {key: str(config[key]) for key in ROOTS if key in config}

    def moved(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: moved(each) for key, each in value.items()}
        if isinstance(value, list):
            return [moved(each) for each in value]
        if not isinstance(value, str):
            return value
        for key, root in roots.items():
            if value.startswith(f"{root}/"):
                return f"${{{key}}}/{value.removeprefix(f'{root}/')}"
        return Path(value).name if value.startswith(("/", "~")) else value

    kept = {key: moved(value) for key, value in config.items() if key not in COMPOSED_ANEW}
    return kept | {"data_dir": "data"}


def without_places(command: str) -> str:
    """Returns a command with PATH for each absolute path."""
    return shlex.join(PLACE.sub(r"\1PATH", word) for word in shlex.split(command))


def card(metrics: Mapping[str, Any], saved: str, state: Mapping[str, Any], file: Released) -> str:
    """Returns the model card, Markdown.

    Args:
        metrics: of the run.
        saved: its `config.yaml`, which has the command in its first line.
        state: what is given away.
        file: where it is.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["described"] = described
    first = saved.partition("\n")[0]
    config = portable(yaml.safe_load(saved))
    results = metrics["detectors"]
    trained_on = config["data"]["train"].get("known")
    return environment.get_template("model_card.md.j2").render(
        metrics=metrics,
        config=config,
        command=without_places(first.removeprefix("# ")) if first.startswith("# ") else "",
        input={key: state[f"network.{key}"].flatten().tolist() for key in ("mean", "std")},
        image_shape=config["net"].get("image_shape", (3, 32, 32)),  # as Network's own default
        sets=set_rows(metrics, config["data"]),
        images=known(trained_on) if trained_on else None,
        detectors={name: results[name] for name in detector_columns(results)},
        file=file,
    )

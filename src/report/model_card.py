"""The model card of released weights, and a configuration without paths of one machine."""

__all__ = ["Released", "card", "portable"]

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.data.registry import known
from src.records.columns import block_columns
from src.records.literal import markdown_code, markdown_text, shell_word
from src.report.blocks import Results, criterion_of
from src.report.page import described, set_rows

TEMPLATES = Path(__file__).parent
SET_ANEW = ("run_dir", "resume", "logger", "group", "job_type", "run_name")  # by src.evaluate
ROOTS = ("data_dir", "run_dir")  # folders that other paths may start with
# an absolute path, at the start of a word or after a character of Hydra's grammar
PLACE = re.compile(r"(^|[=:,\[{'\" ])(?:~|/(?!/))[^,'\"\]}]*")


class Released(NamedTuple):
    """A file with released weights."""

    path: Path
    size: float  # MB
    digest: str  # SHA-256, hexadecimal


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a run without paths of its machine.

    Paths within the folder of the data or of the run refer to `data_dir` or `run_dir`. Any other
    absolute path is reduced to its last part.
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

    kept = {key: moved(value) for key, value in config.items() if key not in SET_ANEW}
    return kept | {"data_dir": "data"}


def without_places(command: str) -> str:
    """Returns a command with PATH in place of each absolute path."""
    return " ".join(shell_word(PLACE.sub(r"\1PATH", word)) for word in shlex.split(command))


def card(
    metrics: Mapping[str, Any],
    saved: str,
    config: Mapping[str, Any],
    state: Mapping[str, Any],
    file: Released,
) -> str:
    """Returns the model card in Markdown.

    Args:
        metrics: The content of `metrics.json`.
        saved: The text of `config.yaml`, whose first line holds the command.
        config: The content of `config.yaml`.
        state: The released state dict.
        file: The file with the state dict.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"described": described, "text": markdown_text, "code": markdown_code}
    first = saved.partition("\n")[0]
    config = portable(config)
    trained_on = config["data"]["train"].get("known")
    results: Results = metrics["detectors"]
    blocks = block_columns(results).values()
    criterion, value = criterion_of(metrics)
    return environment.get_template("model_card.md.j2").render(
        metrics=metrics,
        criterion=criterion,
        value=value,
        config=config,
        command=without_places(first.removeprefix("# ")) if first.startswith("# ") else "",
        input={key: state[f"network.{key}"].flatten().tolist() for key in ("mean", "std")},
        image_shape=config["net"].get("image_shape", (3, 32, 32)),  # the default of Network
        sets=set_rows(metrics, config["data"]),
        images=known(trained_on) if trained_on else None,
        detectors={name: row for name, row in results.items() if name not in blocks},
        file=file,
    )

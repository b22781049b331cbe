"""Weights to give away: half precision, one file that stands alone, its digest, a model card."""

__all__ = ["main", "release"]

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.atomic import write_whole
from src.columns import PER_BLOCK

TEMPLATES = Path(__file__).parent
# what names places of the machine that trained, or is composed anew
PLACES = ("run_dir", "resume", "logger", "group", "job_type")


class Released(NamedTuple):
    """A file of weights."""

    path: Path
    size: float  # MB
    digest: str  # SHA-256, hexadecimal


def release(run_dir: Path, output: Path) -> Released:
    """Writes the last checkpoint of a finished run to be given away, and its model card.

    The file is a checkpoint as any other, without the states of the training: `src.evaluate`
    takes it as `checkpoint`, a network as `net.weights`. Weights are in half precision; a network
    that loads them computes in float32.

    Args:
        run_dir: directory of the run.
        output: folder that receives `<experiment>.pt` and `<experiment>.md`.

    Raises:
        FileNotFoundError: if the run is not finished.
        ValueError: if a weight is too large for half precision.
        OSError: if there is no room.
    """
    import torch

    from src.checkpoint import load_checkpoint

    if not (run_dir / "metrics.json").is_file():
        raise FileNotFoundError(
            f"expected the directory of a finished run, got {run_dir} without a metrics.json; "
            f"finish it: python -m src.train resume={run_dir}"
        )
    metrics = json.loads((run_dir / "metrics.json").read_text())
    checkpoint = load_checkpoint(run_dir / "checkpoints/last.ckpt")
    config = {key: value for key, value in checkpoint["config"].items() if key not in PLACES}
    config["data_dir"] = "data"
    content = {
        "config": config,
        "state_dict": halved(checkpoint["state_dict"]),
        "format": checkpoint.get("format", 0),
    }
    path = output / f"{metrics['experiment']}.pt"
    write_whole(path, lambda partial: torch.save(content, partial))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with (run_dir / "config.yaml").open() as file:
        command = file.readline().removeprefix("# ").strip()
    released = Released(path, path.stat().st_size / 1e6, digest)
    text = card(metrics, config, released, command)
    write_whole(path.with_suffix(".md"), lambda partial: partial.write_text(text))
    return released


def halved(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a state dict with floating-point tensors in float16; all else as it is.

    Raises:
        ValueError: if a value is beyond what float16 can hold.
    """
    import torch

    half = dict(state)
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            half[key] = value.half()
            if not half[key].isfinite().all():
                raise ValueError(
                    f"expected weights within +-65504, got {value.abs().max():.4g} in {key}; "
                    "they cannot be given in half precision"
                )
    return half


def card(
    metrics: Mapping[str, Any], config: Mapping[str, Any], file: Released, command: str
) -> str:
    """Returns the model card, Markdown."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    shown = {name: row for name, row in metrics["detectors"].items() if PER_BLOCK not in name}
    return environment.get_template("model_card.md.j2").render(
        metrics=metrics, config=config, detectors=shown, file=file, command=command
    )


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    asked = argparse.ArgumentParser("python -m src.release", description=main.__doc__)
    asked.add_argument("run_dir", type=Path, help="directory of a finished run")
    asked.add_argument("--output", type=Path, required=True, help="folder for weights and card")
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the weights of a run in half precision, with a model card, to be given away."""
    from rich.console import Console

    command = parser()
    asked = command.parse_args(arguments)
    try:
        path, size, digest = release(asked.run_dir, asked.output)
    except (OSError, ValueError) as error:
        command.error(str(error))
    Console(soft_wrap=True).print(f"{path}  {size:.1f} MB  sha256:{digest}", highlight=False)


if __name__ == "__main__":
    main()

"""Releases the weights of a run: half precision, one self-contained file, and a model card."""

__all__ = ["main", "release"]

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from src.records.atomic import write_whole
from src.records.console import say
from src.records.literal import file_name, override
from src.records.run_files import read_config, read_metrics
from src.report.model_card import Released, card, portable

INPUT = ("network.mean", "network.std")  # which `net.weights` takes from the configuration


def release(run_dir: Path, output: Path) -> Released:
    """Writes the last checkpoint of a finished run as a release, and its model card.

    The file is a checkpoint without the state of the training: `src.evaluate` accepts it as
    `checkpoint`, a network as `net.weights`. Weights are in half precision; a network that loads
    them computes in float32. The same run gives the same bytes.

    Args:
        run_dir: Directory of the run.
        output: Folder that receives `<experiment>.pt` and `<experiment>.md`, whatever the name of
            the experiment holds.

    Raises:
        FileExistsError: If the folder has a file of that name, perhaps of another seed.
        FileNotFoundError: If the run is not finished, or trained nothing.
        ValueError: If a weight is not finite in half precision.
        OSError: If there is no room.
    """
    import torch

    from src.run.checkpoint import load_checkpoint

    for needed in ("metrics.json", "checkpoints/last.ckpt"):
        if not (run_dir / needed).is_file():
            raise FileNotFoundError(
                f"expected the directory of a finished training, got {run_dir} without {needed}; "
                f"finish it: python -m src.train {override('resume', run_dir)}"
            )
    metrics = read_metrics(run_dir / "metrics.json", "versions", "data", "id_accuracy")
    path = output / f"{file_name(metrics['experiment'])}.pt"
    for each in (path, path.with_suffix(".md")):
        if each.exists():
            raise FileExistsError(
                f"expected a new file, got {each}, which is there; choose another --output"
            )
    checkpoint = load_checkpoint(run_dir / "checkpoints/last.ckpt")
    content = {
        "config": portable(checkpoint["config"]),
        "state_dict": halved(checkpoint["state_dict"]),
        "format": checkpoint.get("format", 0),
    }
    buffer = BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    released = Released(path, len(data) / 1e6, hashlib.sha256(data).hexdigest())
    saved = read_config(run_dir / "config.yaml")
    text = card(metrics, *saved, content["state_dict"], released)
    write_whole(path, lambda partial: partial.write_bytes(data))
    write_whole(
        path.with_suffix(".md"), lambda partial: partial.write_text(text, encoding="utf-8")
    )
    return released


def halved(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a state dict with its weights in float16; counters, selection, input as they are.

    Raises:
        ValueError: If a value is none that float16 can hold.
    """
    import torch

    half = dict(state)
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and key not in INPUT:
            half[key] = value.half()
            if not half[key].isfinite().all():
                raise ValueError(
                    f"expected weights within +-65504, got {value.abs().max():.4g} in {key}, "
                    "which half precision cannot hold; give the checkpoint of the run itself"
                )
    return half


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    asked = argparse.ArgumentParser("python -m src.release", description=main.__doc__)
    asked.add_argument("run_dir", type=Path, help="directory of a finished run")
    asked.add_argument("--output", type=Path, required=True, help="folder for weights and card")
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the weights of a run in half precision, with a model card, to be given away."""
    command = parser()
    asked = command.parse_args(arguments)
    try:
        path, size, digest = release(asked.run_dir, asked.output)
    except (OSError, ValueError) as error:
        command.error(str(error))
    say(f"{path}  {size:.1f} MB  sha256:{digest}")


if __name__ == "__main__":
    main()

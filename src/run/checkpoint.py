"""Checkpoints, written whole and read without running code from them."""

__all__ = ["AtomicCheckpoints", "load_checkpoint", "load_state"]

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from src.classifier import FORMAT, Classifier
from src.records.atomic import try_to_write
from src.run.upgrade import upgraded


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint under another name and renames it: a kill leaves the old or the new.

    If there is no room, the old one is kept and training continues. Lightning's own plugin writes
    into the folder for temporary files first, which may be on another disk.
    """

    _missing: tuple[dict[str, Any], Path] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Writes the checkpoint and renames it."""
        written = try_to_write(Path(path), lambda partial: torch.save(checkpoint, partial))
        self._missing = None if written else (checkpoint, path)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Returns a checkpoint whose callbacks look for its neighbours where it is now."""
        checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **options)
        states = checkpoint.get("callbacks", {})
        folder = Path(path).resolve().parent
        checkpoint["callbacks"] = {name: _moved(state, folder) for name, state in states.items()}
        return checkpoint

    def complete(self) -> bool:
        """Whether the latest checkpoint is on disk; if it is not, tries once more to write it."""
        if self._missing is not None:
            self.save_checkpoint(*self._missing)
        return self._missing is None


def _moved(state: Any, folder: Path) -> Any:
    """Returns the state of a callback with the paths of its checkpoints in this folder."""
    if not isinstance(state, dict) or "dirpath" not in state:
        return state
    paths = {key: _inside(state[key], folder) for key in state if key.endswith("_model_path")}
    best = {_inside(each, folder): score for each, score in state.get("best_k_models", {}).items()}
    return state | paths | {"dirpath": str(folder), "best_k_models": best}


def _inside(path: str, folder: Path) -> str:
    return str(folder / f"{Path(path).stem}.ckpt") if path else ""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the checkpoint of a training, read without running code from it.

    A configuration of an earlier version is brought up to date.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint of `src.train`, or was made by a later version.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a checkpoint, got no file at {path}; set checkpoint=..."
        )
    checkpoint: dict[str, Any] | None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError):  # whose message advises to trust the file
        checkpoint = None
    parts = {"config", "state_dict"}
    if not isinstance(checkpoint, dict) or not all(checkpoint.get(part) for part in parts):
        raise ValueError(
            f"expected a checkpoint of src.train, which holds its configuration, got {path}, "
            "which is none or is incomplete; use the other one (best.ckpt, last.ckpt), or "
            f"load the weights of another project with net=<network> net.weights={path}"
        )
    if checkpoint.get("format", 0) > FORMAT:
        raise ValueError(
            f"expected a checkpoint of format {FORMAT} or before, got {checkpoint['format']} in "
            f"{path}; it was made by a later version: update this one"
        )
    return checkpoint | {"config": upgraded(checkpoint["config"])}


def load_state(classifier: Classifier, state: dict[str, Any], path: str) -> None:
    """Loads the weights and the selection of a checkpoint.

    Raises:
        ValueError: If they belong to another network.
    """
    try:
        classifier.load_state_dict(state)
    except RuntimeError as error:
        first = ": ".join(line.strip(": ") for line in str(error).splitlines()[:2])
        raise ValueError(
            f"expected weights of {type(classifier.network.net).__name__} as configured, got "
            f"{path}, which is of another network ({first[:300]}); leave out net=, since a "
            "checkpoint brings its own"
        ) from None

"""Checkpoints, written whole and read without running code from them."""

__all__ = [
    "AtomicCheckpoints",
    "check_progress",
    "load_checkpoint",
    "load_state",
    "restoring",
]

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from src.classifier import FORMAT, Classifier
from src.network.weights import check_finite
from src.records.atomic import try_to_write
from src.records.schema import each, fields, plain, whole
from src.run.rebuild import check_measured
from src.run.upgrade import upgraded

GROUPS = ("data", "detectors", "objective", "optim", "selection", "trainer")
ANEW = "put back a copy of that file, or remove it and resume: the training then starts anew"
COUNTS = fields({"total": each(whole), "current": each(whole)})
PROGRESS = fields(
    {
        "epoch_progress": COUNTS,
        "epoch_loop.batch_progress": COUNTS,
        "epoch_loop.automatic_optimization.optim_progress": fields(),
    }
)  # of a training; Lightning starts at epoch 0 where it finds none


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
        ValueError: If it is not a checkpoint of `src.train`, was made by a later version, or has
            weights that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a checkpoint, got no file at {path}; set checkpoint=..."
        )
    checkpoint: Any
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a broken file can raise anything, and torch advises to trust the file
        checkpoint = None
    if not _is_checkpoint(checkpoint):
        raise ValueError(
            f"expected a checkpoint of src.train, which holds its configuration, got {path}, "
            "which is none or is incomplete; use the other one (best.ckpt, last.ckpt), or "
            f"load the weights of another project with net=<network> net.weights={path}"
        )
    if (checkpoint.get("format") or 0) > FORMAT:
        raise ValueError(
            f"expected a checkpoint of format {FORMAT} or before, got {checkpoint['format']} in "
            f"{path}; it was made by a later version: update this one"
        )
    check_finite(checkpoint["state_dict"], path)
    try:
        config = plain(checkpoint["config"])
    except ValueError as error:
        raise ValueError(f"expected {error}, in {path}; fetch it again") from None
    return {**checkpoint, "config": upgraded(config)}


def _is_checkpoint(content: Any) -> bool:
    """Whether a file holds what a training writes: a network, its weights and its selection."""
    if not isinstance(content, dict):
        return False
    number, config, state = (content.get(key) for key in ("format", "config", "state_dict"))
    if not (number is None or (type(number) is int and number >= 0)):
        return False
    if not isinstance(config, dict) or not isinstance(state, dict) or not state:
        return False
    if not isinstance(content.get("callbacks", {}), dict):
        return False
    groups = [config.get(group) for group in GROUPS]
    net = config.get("net")
    return (
        isinstance(net, dict)
        and isinstance(net.get("net"), dict)
        and all(group is None or isinstance(group, dict) for group in groups)
        and all(isinstance(key, str) for key in state)
    )


def load_state(classifier: Classifier, state: dict[str, Any], path: str) -> None:
    """Loads the weights and the selection of a checkpoint.

    Raises:
        ValueError: If they belong to another network, or a value of a block is no number.
    """
    try:
        classifier.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError, KeyError) as error:
        first = ": ".join(line.strip(": ") for line in str(error).splitlines()[:2])
        raise ValueError(
            f"expected weights of {type(classifier.network.net).__name__} as configured, got "
            f"{path}, which is of another network ({first[:300]}); leave out net=, since a "
            "checkpoint brings its own"
        ) from None
    check_measured(classifier.network, path)


def check_progress(checkpoint: dict[str, Any], path: Path) -> None:
    """Refuses a checkpoint that does not say how far its training is.

    Raises:
        ValueError: If it does not.
    """
    try:
        fields({"loops": fields({"fit_loop": PROGRESS})})(checkpoint, "")
    except ValueError as error:
        raise ValueError(f"expected {error}, in {path}; {ANEW}") from None


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Inside, a checkpoint from which a training cannot resume ends in one clear error.

    Lightning restores optimizer, schedule, callbacks and progress when the training begins, and
    passes on whatever they raise.

    Args:
        path: The checkpoint; None if the training starts anew.

    Raises:
        ValueError: If a state in the checkpoint is damaged, or is that of another run.
    """
    try:
        yield
    except Exception as error:
        names = [frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)]
        steps = [name.removeprefix("restore_") for name in names if name.startswith("restore_")]
        if path is None or not steps:
            raise
        raise ValueError(
            f"expected the {steps[-1].replace('_', ' ')} of this run in {path}, got what cannot "
            f"be restored ({type(error).__name__}: {str(error)[:200]}); {ANEW}"
        ) from error

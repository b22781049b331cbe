"""`python -m src.train`, killed. python -m tests.run.killed MOMENT [key=value ...]"""

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

import src.run.trainer

moment = ""
callbacks, save = src.run.trainer.callbacks, torch.save


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Kill(L.Callback):
    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if moment == "training" and trainer.current_epoch == 1 and batch_idx == 3:
            end()

    def on_validation_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        if moment == "validation" and trainer.current_epoch == 1:
            end()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        loader: int,
    ) -> None:
        if moment == "benchmark" and loader == 2:
            end()


def save_half(content: Any, path: Path) -> None:
    """A kill in the middle of a write: half of the bytes are there."""
    save(content, path)
    if moment == "checkpoint" and path.name.endswith("last.ckpt") and content["epoch"] == 1:
        os.truncate(path, path.stat().st_size // 2)
        end()


if __name__ == "__main__":
    moment = sys.argv.pop(1)
    src.run.trainer.callbacks = lambda cfg: [*callbacks(cfg), Kill()]
    torch.save = save_half  # type: ignore[assignment]
    runpy.run_module("src.train", run_name="__main__", alter_sys=True)

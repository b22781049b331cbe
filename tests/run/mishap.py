"""`python -m src.train` with a mishap.  python -m tests.run.mishap NAME [key=value ...]

It happens at a set point of the second epoch, however busy the machine is:

    decoding: the process is killed when the first set is decoded.
    training, validation: the process is killed.
    checkpoint: the process is killed when half of the last checkpoint is written.
    benchmark: the process is killed while it scores the second data set.
    report: the process is killed when metrics.json is written and the figures are not.
    service: the process of W&B beside the training is killed.
    network: the process of number MISHAP_SERVER is killed.
    death: the second process of the training is killed.
    standstill: the second process of the training is stopped.

With MISHAP_SIGNAL the process gets that signal instead of being killed.
"""

import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.distributed.distributed_c10d import _set_pg_timeout

import src.data.datamodule
import src.report.results
import src.run.trainer

mishap = ""
callbacks, save = src.run.trainer.callbacks, torch.save


def end() -> None:
    os.kill(os.getpid(), signal.Signals[os.environ.get("MISHAP_SIGNAL", "SIGKILL")])


def end_before(moment: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def ended(*arguments: Any, **options: Any) -> Any:
        if mishap == moment:
            end()
        return work(*arguments, **options)

    return ended


def descendants(process: int) -> Iterator[int]:
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        yield int(child)
        yield from descendants(int(child))


def hit(words: bytes, how: signal.Signals) -> None:
    """Sends a signal to the process below this one whose command line holds the words."""
    (found,) = (
        child
        for child in descendants(os.getpid())
        if words in Path(f"/proc/{child}/cmdline").read_bytes()
    )
    os.kill(found, how)


def strike() -> None:
    if mishap == "training":
        end()
    elif mishap == "network":
        os.kill(int(os.environ["MISHAP_SERVER"]), signal.SIGKILL)
    elif mishap == "service":
        hit(b"wandb-core", signal.SIGKILL)
    elif mishap in ("death", "standstill"):
        hit(b"src.train", signal.SIGKILL if mishap == "death" else signal.SIGSTOP)
        _set_pg_timeout(timedelta(seconds=1))  # of the wait for the other; minutes by default
        print(f"mishap: {mishap}", flush=True)  # noqa: T201


class Mishap(L.Callback):
    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == 3:
            strike()

    def on_validation_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        if mishap == "validation" and trainer.current_epoch == 1:
            end()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        loader: int = 0,  # Lightning names no single one
    ) -> None:
        if mishap == "benchmark" and loader == 2:
            end()


def save_half(content: Any, path: Path) -> None:
    """A kill in the middle of a write: half of the bytes are there."""
    save(content, path)
    if mishap == "checkpoint" and path.name.endswith("last.ckpt") and content["epoch"] == 1:
        os.truncate(path, path.stat().st_size // 2)
        end()


if __name__ == "__main__":
    mishap = sys.argv.pop(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    src.run.trainer.callbacks = lambda cfg: [*callbacks(cfg), Mishap()]
    for module, work, moment in (
        (src.data.datamodule, "check_images", "decoding"),
        (src.report.results, "save_figures", "report"),
    ):
        setattr(module, work, end_before(moment, getattr(module, work)))
    torch.save = save_half  # type: ignore[assignment]
    runpy.run_module("src.train", run_name="__main__", alter_sys=True)

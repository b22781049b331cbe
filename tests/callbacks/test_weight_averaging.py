"""Laws of the average of the weights, on real trainings of a tiny network."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from src.block_selection import BlockSelection
from src.callbacks import EMA
from src.data.pseudo_ood import Jigsaw
from tests.test_block_selection import EPOCHS, Run

State = dict[str, Tensor]


def tensors(state: dict[str, Any]) -> State:
    return {name: value.clone() for name, value in state.items() if torch.is_tensor(value)}


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


class Trace(L.Callback):
    """Notes the weights after each step, and in each validation with what it measures."""

    def __init__(self) -> None:
        self.steps: list[State] = []
        self.validated: list[State] = []

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self.first = tensors(module.state_dict())

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self.steps.append(tensors(module.state_dict()))

    def on_validation_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(tensors(module.state_dict()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    saves = ModelCheckpoint(folder, "last", save_on_train_epoch_end=True)
    selection = BlockSelection(Jigsaw(), split="training")
    return Run(selection, Trace(), EMA(0.5), saves, default_root_dir=folder)()


def trace_of(run: Run) -> Trace:
    (found,) = [each for each in run.trainer.callbacks if isinstance(each, Trace)]
    return found


def averages(trace: Trace, decay: float) -> list[State]:
    """The average after each step, by its definition."""
    average, found = trace.first, []
    for number, state in enumerate(trace.steps, start=1):
        stays = min(decay, (1 + number) / (10 + number))
        average = {
            name: stays * value + (1 - stays) * state[name]
            if value.is_floating_point()
            else state[name]
            for name, value in average.items()
        }
        found.append(average)
    return found


def test_what_is_validated_and_left_is_the_average(run: Run) -> None:
    trace = trace_of(run)
    every = averages(trace, 0.5)
    steps = len(every) // EPOCHS
    for epoch in range(EPOCHS):
        validated = trace.validated[epoch * len(trace.validated) // EPOCHS]
        for name, value in every[(epoch + 1) * steps - 1].items():
            assert validated[name].allclose(value, atol=1e-6), name
    assert equal(tensors(run.classifier.state_dict()), trace.validated[-1])
    assert not equal(trace.validated[-1], trace.steps[-1])


def test_a_checkpoint_holds_the_average_with_its_selection(run: Run, folder: Path) -> None:
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    trace = trace_of(run)
    assert equal(tensors(saved["state_dict"]), trace.validated[-1])
    assert equal(tensors(saved["current_model_state"]), trace.steps[-1])
    assert saved["state_dict"]["network._extra_state"] == run.network.norm_ratio
    again = Run()
    again.classifier.load_state_dict(saved["state_dict"])
    assert again.network.selected == run.network.selected


def test_the_selection_is_of_the_average(run: Run) -> None:
    again = Run(BlockSelection(Jigsaw(), split="training"))
    again.classifier.load_state_dict(run.classifier.state_dict())
    again("validate")
    assert again.network.norm_ratio == pytest.approx(run.network.norm_ratio, rel=1e-6)


def test_a_training_without_a_step_left_ends_with_the_average(run: Run, folder: Path) -> None:
    again = Run(EMA(0.5), default_root_dir=folder)
    again.trainer.fit(
        again.classifier, datamodule=again.data, ckpt_path=folder / "last.ckpt", weights_only=True
    )
    assert equal(tensors(again.classifier.state_dict()), tensors(run.classifier.state_dict()))
    assert again.network.norm_ratio == run.network.norm_ratio


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay within \[0, 1\), got {decay}; 0.999 is usual"):
        EMA(decay)

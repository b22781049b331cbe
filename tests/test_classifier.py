"""Compiled training steps learn the same weights, and leave no trace in the module tree."""

import shutil

import lightning as L
import pytest
import torch
from torch import nn

from src.block_selection import BlockSelection
from src.classifier import Classifier
from src.data import ImageData
from src.data.pseudo_ood import Jigsaw
from src.network import Network
from tests.fakes import Memory


def trained(*, compiled: bool) -> Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
    classifier = Classifier(
        Network(net, ["0", "1"], image_shape=(3, 12, 12)),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05),
        compiled=compiled,
    )
    data = ImageData(Memory(24), Memory(4), {}, batch_size=8, validation_size=8)
    L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=[BlockSelection(Jigsaw())],
    ).fit(classifier, datamodule=data)  # fmt: skip
    return classifier


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_steps_learn_what_eager_steps_learn() -> None:
    eager, compiled = trained(compiled=False), trained(compiled=True)
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    for (name, ours), theirs in zip(
        compiled.network.net.state_dict().items(),
        eager.network.net.state_dict().values(),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, msg=name, rtol=1e-3, atol=1e-5)
    assert compiled.network.norm_ratio == pytest.approx(eager.network.norm_ratio, rel=1e-3)

"""Laws of the curves of a profile, on real trainings of a tiny network."""

from typing import Any

import lightning as L
import pytest
import torch

from src.benchmark import Benchmark
from src.block_selection import BlockSelection
from src.callbacks import ProfileCurves
from src.data.distortions import Blur, PixelShuffle
from src.data.pseudo_ood import Jigsaw
from src.detectors import NormProfile
from tests.test_block_selection import BLOCKS, EPOCHS, SANITY, VALIDATION_BATCHES, Run

POOL: dict[str, Any] = {"pixels": PixelShuffle(), "blur": Blur(5)}


def curves(*, blocks: list[str] | None = None) -> ProfileCurves:
    return ProfileCurves(NormProfile(POOL, blocks=blocks))


class Points(L.Callback):
    """Notes what each validation logs of the profile."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if "profile" in k}
        if not trainer.sanity_checking:
            self.epochs.append(found)


def named(weights: dict[str, dict[str, float | None]]) -> dict[str, float]:
    return {
        f"norm_profile/{name}/{block}": weight
        for block, each in weights.items()
        for name, weight in each.items()
        if weight is not None
    }


@pytest.fixture(scope="module")
def run() -> Run:
    return Run(curves(), BlockSelection(Jigsaw(seed=3)), Points())()


def points(run: Run) -> list[dict[str, float]]:
    (found,) = [c.epochs for c in run.trainer.callbacks if isinstance(c, Points)]
    return found


def test_every_epoch_has_a_point_of_every_weight(run: Run) -> None:
    names = {f"norm_profile/{each}/{block}" for each in ("norm", "mean") for block in BLOCKS}
    assert [{*each} for each in points(run)] == [names | {"norm_profile/energy/logits"}] * EPOCHS
    assert points(run)[0] != points(run)[1]


def test_the_last_point_is_what_the_benchmark_learns(run: Run) -> None:
    benchmark = Benchmark(run.network, {"profile": NormProfile(POOL)}, run.data.sources)
    options: Any = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    benchmark.run(L.Trainer(accelerator="cpu", **options), run.data)
    expected = named(benchmark.block_weights["profile"])
    assert points(run)[-1] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_an_epoch_costs_one_forward_more_and_one_for_each_member_of_the_pool(run: Run) -> None:
    plain, profile = 2, 1 + len(POOL)  # validation and puzzles; then clean images and the pool
    assert run.forwards.count("validate") == EPOCHS * VALIDATION_BATCHES * (plain + profile)
    assert run.forwards.count("train") == EPOCHS * 2
    assert run.forwards.count("sanity") == SANITY


@pytest.mark.parametrize("first", [False, True])
def test_neither_training_nor_selection_notices(first: bool) -> None:
    selection, profile = BlockSelection(Jigsaw(seed=3)), curves(blocks=["layer1.0"])
    both = Run(*([profile, selection] if first else [selection, profile]))()
    alone = Run(BlockSelection(Jigsaw(seed=3)))()
    assert alone.forwards.count("validate") == EPOCHS * VALIDATION_BATCHES * 2
    assert both.network.norm_ratio == alone.network.norm_ratio
    for one, other in zip(both.network.parameters(), alone.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_profile_that_does_not_fit_is_refused_before_the_training() -> None:
    run = Run(curves(blocks=["layer9"]))
    with pytest.raises(ValueError, match=r"expected a block of ResNet, got 'layer9'"):
        run()
    assert run.forwards == []

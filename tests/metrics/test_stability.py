"""The stability of a selection: equal to a plain loop, however the images come, and harmless."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from src.block_selection import BlockSelection
from src.data.pseudo_ood import Jigsaw
from src.metrics.stability import SelectionBootstrap
from tests.test_block_selection import BLOCKS, EPOCHS, HELD_OUT, OFFICIAL, VALIDATION_BATCHES, Run

IMAGES, REPLICATES, SEEDS = 40, 200, 3
ON = {"bootstrap": REPLICATES, "stability_seeds": SEEDS}


def some_norms(blocks: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean, puzzle = 1 + torch.rand(2, IMAGES, blocks, generator=generator)
    return clean, puzzle, torch.arange(IMAGES)


def filled(
    norms: tuple[torch.Tensor, ...], sizes: list[int], order: torch.Tensor | None = None
) -> SelectionBootstrap:
    metric = SelectionBootstrap(norms[0].shape[1], REPLICATES)
    order = torch.arange(IMAGES) if order is None else order
    for rows in order.split(sizes):
        metric.update(*(each[rows] for each in norms))
    return metric


def test_the_bootstrap_equals_a_plain_loop() -> None:
    clean, puzzle, index = some_norms()
    metric = filled((clean, puzzle, index), [IMAGES])
    found = metric.compute()
    times = metric.draw(index)
    ratio = clean.double() / puzzle.double()
    chosen, margins = [], []
    selected = int(ratio.mean(0).argmax())
    for replicate in range(REPLICATES):
        images = [image for image in range(IMAGES) for _ in range(times[image, replicate])]
        mean = sum(ratio[image] for image in images) / len(images)
        assert found.ratio[replicate].tolist() == pytest.approx(mean.tolist(), rel=1e-12)
        chosen.append(int(mean.argmax()))
        margins.append(mean[selected] - max(mean[b] for b in range(4) if b != selected))
    assert found.share.tolist() == [chosen.count(block) / REPLICATES for block in range(4)]
    assert found.margin.tolist() == pytest.approx([float(each) for each in margins], abs=1e-12)
    assert found.observed.tolist() == pytest.approx(ratio.mean(0).tolist(), rel=1e-12)
    assert float(found.share.sum()) == pytest.approx(1)


@pytest.mark.parametrize("sizes", [[1] * IMAGES, [7, 0, 33], [13, 13, 14]])
def test_any_split_of_the_stream_gives_the_same_samples(sizes: list[int]) -> None:
    norms = some_norms()
    whole = filled(norms, [IMAGES]).compute()
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(1))
    split = filled(norms, sizes, order).compute()
    torch.testing.assert_close(split.ratio, whole.ratio, rtol=1e-12, atol=0)
    assert split.share.equal(whole.share)


def test_processes_add_up() -> None:
    norms = some_norms()
    whole, parts = filled(norms, [IMAGES]), [SelectionBootstrap(4, REPLICATES) for _ in range(3)]
    for rank, part in enumerate(parts):
        part.update(*(each[rank::3] for each in norms))
    for name in ("weight", "total"):  # `dist_reduce_fx` of both is the sum
        total = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(total, getattr(whole, name), rtol=1e-12, atol=0)


def test_the_draws_are_poisson_of_mean_one() -> None:
    times = SelectionBootstrap(1, 1000).draw(torch.arange(1000)).double()
    assert times.mean().item() == pytest.approx(1, abs=0.005)
    assert times.var().item() == pytest.approx(1, abs=0.01)
    for count, share in ((0, 0.36788), (1, 0.36788), (2, 0.18394), (3, 0.06131)):
        assert (times == count).double().mean().item() == pytest.approx(share, abs=0.002)
    other = SelectionBootstrap(1, 1000, seed=1).draw(torch.arange(1000)).double()
    assert abs(torch.corrcoef(torch.stack([times.flatten(), other.flatten()]))[0, 1]) < 0.005


def test_its_standard_error_is_that_of_a_mean() -> None:
    clean, puzzle, index = some_norms()
    metric = SelectionBootstrap(4, 5000)
    metric.update(clean, puzzle, index)
    expected = (clean.double() / puzzle.double()).std(0, correction=0) / IMAGES**0.5
    found = metric.compute().standard_error.tolist()
    assert found == pytest.approx(expected.tolist(), rel=0.08)


def test_one_block_is_always_selected_and_a_tie_goes_to_the_deeper() -> None:
    one = filled(some_norms(blocks=1), [IMAGES]).compute()
    assert one.share.tolist() == [1]
    assert not one.margin.any()
    clean, _, index = some_norms()
    same = filled((clean, clean, index), [IMAGES]).compute()
    assert same.share.tolist() == [0, 0, 0, 1]


def test_a_sample_without_an_image_is_left_out() -> None:
    metric = SelectionBootstrap(2, 1000)
    metric.update(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))
    found = metric.compute()
    assert 500 < len(found.ratio) < 750  # 1 - 1/e
    assert found.ratio.isfinite().all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    selection = BlockSelection(Jigsaw(seed=3), history=True, **ON)
    return Run(selection, default_root_dir=folder / "sub")()


def selection_of(run: Run) -> BlockSelection:
    return next(each for each in run.trainer.callbacks if isinstance(each, BlockSelection))


def test_it_changes_neither_the_selection_nor_the_training(run: Run) -> None:
    plain = Run(BlockSelection(Jigsaw(seed=3)))()
    assert run.network.norm_ratio == plain.network.norm_ratio
    for name, value in plain.network.net.state_dict().items():
        assert value.equal(run.network.net.state_dict()[name]), name


def test_it_adds_one_forward_per_seed_in_the_last_epoch_only(run: Run) -> None:
    expected = EPOCHS * VALIDATION_BATCHES * 2 + SEEDS * VALIDATION_BATCHES
    assert run.forwards.count("validate") == expected
    bootstrap = Run(BlockSelection(Jigsaw(), bootstrap=REPLICATES))()
    assert bootstrap.forwards.count("validate") == EPOCHS * VALIDATION_BATCHES * 2


def test_it_lies_beside_the_history(run: Run, folder: Path) -> None:
    path = folder / "sub" / "selection_stability.json"
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "norm_ratio.csv", "selection.json", path.name,
    ]  # fmt: skip
    found = json.loads(path.read_text())
    assert found == selection_of(run).stability
    assert found["epoch"] == EPOCHS - 1
    assert found["bootstrap"]["replicates"] == REPLICATES
    assert list(found["bootstrap"]["share"]) == list(BLOCKS)
    assert sum(found["bootstrap"]["share"].values()) == pytest.approx(1)
    assert all(error > 0 for error in found["bootstrap"]["standard_error"].values())


def test_each_seed_selects_as_a_run_of_that_seed_would(run: Run) -> None:
    seeds = selection_of(run).stability["seeds"]
    assert [each["seed"] for each in seeds] == [4, 5, 6]
    ratios = [list(each["norm_ratio"].values()) for each in seeds]
    assert len({tuple(ratio) for ratio in ratios}) == SEEDS
    for each in seeds:
        other = Run(BlockSelection(Jigsaw(seed=each["seed"])))
        other.network.load_state_dict(run.network.state_dict())
        other("validate")
        assert each["norm_ratio"] == pytest.approx(other.network.norm_ratio, rel=1e-6)
        assert each["selected"] == other.network.selected


@pytest.mark.parametrize("form", [{}, OFFICIAL], ids=["default", "official"])
def test_validating_alone_measures_it_too_without_the_padding(form: dict[str, Any]) -> None:
    found = []
    for batch_size in (1, 4, 7, HELD_OUT):
        selection = BlockSelection(Jigsaw(), **ON, **form)
        Run(selection, eval_batch_size=batch_size)("validate")
        found.append(selection.stability)
    for other in found[1:]:
        assert other["bootstrap"]["standard_error"] == pytest.approx(
            found[0]["bootstrap"]["standard_error"], rel=1e-4
        )
        for ours, theirs in zip(other["seeds"], found[0]["seeds"], strict=True):
            assert ours["norm_ratio"] == pytest.approx(theirs["norm_ratio"], rel=1e-6)


def test_pseudo_ood_images_without_a_seed_get_the_bootstrap_alone() -> None:
    selection = BlockSelection(lambda image, index: image.flip(-1), **ON)
    run = Run(selection)("validate")
    assert list(selection.stability) == ["epoch", "bootstrap"]
    assert run.forwards.count("validate") == VALIDATION_BATCHES * 2


def test_it_is_off_where_it_is_not_asked_for(tmp_path: Path) -> None:
    selection = BlockSelection(Jigsaw(), history=True)
    Run(selection, default_root_dir=tmp_path)("validate")
    assert selection.stability == {}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["norm_ratio.csv", "selection.json"]
    with pytest.raises(ValueError, match="of at least 0, got 0 and -1; 0 turns them off"):
        BlockSelection(Jigsaw(), stability_seeds=-1)


def test_a_training_that_stops_early_has_none() -> None:
    selection = BlockSelection(Jigsaw(), **ON)
    stop = EarlyStopping("val/accuracy", stopping_threshold=-1.0, mode="max")
    run = Run(selection, stop)()
    assert run.trainer.current_epoch < EPOCHS
    assert selection.stability == {}


def test_it_is_exact_in_the_precision_of_the_trainer() -> None:
    selection = BlockSelection(Jigsaw(), **ON)
    run = Run(selection, precision="bf16-mixed")("validate")
    observed = selection._repeated.bootstrap.compute().observed  # type: ignore[union-attr]
    expected = list(run.network.norm_ratio.values())
    assert observed.tolist() == pytest.approx(expected, rel=1e-12)

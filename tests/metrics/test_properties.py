"""What must hold for any input: metrics, puzzles, sampler, statistics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor

from src.data import BatchSampler
from src.data.pseudo_ood import Jigsaw
from src.metrics import ood_metrics
from src.metrics.statistics import Bank, ClassExtrema, ClassMoments, ClassSums, Mean, Moments

few = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def scored(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """ID and OOD scores: few or many, balanced or not, with ties, of any scale and offset."""
    sizes = [draw(st.one_of(st.integers(1, 40), st.integers(1000, 10_000))) for _ in range(2)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([2, 5, 100, 10**9]))  # few levels: many ties
    scale, offset = 10.0 ** draw(st.integers(-6, 6)), draw(st.sampled_from([0.0, -3.0, 1e4, 1e8]))
    grid = [
        np.floor(rng.normal(shift, 1, n) * levels) for shift, n in zip((1, 0), sizes, strict=True)
    ]
    return tuple(torch.from_numpy(offset + scale * each) for each in grid)  # type: ignore[return-value]


@given(scored())
@few
def test_metrics_are_those_of_scikit_learn(scores: tuple[Tensor, Tensor]) -> None:
    known, unknown = (score.numpy() for score in scores)
    found = ood_metrics(*scores)
    score = np.concatenate([known, unknown])
    is_id = np.concatenate([np.ones(len(known)), np.zeros(len(unknown))])
    assert found["auroc"] == pytest.approx(roc_auc_score(is_id, score), abs=1e-9)
    assert found["aupr_in"] == pytest.approx(average_precision_score(is_id, score), abs=1e-9)
    assert found["aupr_out"] == pytest.approx(average_precision_score(1 - is_id, -score), abs=1e-9)
    for name, truth, sign in (("fpr95_id_pos", is_id, 1), ("fpr95_ood_pos", 1 - is_id, -1)):
        fpr, tpr, _ = roc_curve(truth, sign * score, drop_intermediate=False)
        enough = tpr * truth.sum() >= 0.95 * truth.sum() - 1e-6
        assert found[name] == pytest.approx(fpr[enough].min(), abs=1e-9)


@given(scored(), st.integers(-8, 8), st.integers(0, 2**16))
@few
def test_metrics_see_only_the_order_of_scores(
    scores: tuple[Tensor, Tensor], power: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    other = [
        (2.0**power * score)[torch.randperm(len(score), generator=generator)] for score in scores
    ]
    assert ood_metrics(*other) == ood_metrics(*scores)


@given(
    st.integers(2, 7), st.integers(7, 40), st.integers(7, 40), st.booleans(), st.integers(0, 2**40)
)
@few
def test_a_puzzle_is_made_of_the_image_s_own_tiles(
    grid: int, height: int, width: int, identity: bool, index: int
) -> None:
    image = torch.arange(height * width).view(1, 1, height, width)
    jigsaw = Jigsaw(grid, border="keep", identity=identity)
    puzzle = jigsaw(image, torch.tensor([index]))
    assert puzzle.flatten().sort().values.equal(image.flatten())
    assert identity or not puzzle.equal(image)
    assert jigsaw(image, torch.tensor([index])).equal(puzzle)
    tile = (height // grid, width // grid)
    first = puzzle[0, 0, : tile[0], : tile[1]]  # a tile is as it was, inside
    assert (first[:, 1:] - first[:, :-1] == 1).all()
    assert (first[1:] - first[:-1] == width).all()


@given(
    st.integers(1, 300), st.integers(1, 50), st.integers(1, 9), st.booleans(), st.integers(0, 9)
)
@few
def test_every_image_is_drawn_by_one_process_once(
    n: int, batch_size: int, world: int, shuffle: bool, epoch: int
) -> None:
    if shuffle and n < batch_size * world:
        with pytest.raises(ValueError, match="fills one batch on every process"):
            BatchSampler(n, batch_size, num_replicas=world, shuffle=True)
        return
    samplers = [
        BatchSampler(n, batch_size, num_replicas=world, rank=rank, shuffle=shuffle)
        for rank in range(world)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    batches = [torch.stack(list(sampler)) for sampler in samplers]
    assert len({batch.shape for batch in batches}) == 1
    drawn = torch.cat([batch.flatten() for batch in batches])
    drawn = drawn[drawn >= 0].sort().values
    if shuffle:  # what does not fill a batch on every process is left out of this epoch
        assert len(drawn) == n // (batch_size * world) * batch_size * world
        assert len(drawn.unique()) == len(drawn)
    else:
        assert drawn.equal(torch.arange(n))


rows = arrays(
    np.float64, st.tuples(st.integers(1, 60), st.integers(1, 6)),
    elements=st.floats(-1e3, 1e3, width=32),
)  # fmt: skip


@given(rows, st.lists(st.integers(0, 60), max_size=4), st.integers(0, 2**16))
@few
def test_statistics_do_not_depend_on_how_rows_are_split_or_ordered(
    row: np.ndarray, cuts: list[int], seed: int
) -> None:
    value = torch.from_numpy(row)
    label = torch.arange(len(value)) % 3
    order = torch.randperm(len(value), generator=torch.Generator().manual_seed(seed))
    parts = torch.tensor_split(order, sorted(min(cut, len(value)) for cut in cuts))

    def streamed(statistic, *arguments):  # type: ignore[no-untyped-def]
        for part in parts:
            statistic.update(*(a[part] if torch.is_tensor(a) else a for a in arguments))
        return statistic.compute()

    near = {"rtol": 1e-9, "atol": 1e-6}
    torch.testing.assert_close(streamed(Mean(), value).view(-1), value.mean(dim=0), **near)
    moments = streamed(Moments(), value)
    torch.testing.assert_close(moments.mean, value.mean(dim=0), **near)
    covariance = np.atleast_2d(np.cov(row.T, bias=True))
    torch.testing.assert_close(moments.covariance, torch.from_numpy(covariance), **near)
    sums, classes = (
        streamed(ClassSums(), value, label, 3),
        streamed(ClassMoments(), value, label, 3),
    )
    smallest, largest = streamed(ClassExtrema(), value, label, 3)
    for k in label.unique().tolist():
        own = value[label == k]
        assert sums.count[k] == len(own)
        torch.testing.assert_close(sums.total[k], own.sum(dim=0), **near)
        torch.testing.assert_close(classes.mean[k], own.mean(dim=0), **near)
        assert smallest[k].equal(own.amin(dim=0))
        assert largest[k].equal(own.amax(dim=0))
    index = torch.arange(len(value))
    assert streamed(Bank(), value, index).view(value.shape).equal(value)
    whole, part = Bank(7, seed=seed), streamed(Bank(7, seed=seed), value, index)
    whole.update(value, index)
    assert part.equal(whole.compute())

"""The criteria of a block: values by their definition, standard errors as repetitions scatter."""

from math import erf, sqrt

import pytest
import torch
from torch import Tensor

from src.metrics.criterion import BlockCriterion, Estimate
from src.metrics.ood import ood_metrics
from src.metrics.stability import SelectionBootstrap
from src.records.selection import CRITERIA

IMAGES, BLOCKS = 400, 3


def norms(images: int = IMAGES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(N, L) norms: blocks of a strong, a medium and no reaction, alike for an image."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(images, 1, generator=generator)
    noise = torch.randn(2, images, BLOCKS, generator=generator) / 2
    gap = torch.tensor([0.6, 0.3, 0.0]) * (1 + image / 2)
    return (image / 4 + gap + noise[0] / 4).exp(), (image / 4 + noise[1] / 4).exp()


def measured(criterion: str, clean: Tensor, puzzle: Tensor, batch: int = IMAGES) -> Estimate:
    metric = BlockCriterion(criterion, clean.shape[1])
    for rows in torch.arange(len(clean)).flip(0).split(batch):
        metric.update(clean[rows], puzzle[rows], rows)
    return metric.compute()


def test_values_follow_their_definitions() -> None:
    clean, puzzle = norms()
    gap = clean.double().log() - puzzle.double().log()
    expected = {
        "norm_ratio": [float(x) for x in (clean.double() / puzzle.double()).mean(0)],
        "paired_t": [float(x.mean() / x.std(correction=0)) for x in gap.T],
        "auroc": [ood_metrics(x, y)["auroc"] for x, y in zip(clean.T, puzzle.T, strict=True)],
    }
    assert list(expected) == list(CRITERIA)
    for criterion, values in expected.items():
        found = measured(criterion, clean, puzzle)
        assert found.value.tolist() == pytest.approx(values, rel=1e-12)
        assert found.each.mean(0).tolist() == pytest.approx(values, rel=1e-12)
        assert found.selected == 0
    assert measured("auroc", clean, puzzle).value.tolist() == expected["auroc"]  # exactly


def test_an_auroc_with_ties_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, puzzle = torch.randint(1, 5, (2, 50, 1), generator=generator).float()
    found = measured("auroc", clean, puzzle)
    assert found.value.tolist() == [ood_metrics(clean[:, 0], puzzle[:, 0])["auroc"]]
    assert float(found.each.mean()) == pytest.approx(float(found.value), rel=1e-12)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_standard_errors_are_the_scatter_over_sets_of_images(criterion: str) -> None:
    sets = [measured(criterion, *norms(seed=seed)) for seed in range(1, 401)]
    value = torch.stack([each.value for each in sets])
    claimed = torch.stack([each.standard_error for each in sets]).mean(0)
    assert claimed.tolist() == pytest.approx(value.std(0).tolist(), rel=0.12)
    gap = torch.stack([e.each[:, 0] - e.each[:, 1] for e in sets]).std(1) / IMAGES**0.5
    assert float(gap.mean()) == pytest.approx(float((value[:, 0] - value[:, 1]).std()), rel=0.12)


def test_the_error_of_a_normal_t_is_the_textbook_one() -> None:
    generator = torch.Generator().manual_seed(0)
    gap = 1.5 + torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    found = measured("paired_t", gap.exp(), torch.ones_like(gap), 20_000)
    expected = sqrt((1 + float(found.value) ** 2 / 2) / len(gap))
    assert float(found.standard_error) == pytest.approx(expected, rel=0.03)


def test_the_error_of_an_auroc_is_that_of_delong_if_the_sides_are_independent() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = 1 + torch.randn(300, 1, generator=generator)
    puzzle = torch.randn(300, 1, generator=generator)
    wins = (clean > puzzle.T).double()
    delong = wins.mean(1).var(correction=0) / 300 + wins.mean(0).var(correction=0) / 300
    found = measured("auroc", 9 + clean, 9 + puzzle)
    assert float(found.value) == pytest.approx((1 + erf(0.5)) / 2, abs=0.03)
    assert float(found.standard_error) == pytest.approx(float(delong) ** 0.5, rel=0.05)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_two_blocks_are_tied_within_the_error_of_their_difference(criterion: str) -> None:
    clean, puzzle = norms()
    assert measured(criterion, clean, puzzle).tied == []
    # a block of the same norms but for a little noise differs by less than it may by chance
    other = clean * (1 + 0.1 * torch.randn(IMAGES, 1, generator=torch.Generator().manual_seed(3)))
    clean, puzzle = (torch.stack(x, 1) for x in ((clean[:, 0], other[:, 0]), (puzzle[:, 0],) * 2))
    close = measured(criterion, clean, puzzle)
    gap = (close.each[:, 0] - close.each[:, 1]).std(correction=0) / IMAGES**0.5
    assert gap < close.standard_error.min()  # paired: smaller than the error of either block
    lead = abs(float(close.value[0] - close.value[1]))
    assert (len(close.tied) == 2) == (lead <= gap)
    # exactly equal: tied, and the deeper one is selected
    equal = measured(criterion, clean[:, :1].expand(-1, 2), puzzle)
    assert (equal.selected, equal.tied) == (1, [1, 0])
    assert measured(criterion, clean[:, :1], puzzle[:, :1]).tied == []  # a single block


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("batch", [1, 7, IMAGES])
def test_batches_and_their_order_do_not_matter(criterion: str, batch: int) -> None:
    clean, puzzle = norms()
    whole, parts = measured(criterion, clean, puzzle), measured(criterion, clean, puzzle, batch)
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-13, atol=0)
    assert parts.each.equal(whole.each)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_block_without_activation_says_nothing(criterion: str) -> None:
    clean, puzzle = norms()
    clean[:, 1], puzzle[:, 1] = 0, 0
    found = measured(criterion, clean, puzzle)
    nothing = {"norm_ratio": 0.0, "paired_t": 0.0, "auroc": 0.5}[criterion]
    assert float(found.value[1]) == nothing
    assert float(found.standard_error[1]) == 0
    assert found.selected == 0


@pytest.mark.parametrize("criterion", CRITERIA)
def test_one_image_gives_finite_numbers(criterion: str) -> None:
    found = measured(criterion, *(each[:1] for each in norms()))
    assert found.value.isfinite().all()
    assert found.standard_error.tolist() == [0] * BLOCKS


def test_a_norm_that_cannot_be_ranked_is_refused() -> None:
    clean, puzzle = norms()
    puzzle[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"FeatureNorm of pseudo-OOD .*got 1 NaN"):
        measured("auroc", clean, puzzle)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_bootstrap_equals_a_selection_on_resampled_images(criterion: str) -> None:
    clean, puzzle = norms()
    found = SelectionBootstrap.of(measured(criterion, clean, puzzle), 200)
    times = SelectionBootstrap(BLOCKS, 200).draw(torch.arange(IMAGES))
    values = []
    for replicate in times.T:
        rows = torch.arange(IMAGES).repeat_interleave(replicate)
        metric = BlockCriterion(criterion, BLOCKS)
        metric.update(clean[rows], puzzle[rows], torch.arange(len(rows)))
        values.append(metric.compute().value)
    expected = torch.stack(values)
    error = found.standard_error
    assert ((found.ratio - expected).square().mean(0).sqrt() < 0.2 * error).all()
    assert error.tolist() == pytest.approx(expected.std(0, correction=0).tolist(), rel=0.05)
    if criterion == "norm_ratio":  # a mean over images: exact
        torch.testing.assert_close(found.ratio, expected, rtol=1e-12, atol=0)

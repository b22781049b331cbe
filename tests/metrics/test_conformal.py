"""Conformal p-values and their promise, against plain loops and simulations."""

import pytest
import torch

from src.metrics.conformal import (
    allowed,
    benjamini_hochberg,
    false_alarm_bound,
    needed,
    p_value,
    smallest_alpha,
)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_p_value_is_one_plus_how_many_are_at_most_the_score() -> None:
    known, score = uniform(50).round(decimals=1), uniform(30, seed=1).round(decimals=1)
    expected = [(1 + sum(k <= s for k in known.tolist())) / 51 for s in score.tolist()]
    assert p_value(score, known).tolist() == expected


def test_nan_and_what_is_below_all_have_the_smallest_p_value_and_a_constant_the_largest() -> None:
    score = torch.tensor([torch.nan, -torch.inf, 1.0, torch.inf], dtype=torch.float64)
    assert p_value(score, torch.ones(9).double()).tolist() == [0.1, 0.1, 1.0, 1.0]


@pytest.mark.parametrize(
    ("n", "alpha", "rank"), [(199, 0.05, 10), (99, 0.01, 1), (999, 0.3, 300), (2500, 0.1, 250)]
)
def test_alpha_counts_as_the_decimal_number_that_was_written(
    n: int, alpha: float, rank: int
) -> None:
    assert allowed(n, alpha) == rank


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan"), float("inf"), 5])
def test_alpha_is_a_rate(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"within \(0, 1\)"):
        allowed(100, alpha)


def test_alpha_below_the_finest_step_is_refused_with_the_smallest_and_the_number_needed() -> None:
    with pytest.raises(ValueError, match=r"at least 0\.0099.* 100 calibration.* on 999 images"):
        allowed(100, 0.001)
    assert allowed(needed(0.001), 0.001) == 1
    assert allowed(100, smallest_alpha(100) + 1e-9) == 1
    with pytest.raises(ValueError, match="calibrate on"):
        allowed(needed(0.001) - 1, 0.001)


@pytest.mark.parametrize(("n", "bound"), [(5000, 5.5), (1000, 6.2), (200, 7.7)])
def test_the_bound_is_that_of_the_beta_distribution(n: int, bound: float) -> None:
    assert 100 * false_alarm_bound(n, 0.05) == pytest.approx(bound, abs=0.05)


def test_the_bound_holds_for_95_in_100_calibration_sets_and_alpha_in_the_mean() -> None:
    n, alpha, sets = 100, 0.1, 20_000
    # of uniform scores, the rate of false alarms is the calibration score of the permitted rank
    rate = uniform(sets, n).sort(dim=1).values[:, allowed(n, alpha) - 1]
    assert float(rate.mean()) == pytest.approx(10 / 101, abs=0.002)
    share = float((rate > false_alarm_bound(n, alpha)).double().mean())
    assert share == pytest.approx(0.05, abs=0.006)


def test_benjamini_hochberg_rejects_up_to_the_last_rank_that_passes() -> None:
    for seed in range(20):
        p = uniform(40, seed=seed) ** 2
        passed = [r for r, each in enumerate(sorted(p.tolist()), 1) if each <= 0.2 * r / 40]
        cut = sorted(p.tolist())[max(passed) - 1] if passed else -1.0
        assert benjamini_hochberg(p, 0.2).tolist() == [each <= cut for each in p.tolist()]


def test_an_image_without_p_value_is_never_called_and_does_not_count() -> None:
    p = torch.tensor([0.01, torch.nan, 0.5, torch.nan], dtype=torch.float64)
    assert benjamini_hochberg(p, 0.02).tolist() == [True, False, False, False]
    assert benjamini_hochberg(p[:0], 0.02).tolist() == []
    with pytest.raises(ValueError, match="false discovery rate"):
        benjamini_hochberg(p, 0.0)


def test_the_share_of_id_images_among_the_called_ones_is_at_most_the_rate_in_the_mean() -> None:
    share = []
    for seed in range(300):
        known = uniform(400, seed=seed)
        score = torch.cat([uniform(80, seed=seed + 1000), 0.02 * uniform(20, seed=seed + 2000)])
        called = benjamini_hochberg(p_value(score, known), 0.2)
        share.append(float(called[:80].sum() / called.sum().clamp_min(1)))
    assert 0.05 < sum(share) / len(share) < 0.2

"""Laws of the OOD figures, against scikit-learn, torchmetrics and loops over the definitions."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from src.metrics.ood import ood_metrics

Scores = NDArray[np.float64]


def normal(n: int, m: int, *, shift: float = 1.0, seed: int = 0) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1.0, n), rng.normal(0.0, 1.5, m)


def transformed(scale: float = 1.0, offset: float = 0.0) -> tuple[Scores, Scores]:
    id_score, ood_score = normal(400, 300)
    return id_score * scale + offset, ood_score * scale + offset


def rounded(decimals: int, n: int = 500, m: int = 400) -> tuple[Scores, Scores]:
    id_score, ood_score = normal(n, m)
    return id_score.round(decimals), ood_score.round(decimals)


CASES = {
    "plain": normal(400, 300),
    "overlapping": normal(400, 300, shift=0.0),
    "worse than chance": normal(400, 300, shift=-1.0),
    "some ties": rounded(1),
    "heavy ties": rounded(0),
    "two values": tuple(np.sign(s) for s in normal(100, 90)),
    "scale 1e-6": transformed(scale=1e-6),
    "scale 1e6": transformed(scale=1e6),
    "offset 1e8": transformed(offset=1e8),
    "offset -1e8": transformed(offset=-1e8),
    "few OOD": normal(2000, 7),
    "few ID": normal(7, 2000),
    "one of each": normal(1, 1),
    "three of each": normal(3, 3),
    "constant": (np.full(30, 7.0), np.full(50, 7.0)),
    "perfect": (np.linspace(1, 2, 40), np.linspace(-1, 0, 60)),
    "reversed": (np.linspace(-1, 0, 40), np.linspace(1, 2, 60)),
    "20,000 samples": normal(12_000, 8_000),
    "20,000 samples, ties": rounded(2, 12_000, 8_000),
}
each_case = pytest.mark.parametrize(("id_score", "ood_score"), CASES.values(), ids=CASES.keys())


def metrics(id_score: object, ood_score: object) -> dict[str, float]:
    return ood_metrics(*(torch.as_tensor(s, dtype=torch.float64) for s in (id_score, ood_score)))


def loop_over_thresholds(id_score: Scores, ood_score: Scores) -> dict[str, float]:
    """The definitions as they are written, one threshold at a time."""
    n, m = len(id_score), len(ood_score)
    thresholds = np.unique(np.concatenate([id_score, ood_score]))
    errors = [0.5]  # the trivial threshold accepts nothing
    keeps_id, keeps_ood = [], []
    for tau in thresholds:
        id_above, ood_above = np.sum(id_score >= tau), np.sum(ood_score >= tau)
        errors.append(0.5 * (1 - id_above / n + ood_above / m))
        if 100 * id_above >= 95 * n:
            keeps_id.append(tau)
        if 100 * np.sum(ood_score <= tau) >= 95 * m:
            keeps_ood.append(tau)
    return {
        "fpr95_id_pos": np.sum(ood_score >= max(keeps_id)) / m,
        "fpr95_ood_pos": np.sum(id_score <= min(keeps_ood)) / n,
        "detection_error": min(errors),
    }


@each_case
def test_fpr95_and_detection_error_equal_a_loop_over_the_definitions(
    id_score: Scores, ood_score: Scores
) -> None:
    got, expected = metrics(id_score, ood_score), loop_over_thresholds(id_score, ood_score)
    assert got["fpr95_id_pos"] == expected["fpr95_id_pos"]
    assert got["fpr95_ood_pos"] == expected["fpr95_ood_pos"]
    assert got["detection_error"] == pytest.approx(expected["detection_error"], abs=1e-14)


@each_case
def test_auroc_is_the_exact_share_of_ordered_pairs(id_score: Scores, ood_score: Scores) -> None:
    twice_pairs = sum(2 * np.sum(ood_score < s) + np.sum(ood_score == s) for s in id_score)
    assert metrics(id_score, ood_score)["auroc"] == int(twice_pairs) / (
        2 * len(id_score) * len(ood_score)
    )


@each_case
def test_areas_equal_scikit_learn(id_score: Scores, ood_score: Scores) -> None:
    score = np.concatenate([id_score, ood_score])
    is_id = np.arange(len(score)) < len(id_score)
    got = metrics(id_score, ood_score)
    assert got["auroc"] == pytest.approx(roc_auc_score(is_id, score), abs=1e-12)
    assert got["aupr_in"] == pytest.approx(average_precision_score(is_id, score), abs=1e-12)
    assert got["aupr_out"] == pytest.approx(average_precision_score(~is_id, -score), abs=1e-12)


@each_case
def test_negating_scores_and_swapping_roles_swaps_the_conventions(
    id_score: Scores, ood_score: Scores
) -> None:
    swapped = metrics(-ood_score, -id_score)
    assert metrics(id_score, ood_score) == {
        "auroc": swapped["auroc"],
        "fpr95_id_pos": swapped["fpr95_ood_pos"],
        "fpr95_ood_pos": swapped["fpr95_id_pos"],
        "aupr_in": swapped["aupr_out"],
        "aupr_out": swapped["aupr_in"],
        "detection_error": swapped["detection_error"],
    }


@each_case
def test_order_of_samples_never_changes_a_figure(id_score: Scores, ood_score: Scores) -> None:
    rng = np.random.default_rng(1)
    shuffled = metrics(rng.permutation(id_score), rng.permutation(ood_score))
    assert shuffled == metrics(id_score, ood_score)


def test_a_constant_detector_is_worth_nothing() -> None:
    assert metrics([3.0] * 30, [3.0] * 10) == {
        "auroc": 0.5,
        "fpr95_id_pos": 1.0,
        "fpr95_ood_pos": 1.0,
        "aupr_in": 0.75,
        "aupr_out": 0.25,
        "detection_error": 0.5,
    }


def test_perfect_separation_is_exactly_perfect() -> None:
    assert metrics(range(100, 177), range(53)) == {
        "auroc": 1.0,
        "fpr95_id_pos": 0.0,
        "fpr95_ood_pos": 0.0,
        "aupr_in": 1.0,
        "aupr_out": 1.0,
        "detection_error": 0.0,
    }


def test_reversed_scores_are_exactly_wrong() -> None:
    got = metrics(range(53), range(100, 177))
    assert (got["auroc"], got["fpr95_id_pos"], got["fpr95_ood_pos"]) == (0.0, 1.0, 1.0)
    assert got["detection_error"] == 0.5


def test_the_two_fpr95_are_different_numbers() -> None:
    got = metrics([0.0] * 10 + [2.0] * 90, [1.0] * 100)
    assert got["fpr95_id_pos"] == 1.0  # 95 % of ID is reached only at 0, below every OOD score
    assert got["fpr95_ood_pos"] == 0.1  # 95 % of OOD is rejected at 1, with a tenth of ID


@pytest.mark.parametrize("n", [20, 100, 460, 1000, 50_000])
def test_exactly_95_percent_is_enough(n: int) -> None:
    rank = np.arange(n)
    got = metrics(rank, rank)
    assert got["fpr95_id_pos"] == got["fpr95_ood_pos"] == 0.95


@pytest.mark.parametrize("n", [20, 100, 460, 1000, 50_000])
def test_one_sample_less_than_95_percent_is_not_enough(n: int) -> None:
    late = n // 20 + 1  # one more than the 5 % that may be missed
    well_ranked, badly_ranked = np.ones(n - late), -np.ones(late)
    got = metrics(np.concatenate([well_ranked, badly_ranked]), np.zeros(n))
    assert got["fpr95_id_pos"] == 1.0
    got = metrics(np.zeros(n), np.concatenate([-well_ranked, -badly_ranked]))
    assert got["fpr95_ood_pos"] == 1.0


@pytest.mark.parametrize(("n", "needed"), [(1, 1), (19, 19), (21, 20), (39, 38), (101, 96)])
def test_95_percent_of_few_samples_rounds_up(n: int, needed: int) -> None:
    rank = np.arange(n)
    got = metrics(rank, rank)
    assert got["fpr95_id_pos"] == got["fpr95_ood_pos"] == needed / n


def test_large_scores_are_not_pushed_through_a_sigmoid() -> None:
    id_score, ood_score = (torch.from_numpy(s) * 8 + 55 for s in normal(2000, 1500))
    score = torch.cat([id_score, ood_score])
    is_id = (torch.arange(len(score)) < len(id_score)).long()
    got = ood_metrics(id_score, ood_score)
    raw_auroc = BinaryAUROC(thresholds=None, normalization=None)
    raw_aupr = BinaryAveragePrecision(thresholds=None, normalization=None)
    assert got["auroc"] == pytest.approx(float(raw_auroc(score, is_id)), abs=1e-5)
    assert got["aupr_in"] == pytest.approx(float(raw_aupr(score, is_id)), abs=1e-5)
    assert got["aupr_out"] == pytest.approx(float(raw_aupr(-score, 1 - is_id)), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scores_are_compared_in_their_own_precision(dtype: torch.dtype) -> None:
    id_score, ood_score = (torch.from_numpy(s).to(dtype) for s in normal(400, 300))
    assert ood_metrics(id_score, ood_score) == ood_metrics(id_score.double(), ood_score.double())


def test_scores_one_float64_step_apart_are_not_tied() -> None:
    base = torch.tensor([1e8], dtype=torch.float64)
    assert ood_metrics(base.nextafter(base + 1), base)["auroc"] == 1.0


def test_negative_zero_ties_with_zero() -> None:
    assert metrics([0.0, -0.0], [-0.0, 0.0])["auroc"] == 0.5


def test_scores_that_need_a_gradient_are_accepted() -> None:
    assert ood_metrics(torch.ones(3, requires_grad=True), torch.zeros(2))["auroc"] == 1.0


def test_figures_are_python_floats_under_their_agreed_names() -> None:
    got = ood_metrics(torch.ones(3), torch.zeros(2))
    names = ["auroc", "fpr95_id_pos", "fpr95_ood_pos", "aupr_in", "aupr_out", "detection_error"]
    assert list(got) == names
    assert all(type(figure) is float for figure in got.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinite_scores_raise_and_are_counted(value: float) -> None:
    good, bad = torch.zeros(4), torch.tensor([0.0, value, 1.0, value])
    with pytest.raises(
        ValueError, match="expected finite id_score, got 2 NaN or infinite among 4"
    ):
        ood_metrics(bad, good)
    with pytest.raises(ValueError, match="expected finite ood_score, got 2 NaN or infinite"):
        ood_metrics(good, bad)


@pytest.mark.parametrize(
    ("bad", "given"),
    [
        (torch.zeros(0), r"shape \(0,\)"),
        (torch.zeros(4, 1), r"shape \(4, 1\)"),
        (torch.tensor(1.0), r"shape \(\)"),
        (torch.zeros(4, dtype=torch.int64), "torch.int64"),
    ],
    ids=["empty", "two-dimensional", "scalar", "integer"],
)
def test_anything_but_a_row_of_float_scores_raises(bad: Tensor, given: str) -> None:
    with pytest.raises(ValueError, match=f"expected id_score .* got .*{given}.*; pass one"):
        ood_metrics(bad, torch.zeros(4))
    with pytest.raises(ValueError, match=f"expected ood_score .* got .*{given}.*; pass one"):
        ood_metrics(torch.zeros(4), bad)

"""The calibration: decisions, thresholds, classes, and what is refused."""

import pytest
import torch
from torch import Tensor

from src.gate import Calibration
from src.metrics.conformal import false_alarm_bound, p_value

CLASSES = ["cat", "dog"]


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_the_decision_is_p_at_most_alpha_and_the_score_below_the_threshold(alpha: float) -> None:
    known, score = normal(199, 0).round(decimals=1), normal(500, 1).round(decimals=1)
    p, is_ood = (calibration := Calibration(known, None, alpha, CLASSES))(score, score.long())
    assert torch.equal(p, p_value(score, known))
    assert is_ood.tolist() == [round(each * 200) <= round(alpha * 200) for each in p.tolist()]
    assert torch.equal(is_ood, score < calibration.threshold[0])
    assert is_ood.any()


def test_a_constant_score_flags_nothing_and_nan_is_flagged() -> None:
    calibration = Calibration(torch.ones(100), None, 0.5, CLASSES)
    score = torch.tensor([1.0, torch.nan])
    assert calibration(score, score)[1].tolist() == [False, True]


def test_conditional_on_the_class_an_image_is_compared_with_its_class_alone() -> None:
    known, label = normal(400, 0), torch.arange(400) % 2
    known = known + 10 * label  # dogs score higher
    calibration = Calibration(known, label, 0.05, CLASSES)
    score, prediction = torch.tensor([5.0, 5.0]).double(), torch.tensor([0, 1])
    p, is_ood = calibration(score, prediction)
    assert is_ood.tolist() == [False, True]
    for group in range(2):
        expected = p_value(score[group : group + 1], known[label == group])
        assert p[group] == expected
        assert (score[group] < calibration.threshold[group]) == is_ood[group]
    assert calibration.bound == false_alarm_bound(200, 0.05)


def test_too_few_images_of_a_class_are_refused_with_the_number_needed() -> None:
    label = (torch.arange(100) < 10).long()
    with pytest.raises(ValueError, match=r"expected 19 .* got dog \(10\); .*by_class=false"):
        Calibration(normal(100, 0), label, 0.05, CLASSES)


@pytest.mark.parametrize("score", [torch.zeros(0), torch.tensor([1.0, torch.nan])])
def test_scores_that_cannot_calibrate_are_refused(score: Tensor) -> None:
    with pytest.raises(ValueError, match="expected finite scores of calibration images"):
        Calibration(score, None, 0.05, CLASSES)


def test_false_alarms_of_exchangeable_images_stay_at_alpha_and_overlap_would_show() -> None:
    """An honest split keeps alpha; scores that were fitted to the calibration images do not."""
    honest, overlapping = [], []
    for seed in range(200):
        known, new = normal(99, seed), normal(200, seed + 1000)
        calibration = Calibration(known, None, 0.1, CLASSES)
        honest.append(float(calibration(new, new.long())[1].double().mean()))
        fitted = Calibration(
            known + 0.5, None, 0.1, CLASSES
        )  # seen in training: they score higher
        overlapping.append(float(fitted(new, new.long())[1].double().mean()))
    assert sum(honest) / len(honest) == pytest.approx(0.1, abs=0.01)
    assert sum(overlapping) / len(overlapping) > 0.15

"""Conformal p-values against plain loops, their promise, and scores at the edges."""

import pytest
import torch
from torch import Tensor, nn

from src.detectors import KNN, MSP, Conformal, Energy, FeatureNorm, MaxLogit, Perturbed
from src.detectors.conformal import benjamini_yekutieli
from src.network import ForwardPass, Network


class OfLogit(MaxLogit):
    """The logit of one class as a score."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def score(self, seen: ForwardPass) -> Tensor:
        return seen.logits[:, self.k]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(48, 3),
    )  # fmt: skip
    return Network(net, ["1", "3"], image_shape=(1, 8, 8)).eval()


def of_scores(score: Tensor, network: Network) -> ForwardPass:
    """A pass whose logits (B, L) are the scores of `OfLogit`."""
    blank = torch.zeros(len(score), 1, 8, 8)
    return ForwardPass(blank, score.double(), torch.zeros(len(score), 48), {}, {}, network)


def calibrated(score: Tensor, network: Network) -> Conformal:
    detector = Conformal([OfLogit(k) for k in range(score.shape[1])])
    index = torch.arange(len(score))
    detector.update(of_scores(score, network), torch.full_like(index, -1), index)
    detector.fit(network)
    return detector


def normal(n: int, seed: int, columns: int = 3) -> Tensor:
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(seed)).double()


def combined(p: list[float]) -> float:
    """Benjamini-Yekutieli, written out."""
    size = len(p)
    harmonic = sum(1 / j for j in range(1, size + 1))
    return min(size * harmonic * each / j for j, each in enumerate(sorted(p), start=1))


def test_p_values_are_ranks_combined_by_benjamini_yekutieli(network: Network) -> None:
    known, test = normal(40, 0).round(decimals=1), normal(30, 1).round(decimals=1)  # with ties
    detector = calibrated(known, network)
    expected = [
        min(1, combined([(1 + int((known[:, j] <= row[j]).sum())) / 41 for j in range(3)]))
        for row in test
    ]
    p = detector.p_value(of_scores(test, network))
    assert p.tolist() == pytest.approx(expected, rel=1e-12)
    assert p.min() > 0


def test_the_score_goes_up_between_the_ranks(network: Network) -> None:
    known = torch.tensor([[0.0], [1.0], [3.0]])
    detector = calibrated(known, network)
    inner = torch.tensor([[0.0], [0.25], [1.0], [2.0], [3.0]])
    score = detector.score(of_scores(inner, network))
    assert score.tolist() == pytest.approx([1 / 4, 1.25 / 4, 2 / 4, 2.5 / 4, 3 / 4])
    outer = torch.tensor([[-1e30], [-5.0], [-1.0], [-1e-9], [4.0], [9.0]])
    score = detector.score(of_scores(outer, network))
    assert (score[1:].diff() > 0).all()
    assert 0 < score[0] < score[1]
    assert score[3] == pytest.approx(1 / 4)
    assert 3 / 4 < score[4] < score[5] < 1


def test_the_score_is_below_the_p_value_by_at_most_one_rank(network: Network) -> None:
    detector, seen = calibrated(normal(40, 0), network), of_scores(normal(200, 1), network)
    score, plain = detector.score(seen), detector.p_value(seen)
    one = 3 * (1 + 1 / 2 + 1 / 3) / 41
    assert (score.clamp_max(1) <= plain).all()
    assert (score >= plain - one).all()
    assert score.max() > 1 == plain.max()  # so that the score does not tie where the p-value does


@pytest.mark.parametrize("shared", [0.0, 0.7, 1.0])
def test_it_flags_at_most_the_promised_share_of_id_images(network: Network, shared: float) -> None:
    def draw(n: int, seed: int) -> Tensor:
        return shared * normal(n, seed, 1) + (1 - shared) * normal(n, seed + 1000)

    p = [
        calibrated(draw(200, seed), network).p_value(of_scores(draw(500, seed + 500), network))
        for seed in range(20)
    ]
    assert (torch.cat(p) <= 0.1).double().mean() <= 0.1


def test_equal_scores_calibrate_too(network: Network) -> None:
    detector = calibrated(torch.full((20, 2), 5.0), network)
    seen = of_scores(torch.tensor([[4.0, 4.0], [5.0, 5.0], [6.0, 6.0]]), network)
    assert detector.score(seen).isfinite().all()
    assert (detector.score(seen) > 0).all()
    assert detector.p_value(seen).tolist() == pytest.approx([1.5 / 21, 1, 1])


def test_one_score_alone_is_its_own_p_value() -> None:
    p = torch.tensor([[0.2], [0.9]]).double()
    assert benjamini_yekutieli(p).equal(p[:, 0])


def test_by_default_every_block_and_the_energy_count(network: Network) -> None:
    detector = Conformal()
    assert list(map(repr, detector.columns(network))) == [
        "FeatureNorm(at='1')", "FeatureNorm(at='3')", "Energy(temperature=1.0)"
    ]  # fmt: skip
    image = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = network.observe(image)
        detector.update(seen, torch.zeros(30).long(), torch.arange(30))
        detector.fit(network)
    expected = torch.stack([seen.norm["1"], seen.norm["3"], seen.logits.logsumexp(dim=1)])
    torch.testing.assert_close(detector.known, expected.double().sort(dim=1).values.mT)


def test_what_would_calibrate_on_the_images_of_a_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected detectors without fit, .* got KNN; choose"):
        Conformal([Energy(), Perturbed(MSP()), KNN()])
    with pytest.raises(ValueError, match=r"expected detectors without fit, .* got none; choose"):
        Conformal([])


def test_a_block_that_does_not_exist_is_refused_early(network: Network) -> None:
    with pytest.raises(ValueError, match="expected a block of Sequential, got 'nope'"):
        Conformal([FeatureNorm(at="nope")]).check(network)
    assert Conformal([FeatureNorm(at="selected"), MSP()]).named_blocks() == ("selected",)

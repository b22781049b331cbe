"""Oracles of the detectors that score logits, and of those fitted on them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize, special, stats
from torch import Tensor, nn

from src.detectors import (
    GEN,
    MSP,
    Detector,
    Energy,
    Entropy,
    GradNorm,
    KLMatching,
    MaxLogit,
    OpenMax,
    TempScale,
)
from src.network import ForwardPass, Network

Array = NDArray[np.float64]
K, D = 7, 11


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, D, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(D, K)
    )
    return Network(net, ["1"], image_shape=(3, 8, 8)).eval()


def passed(network: Network, logits: Tensor, feature: Tensor | None = None) -> ForwardPass:
    """A pass of given logits and features: all that these detectors look at."""
    feature = torch.zeros(len(logits), D) if feature is None else feature
    return ForwardPass(torch.zeros(len(logits), 0), logits, feature, {}, {}, network)


def random_logits(n: int, seed: int, scale: float = 5.0) -> Tensor:
    return scale * torch.randn(n, K, generator=torch.Generator().manual_seed(seed))


def labelled(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits that are right four times out of five, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % K
    logits = 2 * torch.randn(n, K, generator=generator)
    logits[torch.arange(n), label] += 6 * (torch.rand(n, generator=generator) < 0.8)
    return logits, label


def fit(detector: Detector, network: Network, logits: Tensor, label: Tensor) -> None:
    detector.update(passed(network, logits), label, torch.arange(len(label)))
    detector.fit(network)


def probabilities(row: list[float], temperature: float = 1.0) -> list[float]:
    total = math.fsum(math.exp(logit / temperature) for logit in row)
    return [math.exp(logit / temperature) / total for logit in row]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1000.0])
def test_msp_is_the_largest_probability(network: Network, temperature: float) -> None:
    logits = random_logits(20, seed=0)
    expected = [max(probabilities(row, temperature)) for row in logits.double().tolist()]
    score = MSP(temperature).score(passed(network, logits))
    assert score.tolist() == pytest.approx(expected, rel=1e-6)
    assert score.dtype == torch.float64


def test_msp_tells_images_apart_that_float32_does_not(network: Network) -> None:
    logits = torch.zeros(12, 10)
    logits[:, 3] = torch.arange(20.0, 32.0)
    assert logits.softmax(dim=1).amax(dim=1).unique().numel() == 1
    assert MSP().score(passed(network, logits)).diff().gt(0).all()


def test_max_logit_is_the_largest_logit(network: Network) -> None:
    logits = random_logits(20, seed=0)
    score = MaxLogit().score(passed(network, logits))
    assert score.tolist() == [max(row) for row in logits.tolist()]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2, 100.0])
def test_energy_is_the_scaled_log_of_summed_exponentials(
    network: Network, temperature: float
) -> None:
    logits = random_logits(20, seed=0)
    expected = [
        temperature * math.log(math.fsum(math.exp(logit / temperature) for logit in row))
        for row in logits.double().tolist()
    ]
    score = Energy(temperature).score(passed(network, logits))
    assert score.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_energy_survives_logits_whose_exponential_does_not(network: Network) -> None:
    logits = torch.tensor([[1000.0, 0.0], [-1000.0, -1000.0]])
    score = Energy().score(passed(network, logits))
    torch.testing.assert_close(score, torch.tensor([1000.0, -1000.0 + math.log(2)]))


def test_entropy_is_that_of_the_probabilities(network: Network) -> None:
    logits = random_logits(20, seed=0)
    expected = [-stats.entropy(probabilities(row)) for row in logits.double().tolist()]
    score = Entropy().score(passed(network, logits))
    assert score.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("largest", [1, 3, K, 100])
def test_gen_sums_over_the_largest_probabilities(network: Network, largest: int) -> None:
    logits = random_logits(20, seed=0)
    expected = [
        -math.fsum((p * (1 - p)) ** 0.2 for p in sorted(probabilities(row))[-largest:])
        for row in logits.double().tolist()
    ]
    score = GEN(0.2, largest=largest).score(passed(network, logits))
    assert score.tolist() == pytest.approx(expected, rel=1e-9)


def test_scores_of_saturated_logits_are_finite(network: Network) -> None:
    logits = torch.tensor([[1e4] + [0.0] * (K - 1), [-1e4] + [0.0] * (K - 1)])
    for detector in (MSP(), Entropy(), GEN(), GradNorm(), Energy()):
        assert detector.score(passed(network, logits)).isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradnorm_is_the_norm_of_the_heads_gradient(network: Network, temperature: float) -> None:
    with torch.no_grad():
        seen = network.observe(torch.rand(6, 3, 8, 8))
    head = nn.Linear(D, K)
    head.load_state_dict(network.head.state_dict())
    head.double()
    for feature, score in zip(
        seen.feature, GradNorm(temperature).score(seen).tolist(), strict=True
    ):
        head.zero_grad()
        logits = head(feature.double()) / temperature
        (-logits.log_softmax(dim=0)).sum().backward()
        assert head.weight.grad is not None
        assert score == pytest.approx(head.weight.grad.abs().sum().item(), rel=1e-5)


def test_temp_scale_finds_the_temperature_of_largest_likelihood(network: Network) -> None:
    logits, label = labelled(210, seed=0)
    detector = TempScale()
    fit(detector, network, logits, label)

    def loss(temperature: Array) -> float:
        scaled = logits.double().numpy() / temperature
        chosen = scaled[np.arange(210), label.numpy()]
        return float((special.logsumexp(scaled, axis=1) - chosen).mean())

    best = optimize.minimize(loss, 1.5, method="Nelder-Mead", options={"xatol": 1e-9}).x[0]
    assert detector.temperature.item() == pytest.approx(best, rel=1e-5)
    test = random_logits(9, seed=1)
    expected = [max(probabilities(row, best)) for row in test.double().tolist()]
    score = detector.score(passed(network, test))
    assert score.tolist() == pytest.approx(expected, rel=1e-5)


def test_kl_matching_takes_the_most_similar_template(network: Network) -> None:
    logits = random_logits(60, seed=0)
    logits[:, 2] = -50  # a class that is never predicted
    detector = KLMatching()
    fit(detector, network, logits, torch.full((60,), -1))
    probability = special.softmax(logits.double().numpy(), axis=1)
    predicted = probability.argmax(axis=1)
    template = np.array(
        [probability[predicted == k].mean(axis=0) if k != 2 else np.eye(K)[2] for k in range(K)]
    ).clip(1e-12)
    test = random_logits(15, seed=1)
    rows = special.softmax(test.double().numpy(), axis=1)
    expected = [-min(special.rel_entr(p, d).sum() for d in template) for p in rows]
    score = detector.score(passed(network, test))
    assert score.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("alpha", [1, 3, 100])
def test_openmax_hands_unusual_logits_to_an_unknown_class(network: Network, alpha: int) -> None:
    logits, label = labelled(140, seed=0)
    logits[label == 4] = -logits[label == 4].abs()  # a class with hardly any right
    logits[(label == 4) & (logits.argmax(dim=1) == 4)] = 0.0
    detector = OpenMax(tail=8, alpha=alpha)
    fit(detector, network, logits, label)
    rows, classes = logits.double().numpy(), label.numpy()
    fits: dict[int, tuple[Array, float, float, float]] = {}
    for k in range(K):
        own = rows[(classes == k) & (rows.argmax(axis=1) == k)]
        if len(own) < 3:
            continue
        tail = np.sort(np.linalg.norm(own - own.mean(axis=0), axis=1))[-8:]
        location = tail[0] * (1 - 1e-6)
        shape, _, scale = stats.weibull_min.fit(tail - location, floc=0)
        fits[k] = own.mean(axis=0), shape, scale, location
    assert 4 not in fits
    assert len(fits) == K - 1
    expected = []
    test = random_logits(20, seed=1, scale=3)
    for row in test.double().numpy():
        unknown, revised, used = 0.0, row.copy(), min(alpha, K)
        for i, k in enumerate(np.argsort(-row)[:used]):
            if k not in fits:
                continue
            mean, shape, scale, location = fits[k]
            distance = np.linalg.norm(row - mean)
            weight = stats.weibull_min.cdf(distance, shape, loc=location, scale=scale)
            lost = row[k] * weight * (used - i) / used
            unknown, revised[k] = unknown + lost, row[k] - lost
        expected.append(1 - special.softmax([*revised, unknown])[-1])
    score = detector.score(passed(network, test))
    assert score.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("detector", [TempScale(), OpenMax()], ids=repr)
def test_unlabelled_images_are_refused_where_labels_are_needed(
    network: Network, detector: Detector
) -> None:
    with pytest.raises(ValueError, match=r"labels within 0..6, got label -1 \(-1: unlabelled\)"):
        fit(detector, network, random_logits(9, seed=0), torch.full((9,), -1))


@pytest.mark.parametrize(
    "detector", [MSP(), Entropy(), GEN(), GradNorm(), Energy(), MaxLogit()], ids=repr
)
def test_one_class_alone_is_refused_where_it_makes_a_constant(
    network: Network, detector: Detector
) -> None:
    seen = passed(network, torch.randn(4, 1))
    if isinstance(detector, Energy | MaxLogit):
        assert detector.score(seen).unique().numel() == 4
    else:
        with pytest.raises(ValueError, match="at least two classes, got one"):
            detector.score(seen)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Energy(0), "above zero, got 0"),
        (lambda: Energy(-1.0), "above zero, got -1.0"),
        (lambda: MSP(0), "above zero, got 0"),
        (lambda: GradNorm(-2), "above zero, got -2"),
        (lambda: GEN(1.5), "gamma=1.5"),
        (lambda: GEN(largest=0), "largest=0"),
        (lambda: OpenMax(tail=1), "tail=1"),
        (lambda: OpenMax(alpha=0), "alpha=0"),
    ],
)
def test_bad_arguments_are_refused(build: Callable[[], Detector], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

"""Oracles of the detectors that change the feature, the head, its length or the image."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from src.detectors import (
    ASH,
    DICE,
    MSP,
    NAN,
    SCALE,
    VRA,
    AdaSCALE,
    Detector,
    Energy,
    FeatureNorm,
    MatchedNorm,
    MaxLogit,
    Perturbed,
    ReAct,
    RescaledMap,
    SelectedNorm,
)
from src.network import ForwardPass, Network
from tests.fakes import two_map_network

Array = NDArray[np.float64]
D, K = 40, 5


@pytest.fixture
def network() -> Network:
    network = two_map_network(K, D, std=(0.2, 0.4, 0.5)).double()
    network.norm_ratio = {"1": 2.0, "3": 1.0}
    return network


@pytest.fixture
def seen(network: Network) -> ForwardPass:
    with torch.no_grad():
        return network.observe(images(30, seed=1))


def images(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 9, 9, generator=generator, dtype=torch.float64)


def fit(detector: Detector, network: Network) -> Array:
    """Fits on 60 images and returns their features."""
    with torch.no_grad():
        train = network.observe(images(60, seed=2))
        detector.update(train, torch.zeros(60, dtype=torch.int64), torch.arange(60))
        detector.fit(network)
    return train.feature.numpy()


def logits_by_hand(network: Network, feature: Array) -> list[float]:
    weight, bias = network.head.weight.detach().numpy(), network.head.bias.detach().numpy()
    return [
        math.fsum(w * h for w, h in zip(row, feature, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def energy_by_hand(logits: list[float]) -> float:
    return math.log(math.fsum(math.exp(logit) for logit in logits))


def check(
    detector: Detector, network: Network, seen: ForwardPass, shape: Callable[[Array], Array]
) -> None:
    """The score is the energy of the logits of the feature shaped by hand."""
    expected = [
        energy_by_hand(logits_by_hand(network, shape(feature))) for feature in seen.feature.numpy()
    ]
    with torch.no_grad():
        score = detector.score(seen).tolist()
    assert score == pytest.approx(expected, rel=1e-6)


def test_react_clips_at_the_percentile_of_all_activations(
    network: Network, seen: ForwardPass
) -> None:
    detector = ReAct(percent=80)
    threshold = np.percentile(fit(detector, network).astype(np.float32), 80)
    check(detector, network, seen, lambda h: np.minimum(h, threshold))


def test_vra_drops_the_weak_and_clips_the_strong(network: Network, seen: ForwardPass) -> None:
    detector = VRA(low=20, high=70)
    low, high = np.percentile(fit(detector, network).astype(np.float32), [20, 70])
    check(detector, network, seen, lambda h: np.where(h < low, 0, np.minimum(h, high)))


def test_dice_keeps_the_weights_of_largest_mean_contribution(
    network: Network, seen: ForwardPass
) -> None:
    detector = DICE(percent=75)
    mean = fit(detector, network).mean(axis=0)
    weight, bias = network.head.weight.detach().numpy(), network.head.bias.detach().numpy()
    largest = sorted((weight * mean).flatten(), reverse=True)[: round(0.25 * weight.size)]
    kept = weight * mean >= largest[-1]
    assert kept.sum() == 50
    expected = [
        energy_by_hand(
            [
                math.fsum(weight[k, j] * h[j] for j in range(D) if kept[k, j]) + bias[k]
                for k in range(K)
            ]
        )
        for h in seen.feature.numpy()
    ]
    assert detector.score(seen).tolist() == pytest.approx(expected, rel=1e-9)


def strongest_by_hand(feature: Array, percent: float) -> set[int]:
    kept = len(feature) - round(len(feature) * percent / 100)
    return set(sorted(range(len(feature)), key=lambda j: -feature[j])[:kept])


@pytest.mark.parametrize("percent", [0.0, 60.0, 90.0])
@pytest.mark.parametrize("variant", ["p", "b", "s"])
def test_ash_prunes_and_changes_what_is_left(
    network: Network, seen: ForwardPass, variant: str, percent: float
) -> None:
    def shape(feature: Array) -> Array:
        kept = strongest_by_hand(feature, percent)
        total, part = math.fsum(feature), math.fsum(feature[j] for j in kept)
        shaped = np.zeros(D)
        for j in kept:
            changed = {"p": feature[j], "b": total / len(kept)}
            shaped[j] = changed.get(variant, feature[j] * math.exp(total / part))
        return shaped

    check(ASH(variant=variant, percent=percent), network, seen, shape)  # type: ignore[arg-type]


def test_scale_multiplies_the_whole_feature(network: Network, seen: ForwardPass) -> None:
    def shape(feature: Array) -> Array:
        part = math.fsum(feature[j] for j in strongest_by_hand(feature, 85))
        return feature * math.exp(math.fsum(feature) / part)

    check(SCALE(), network, seen, shape)


def test_nothing_pruned_or_clipped_is_the_plain_energy(
    network: Network, seen: ForwardPass
) -> None:
    energy = Energy().score(seen)
    for detector in (ReAct(percent=100), DICE(percent=0), VRA(low=0, high=100)):
        with torch.no_grad():
            detector.update(seen, torch.zeros(30, dtype=torch.int64), torch.arange(30))
            detector.fit(network)
        torch.testing.assert_close(detector.score(seen), energy, rtol=1e-6, atol=0)
    torch.testing.assert_close(ASH(variant="p", percent=0).score(seen), energy)
    check(SCALE(percent=0), network, seen, lambda feature: math.e * feature)


def test_dice_without_sparsity_is_exactly_the_network(network: Network, seen: ForwardPass) -> None:
    detector = DICE(percent=0)
    fit(detector, network)
    torch.testing.assert_close(detector.score(seen), Energy().score(seen), rtol=1e-12, atol=0)


def test_a_negative_activation_counts_as_zero_and_a_dead_feature_scores(
    network: Network, seen: ForwardPass
) -> None:
    dead = ForwardPass(seen.image, seen.logits, -seen.feature, {}, seen.norm, network)
    none = energy_by_hand(network.head.bias.tolist())
    for variant in ("p", "b", "s"):
        score = ASH(variant=variant).score(dead)  # type: ignore[arg-type]
        assert score.tolist() == pytest.approx([none] * 30)
    assert SCALE().score(dead).isfinite().all()


@pytest.mark.parametrize("detector", [MSP(), MaxLogit(), Energy()], ids=repr)
def test_the_selected_norm_takes_the_place_of_the_features_length(
    network: Network, seen: ForwardPass, detector: Detector
) -> None:
    expected = []
    for norm, feature in zip(seen.norm["1"].tolist(), seen.feature.numpy(), strict=True):
        length = math.sqrt(math.fsum(h * h for h in feature))
        logits = logits_by_hand(network, feature * norm / length)
        exponentials = [math.exp(logit) for logit in logits]
        expected.append(
            {
                "MSP": max(exponentials) / math.fsum(exponentials),
                "MaxLogit": max(logits),
                "Energy": math.log(math.fsum(exponentials)),
            }[type(detector).__name__]
        )
    score = SelectedNorm(detector).score(seen)
    assert score.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_matched_length_is_on_average_that_of_the_feature(
    network: Network, seen: ForwardPass
) -> None:
    detector = MatchedNorm()
    assert detector.is_fitted_on_data
    assert detector.fit_on == "validation"
    for rows in torch.arange(len(seen.feature)).split(3):
        detector.update(seen.rows(rows), rows, rows)
    detector.fit(network)
    length, norm = detector.shape(seen).norm(dim=1), seen.norm[network.block("selected")].double()
    assert length.mean().item() == pytest.approx(seen.feature.double().norm(dim=1).mean().item())
    assert (length / norm).std().item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="a detector without fit within MatchedNorm, got ReAct"):
        MatchedNorm(ReAct())


def test_the_network_goes_on_from_a_rescaled_map(network: Network, seen: ForwardPass) -> None:
    for at, depth in (("1", 2), ("3", 4), ("selected", 2)):
        expected = []
        for image in seen.image:
            feature_map = network.net[:depth]((image[None] - network.mean) / network.std)[0]
            length = math.sqrt(math.fsum(channel.mean().item() ** 2 for channel in feature_map))
            logits = network.net[depth:](feature_map[None] / length)[0]
            expected.append(energy_by_hand(logits.tolist()))
        score = RescaledMap(Energy(), at=at).score(seen)
        assert score.tolist() == pytest.approx(expected, rel=1e-5)
    assert Energy().score(network.observe(seen.image)).equal(Energy().score(seen))
    with pytest.raises(ValueError, match="a detector without fit within RescaledMap, got ReAct"):
        RescaledMap(ReAct())


def test_nan_is_the_mean_of_the_positive_activations(network: Network) -> None:
    feature = torch.tensor([[3.0, 0.0, 1.0, 0.0], [-5.0, 2.0, -1.0, 0.0], [0.0, -1.0, -2.0, 0.0]])
    seen = ForwardPass(torch.empty(3, 0), torch.empty(3, 0), feature, {}, {}, network)
    assert NAN().score(seen).tolist() == [2.0, 2.0, 0.0]


def test_nan_of_a_block_pools_first_or_not(network: Network, seen: ForwardPass) -> None:
    for block in network.blocks:
        maps = seen.feature_map[block].numpy()
        pooled = [[float(channel.mean()) for channel in image] for image in maps]
        whole = [image.flatten().tolist() for image in maps]
        for first, values in ((True, pooled), (False, whole)):
            expected = [np.mean([a for a in row if a > 0]) for row in values]
            score = NAN(block, pool_first=first).score(seen)
            assert score.tolist() == pytest.approx(expected, rel=1e-5)


def step_by_hand(network: Network, image: Tensor, temperature: float, epsilon: float) -> Tensor:
    """ODIN in its authors' words: descend the cross-entropy of the prediction."""
    image = image.clone().requires_grad_()
    logits = network(image) / temperature
    nn.functional.cross_entropy(logits, logits.argmax(dim=1), reduction="sum").backward()
    assert image.grad is not None
    return (image - epsilon * image.grad.sign()).detach()


@pytest.mark.parametrize(("temperature", "epsilon"), [(1000.0, 0.0014), (1.0, 0.02)])
def test_odin_descends_the_cross_entropy_of_the_prediction(
    network: Network, seen: ForwardPass, temperature: float, epsilon: float
) -> None:
    moved = network(step_by_hand(network, seen.image, temperature, epsilon))
    expected = (moved / temperature).softmax(dim=1).amax(dim=1)
    score = Perturbed(MSP(temperature=temperature), epsilon=epsilon).score(seen)
    torch.testing.assert_close(score, expected.detach(), rtol=1e-12, atol=0)


def test_odin_without_step_and_temperature_is_msp(network: Network, seen: ForwardPass) -> None:
    torch.testing.assert_close(Perturbed(MSP(), epsilon=0).score(seen), MSP().score(seen))


def test_the_largest_gradient_alone_is_followed(network: Network, seen: ForwardPass) -> None:
    image = seen.image.clone().requires_grad_()
    MSP().score(network.observe(image)).sum().backward()
    assert image.grad is not None
    moved = seen.image.clone()
    for one, gradient in zip(moved, image.grad, strict=True):
        place = np.unravel_index(int(gradient.abs().argmax()), gradient.shape)
        one[place] += 0.3 * gradient[place].sign()
    score = Perturbed(MSP(), epsilon=0.3, pixels="largest").score(seen)
    torch.testing.assert_close(score, MSP().score(network.observe(moved)).detach())


def test_a_step_raises_a_norm_too(network: Network, seen: ForwardPass) -> None:
    for detector in (FeatureNorm(at="1"), SelectedNorm(Energy(), at="3")):
        raised = Perturbed(detector, epsilon=1e-4).score(seen)
        assert (raised > detector.score(seen)).all()


def test_adascale_scales_by_each_images_own_percentile(
    network: Network, seen: ForwardPass
) -> None:
    def shift(image: Tensor) -> float:
        leaf = image[None].clone().requires_grad_()
        network(leaf).amax().backward()
        assert leaf.grad is not None
        gradient = leaf.grad[0].flatten()
        moved = image.clone().flatten()
        for place in gradient.abs().argsort()[: round(0.05 * 243)].tolist():
            moved[place] += 0.5 * network.std.flatten()[place // 81] * gradient[place].sign()
        with torch.no_grad():
            before = network.observe(image[None]).feature[0].numpy()
            after = network.observe(moved.view_as(image)[None]).feature[0].numpy()
        order = sorted(range(D), key=lambda j: -before[j])
        first = math.fsum(max(after[j], 0) for j in order[:2])  # 5 % of 40
        return first + 10 * abs(before[order[0]] - after[order[0]])  # 1 %, at least one

    known = [shift(image) for image in images(60, seed=2)]
    expected: dict[str, list[float]] = {"a": [], "l": []}
    for image, feature in zip(seen.image, seen.feature.numpy(), strict=True):
        own = shift(image)
        below = sum(other <= own for other in known) / 60
        kept = strongest_by_hand(feature, 30 + (1 - below) * 60)
        ratio = math.fsum(feature) / math.fsum(feature[j] for j in kept)
        scaled = logits_by_hand(network, feature * math.exp(ratio))
        expected["a"].append(energy_by_hand(scaled))
        plain = logits_by_hand(network, feature)
        expected["l"].append(energy_by_hand([ratio**2 * logit for logit in plain]))
    for variant in ("a", "l"):
        detector = AdaSCALE(variant=variant, low=30, high=90)  # type: ignore[arg-type]
        fit(detector, network)
        assert detector.score(seen).tolist() == pytest.approx(expected[variant], rel=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ReAct(percent=101), "percent within 0..100 percent, got 101"),
        (lambda: VRA(low=60, high=50), "low <= high, got 60 and 50"),
        (lambda: DICE(percent=-1), "percent within 0..100 percent, got -1"),
        (lambda: ASH(variant="x"), "variant 'p', 'b' or 's', got 'x'"),
        (lambda: SCALE(percent=120), "percent within 0..100 percent, got 120"),
        (lambda: AdaSCALE(variant="x"), "variant 'a' or 'l', got 'x'"),
        (lambda: Perturbed(MSP(), pixels="most"), "pixels 'all' or 'largest', got 'most'"),
        (lambda: NAN(pool_first=False), "expected a block for pool_first=False, got at=None"),
        (lambda: ReAct(DICE()), "a detector without fit within ReAct, got DICE"),
    ],
)
def test_bad_arguments_are_refused(build: Callable[[], Detector], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

"""NECO and kernel PCA against scikit-learn, and where there are too few directions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import StandardScaler, normalize
from torch import Tensor

from src.detectors import NECO, CoP, CoRP, Detector, MaxLogit, expand_blocks
from src.detectors.subspaces import collapsed_dimension, principal_directions
from tests.detectors.test_subspaces import features, fit, new_network, of_features

Array = NDArray[np.float64]
D, N = 12, 200


def mixed(n: int, seed: int) -> Tensor:
    """(n, D) features whose dimensions differ in mean and spread and depend on each other."""
    mix = torch.randn(D, D, generator=torch.Generator().manual_seed(9)) / D**0.5
    scale = torch.logspace(-2, 2, D)
    return ((features(n, D, seed) @ mix + 0.3) * scale).double()


def neco_by_hand(known: Array, test: Array, count: float) -> Array:
    scaler = StandardScaler().fit(known)
    pca = PCA(count, svd_solver="full").fit(scaler.transform(known))
    standard = scaler.transform(test)
    part: Array = np.linalg.norm(pca.transform(standard), axis=1)
    return part / np.linalg.norm(standard, axis=1)


@pytest.mark.parametrize("dimension", [None, 1, D - 1])
@pytest.mark.parametrize("max_logit", [False, True])
def test_neco_is_the_part_within_the_principal_components_of_scikit_learn(
    dimension: int | None, max_logit: bool
) -> None:
    network, known, test = new_network(D).double(), mixed(N, seed=1), mixed(20, seed=2)
    expected = neco_by_hand(known.numpy(), test.numpy(), dimension or 0.9)
    if max_logit:
        expected = expected * of_features(test, network).logits.numpy().max(axis=1)
    detector = fit(NECO(dimension, max_logit=max_logit), known, network)
    score = detector.score(of_features(test, network))
    assert score.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_neco_within_the_subspace_is_the_largest_logit() -> None:
    network, flat = new_network(D), torch.zeros(N, D)
    flat[:, :5] = features(N, 5, seed=1)  # all that ID images and these do is in 5 dimensions
    seen = of_features(3 * flat[:9], network)
    score = fit(NECO(5, max_logit=True), flat, network).score(seen)
    torch.testing.assert_close(score, MaxLogit().score(seen).double())
    assert fit(NECO(5), flat, network).score(seen).tolist() == pytest.approx([1] * 9)


def test_a_dimension_that_was_dead_lowers_neco_when_it_fires() -> None:
    network, known = new_network(D), features(N, D, seed=1)
    known[:, 4] = 0.1
    detector, seen = fit(NECO(), known, network), known[:9].clone()
    assert detector.deviation[4] == 1
    assert detector.basis[4].abs().max() < 1e-12
    before = detector.score(of_features(seen, network))
    seen[:, 4] += 7
    after = detector.score(of_features(seen, network))
    length = ((seen.double() - detector.mean) / detector.deviation).square().sum(dim=1)
    torch.testing.assert_close(after, before * ((length - 49) / length).sqrt(), rtol=1e-5, atol=0)


def test_a_feature_at_the_mean_scores_zero_in_neco() -> None:
    known = torch.cat([features(N, D, seed=1), -features(N, D, seed=1)])
    network = new_network(D)
    score = fit(NECO(), known, network).score(of_features(torch.zeros(1, D), network))
    assert score.tolist() == [0]


@pytest.mark.parametrize("dimension", [D, D + 1])
def test_a_subspace_that_is_the_whole_space_is_refused_early(dimension: int) -> None:
    with pytest.raises(ValueError, match=f"below that of the feature, 12, got {dimension}"):
        expand_blocks({"neco": NECO(dimension)}, new_network(D))
    with pytest.raises(ValueError, match="below that of the feature, 1, got 1"):
        expand_blocks({"neco": NECO()}, new_network(1))


@pytest.mark.parametrize("dead", [0, 7])
def test_more_directions_than_images_vary_in_are_refused(dead: int) -> None:
    network, known = new_network(D), features(N if dead else 6, D, seed=1)
    known[:, :dead] = 0.7
    assert fit(NECO(5), known, network).basis.shape == (D, 5)
    with pytest.raises(ValueError, match="vary in at least 6 directions, got 5; use more images"):
        fit(NECO(6), known, network)


@pytest.mark.parametrize("build", [NECO, CoP, lambda: CoRP(width=16)])
def test_constant_features_are_refused(build: Callable[[], Detector]) -> None:
    with pytest.raises(ValueError, match="vary in at least 1 directions, got 0"):
        fit(build(), features(1, D, seed=1).expand(N, D), new_network(D))


@pytest.mark.parametrize("build", [NECO, CoP, lambda: CoRP(width=16)])
def test_fewer_images_than_dimensions_leave_finite_scores(build: Callable[[], Detector]) -> None:
    network, known = new_network(D), features(3, D, seed=1)
    detector = fit(build(), known, network)
    assert detector.basis.shape[1] <= 2
    seen = of_features(torch.cat([features(9, D, seed=2), torch.zeros(1, D)]), network)
    assert detector.score(seen).isfinite().all()


def test_principal_directions_are_as_few_as_explain_the_share() -> None:
    covariance = torch.diag(torch.tensor([1.0, 4.0, 0.0, 3.0, 2.0]).double())
    for share, count in ((0.39, 1), (0.41, 2), (0.71, 3), (0.91, 4), (0.999, 4)):
        basis = principal_directions(covariance, share)
        assert basis.abs().argmax(dim=0).tolist() == [1, 3, 4, 0][:count]
    for fewest, count in ((1, 2), (3, 3), (9, 4)):
        assert principal_directions(covariance, 0.5, at_least=fewest).shape[1] == count
    assert principal_directions(torch.eye(3).double(), 0.999).shape[1] == 2  # one is left out


@pytest.mark.parametrize(("size", "classes", "expected"), [(12, 4, 3), (5, 5, 4), (4, 5, 1)])
def test_collapse_takes_one_dimension_less_than_classes(
    size: int, classes: int, expected: int
) -> None:
    assert collapsed_dimension(new_network(size, classes)) == expected


@pytest.mark.parametrize("build", [NECO, CoP, lambda: CoRP(width=64)])
def test_the_direction_of_no_class_is_left_out(build: Callable[[], Detector]) -> None:
    classes = 21  # each of 20 directions explains 5 % of the variance
    network, label = new_network(32, classes), torch.arange(1050) % classes
    known = torch.eye(classes, 32)[label] + 0.5
    known[:, :classes] += 0.01 * features(1050, classes, seed=1)
    detector = fit(build(), known, network)
    assert detector.basis.shape[1] == classes - 1
    own = detector.score(of_features(known[:classes], network))
    torch.testing.assert_close(own, own.mean().expand(classes), rtol=0.1, atol=0.02)


def error_by_hand(known: Array, test: Array, share: float) -> Array:
    pca = PCA(share, svd_solver="full").fit(known)
    rebuilt = pca.inverse_transform(pca.transform(test))
    error: Array = np.linalg.norm(test - rebuilt, axis=1)
    return error


@pytest.mark.parametrize("share", [None, 0.3, 0.99])
def test_cop_is_the_reconstruction_error_of_scikit_learn(share: float | None) -> None:
    network, known, test = new_network(D, 2).double(), mixed(N, seed=1), mixed(20, seed=2)
    expected = error_by_hand(normalize(known.numpy()), normalize(test.numpy()), share or 0.9)
    score = fit(CoP(share), known, network).score(of_features(test, network))
    assert score.tolist() == pytest.approx((-expected).tolist(), rel=1e-6)


def test_corp_is_that_of_its_random_features() -> None:
    network, known, test = new_network(D).double(), features(N, D, seed=1), features(20, D, seed=2)
    detector = fit(CoRP(0.6, gamma=0.7, width=50), known, network)
    frequency, phase = detector.frequency.numpy(), detector.phase.numpy()

    def mapped(row: Tensor) -> Array:
        wave: Array = np.cos(normalize(row.double().numpy()) @ frequency + phase)
        return np.sqrt(2 / 50) * wave

    expected = error_by_hand(mapped(known), mapped(test), 0.6)
    score = detector.score(of_features(test.double(), network))
    assert score.tolist() == pytest.approx((-expected).tolist(), rel=1e-6)


def test_the_random_features_of_corp_have_the_gaussian_kernel() -> None:
    network, row = new_network(D), features(30, D, seed=1)
    detector = CoRP(gamma=1.5, width=20_000)
    detector.draw(row)
    wave = detector.mapped(row)
    expected = rbf_kernel(normalize(row.double().numpy()), gamma=1.5)
    np.testing.assert_allclose((wave @ wave.mT).numpy(), expected, atol=0.04)  # 4 deviations
    with pytest.raises(RuntimeError, match="expected a fitted CoRP"):
        detector.score(of_features(row, network))


def test_the_random_features_depend_on_the_seed_alone() -> None:
    network, known = new_network(D), features(N, D, seed=1)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (fit(CoRP(width=16), known, network) for _ in range(2))
    assert torch.get_rng_state().equal(state)
    assert first.frequency.equal(second.frequency)
    assert first.phase.equal(second.phase)
    other = fit(CoRP(width=16, seed=1), known, network)
    assert not other.frequency.equal(first.frequency)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NECO(0), "dimension of at least 1, got 0"),
        (lambda: CoP(1.0), "share of the variance between 0 and 1, got 1.0"),
        (lambda: CoRP(0.0), "share of the variance between 0 and 1, got 0.0"),
        (lambda: CoRP(gamma=0), "gamma above 0 and a width of at least 2, got gamma=0"),
        (lambda: CoRP(width=1), "width of at least 2, got gamma=2.0, width=1"),
    ],
)
def test_bad_arguments_are_refused(build: Callable[[], Detector], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

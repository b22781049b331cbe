"""Oracles of the detectors that compare features with those of ID images."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import PowerTransformer, StandardScaler
from torch import Tensor

from src.detectors import (
    FDBD,
    KNN,
    NCI,
    RMDS,
    SHE,
    CADRef,
    CombOOD,
    Detector,
    DividedByNAN,
    Mahalanobis,
    MultiLayerMahalanobis,
    NNGuide,
    Residual,
    ViM,
)
from src.detectors.neighbours import nearest_similarities
from src.network import ForwardPass, Network
from tests.fakes import two_map_network

Array = NDArray[np.float64]
K, D, N = 4, 12, 90


@pytest.fixture
def network() -> Network:
    network = two_map_network(K, D).double()
    network.norm_ratio = {"1": 2.0, "3": 1.0}
    return network


def passed(network: Network, n: int, seed: int) -> tuple[ForwardPass, Tensor]:
    """Real logits and maps, and features of four clusters whose labels are not all predicted."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(n, 3, 9, 9, generator=generator, dtype=torch.float64)
    label = torch.arange(n) % K
    with torch.no_grad():
        seen = network.observe(image + label.view(-1, 1, 1, 1) / 10)
        noise = torch.randn(n, D, generator=generator, dtype=torch.float64)
        feature = (noise + 2 * torch.eye(K, D)[label].double()).relu()
        logits = network.head(feature)
    seen = ForwardPass(
        seen.image, logits, feature, seen.feature_map, seen.norm, network, seen.reading
    )
    return seen, label


@pytest.fixture
def train(network: Network) -> tuple[ForwardPass, Tensor]:
    return passed(network, N, seed=1)


@pytest.fixture
def seen(network: Network) -> ForwardPass:
    return passed(network, 17, seed=2)[0]


def fit(detector: Detector, train: tuple[ForwardPass, Tensor]) -> Detector:
    detector.update(*train, torch.arange(len(train[1])))
    detector.fit(train[0].network)
    return detector


def score_of(detector: Detector, seen: ForwardPass) -> list[float]:
    with torch.no_grad():
        score: list[float] = detector.score(seen).tolist()
    return score


def gaussian_by_hand(row: Array, label: Array, test: Array) -> tuple[Array, Array]:
    """Squared distances (n, K) within classes and (n,) from one Gaussian of all."""
    means = [row[label == k].mean(axis=0) for k in range(K) if (label == k).any()]
    within = np.vstack([row[label == k] - row[label == k].mean(axis=0) for k in range(K)])
    shared = EmpiricalCovariance(assume_centered=True).fit(within)
    whole = EmpiricalCovariance().fit(row)
    distance = np.array([shared.mahalanobis(test - mean) for mean in means]).T
    return distance, whole.mahalanobis(test)


def unit(row: Array) -> Array:
    unit: Array = row / np.linalg.norm(row, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("at", [None, "1", "selected", "3"])
def test_mahalanobis_and_rmds_are_those_of_scikit_learn(
    train: tuple[ForwardPass, Tensor], seen: ForwardPass, at: str | None, normalize: bool
) -> None:
    def feature(of: ForwardPass) -> Array:
        if at is None:
            row = of.feature.numpy()
        else:
            row = of.feature_map["1" if at == "selected" else at].numpy().mean(axis=(2, 3))
        return unit(row) if normalize else row

    within, whole = gaussian_by_hand(feature(train[0]), train[1].numpy(), feature(seen))
    score = score_of(fit(Mahalanobis(at, normalize=normalize), train), seen)
    assert score == pytest.approx((-within.min(axis=1)).tolist(), rel=1e-6)
    score = score_of(fit(RMDS(at, normalize=normalize), train), seen)
    expected = (whole - within.min(axis=1)).tolist()
    assert score == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_multi_layer_mahalanobis_averages_distances_over_their_dimension(
    train: tuple[ForwardPass, Tensor], seen: ForwardPass
) -> None:
    relative = []
    for block, channels in (("1", 6), ("3", D)):
        row, test = (of.feature_map[block].numpy().mean(axis=(2, 3)) for of in (train[0], seen))
        relative.append(gaussian_by_hand(row, train[1].numpy(), test)[0].min(axis=1) / channels)
    score = score_of(fit(MultiLayerMahalanobis(), train), seen)
    assert score == pytest.approx((-np.mean(relative, axis=0)).tolist(), rel=1e-6)


def test_a_training_image_is_as_far_from_its_class_as_there_are_dimensions(
    train: tuple[ForwardPass, Tensor],
) -> None:
    row, label = train[0].feature.numpy(), train[1].numpy()
    distance, _ = gaussian_by_hand(row, label, row)
    assert distance[np.arange(N), label].mean() == pytest.approx(D, rel=1e-9)


def test_rmds_does_not_depend_on_the_units_of_the_features(
    train: tuple[ForwardPass, Tensor], seen: ForwardPass, network: Network
) -> None:
    mix = torch.randn(D, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def mixed(of: ForwardPass) -> ForwardPass:
        return ForwardPass(of.image, of.logits, of.feature @ mix + 5, {}, {}, network)

    expected = score_of(fit(RMDS(), train), seen)
    score = score_of(fit(RMDS(), (mixed(train[0]), train[1])), mixed(seen))
    assert score == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_a_direction_that_never_varied_does_not_count(
    train: tuple[ForwardPass, Tensor], seen: ForwardPass, network: Network
) -> None:
    def dead(of: ForwardPass, value: float) -> ForwardPass:
        feature = of.feature.clone()
        feature[:, 5] = value
        return ForwardPass(of.image, of.logits, feature, {}, {}, network)

    without = [i for i in range(D) if i != 5]
    row, test = train[0].feature.numpy()[:, without], seen.feature.numpy()[:, without]
    expected = -gaussian_by_hand(row, train[1].numpy(), test)[0].min(axis=1)
    detector = fit(Mahalanobis(), (dead(train[0], 0.0), train[1]))
    assert score_of(detector, dead(seen, 9.0)) == pytest.approx(expected.tolist(), rel=1e-6)


def test_a_class_without_images_is_left_out(
    train: tuple[ForwardPass, Tensor], seen: ForwardPass
) -> None:
    kept = train[1] != 2
    few = (train[0].rows(kept), train[1][kept])
    for detector in (Mahalanobis(), RMDS(), SHE(), CADRef(), MultiLayerMahalanobis()):
        assert np.isfinite(score_of(fit(detector, few), seen)).all()


@pytest.mark.parametrize("k", [1, 7, N])
def test_knn_is_the_distance_of_scikit_learn(
    train: tuple[ForwardPass, Tensor], seen: ForwardPass, k: int
) -> None:
    bank, test = unit(train[0].feature.numpy()), unit(seen.feature.numpy())
    expected = -NearestNeighbors(n_neighbors=k).fit(bank).kneighbors(test)[0][:, -1]
    score = score_of(fit(KNN(k), train), seen)
    assert score == pytest.approx(expected.tolist(), abs=1e-5)
    positive = [np.mean([h for h in row if h > 0]) for row in seen.feature.numpy()]
    score = score_of(fit(DividedByNAN(KNN(k)), train), seen)
    assert score == pytest.approx((expected / positive).tolist(), abs=1e-4)


def test_knn_does_not_depend_on_the_length_of_the_features(
    train: tuple[ForwardPass, Tensor], seen: ForwardPass, network: Network
) -> None:
    longer = ForwardPass(seen.image, seen.logits, 40 * seen.feature, {}, {}, network)
    detector = fit(KNN(5), train)
    assert score_of(detector, longer) == pytest.approx(score_of(detector, seen), abs=1e-5)


def test_neighbours_are_the_same_however_the_bank_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(9, 5, generator=generator)
    bank = torch.randn(100, 5, generator=generator)
    expected = (row @ bank.mT).sort(dim=1, descending=True).values[:, :7]
    for size in (1, 9 * 8, 9 * 33, 10_000):
        monkeypatch.setattr("src.detectors.neighbours.SIMILARITIES", size)
        torch.testing.assert_close(nearest_similarities(row, bank, 7), expected)


def test_a_bank_keeps_a_share_that_depends_on_nothing_but_the_indices(
    train: tuple[ForwardPass, Tensor],
) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    banks = []
    for rows in (torch.arange(N).split(N), torch.arange(N).split(7), order.split(31)):
        detector = KNN(3, bank_size=20)
        for row in rows:
            detector.update(train[0].rows(row), train[1][row], row)
        detector.fit(train[0].network)
        banks.append(detector.bank)
    assert len(banks[0]) == 20
    assert banks[0].equal(banks[1])
    assert banks[0].equal(banks[2])


def test_nnguide_weighs_energy_by_guidance(
    train: tuple[ForwardPass, Tensor], seen: ForwardPass
) -> None:
    def energy(of: ForwardPass) -> Array:
        return np.log(np.exp(of.logits.numpy()).sum(axis=1))

    bank = energy(train[0])[:, None] * unit(train[0].feature.numpy())
    guidance = np.sort(unit(seen.feature.numpy()) @ bank.T, axis=1)[:, -6:].mean(axis=1)
    score = score_of(fit(NNGuide(6), train), seen)
    assert score == pytest.approx((energy(seen) * guidance).tolist(), rel=1e-4)


def subspace_by_hand(network: Network, row: Array, dimension: int) -> tuple[Array, Array]:
    """Origin, and projector on what is outside of the principal subspace."""
    weight, bias = network.head.weight.detach().numpy(), network.head.bias.detach().numpy()
    origin = -np.linalg.pinv(weight) @ bias
    centred = row - origin
    _, vectors = np.linalg.eigh(centred.T @ centred / len(row))
    outside = vectors[:, : row.shape[1] - dimension]
    return origin, outside @ outside.T


@pytest.mark.parametrize("dimension", [None, 1, 11])
def test_vim_and_residual_follow_the_paper(
    network: Network, train: tuple[ForwardPass, Tensor], seen: ForwardPass, dimension: int | None
) -> None:
    row, test = train[0].feature.numpy(), seen.feature.numpy()
    origin, projector = subspace_by_hand(network, row, dimension or D // 2)
    length = np.linalg.norm((test - origin) @ projector, axis=1)
    known = np.linalg.norm((row - origin) @ projector, axis=1)
    score = score_of(fit(Residual(dimension), train), seen)
    assert score == pytest.approx((-length).tolist(), rel=1e-6)
    alpha = train[0].logits.numpy().max(axis=1).mean() / known.mean()
    energy = np.log(np.exp(seen.logits.numpy()).sum(axis=1))
    score = score_of(fit(ViM(dimension), train), seen)
    assert score == pytest.approx((energy - alpha * length).tolist(), rel=1e-4)


@pytest.mark.parametrize("detector", [ViM(D), Residual(D), Residual(D + 3)], ids=repr)
def test_a_dimension_that_leaves_no_null_space_is_refused(
    detector: Detector, train: tuple[ForwardPass, Tensor]
) -> None:
    with pytest.raises(ValueError, match="below that of the feature, 12, got 1"):
        fit(detector, train)


def test_features_within_the_subspace_leave_no_scale_for_vim(
    network: Network, train: tuple[ForwardPass, Tensor]
) -> None:
    network.head.bias.data.zero_()
    flat = torch.zeros_like(train[0].feature)
    flat[:, 0] = torch.arange(N) / 8  # exact in binary, as are its eigenvectors
    inside = ForwardPass(train[0].image, train[0].logits, flat, {}, {}, network)
    with pytest.raises(ValueError, match="outside of the principal subspace, got none"):
        fit(ViM(3), (inside, train[1]))


def test_she_is_the_inner_product_with_the_pattern_of_the_predicted_class(
    train: tuple[ForwardPass, Tensor], seen: ForwardPass
) -> None:
    row, label = train[0].feature.numpy(), train[1].numpy()
    right = train[0].logits.numpy().argmax(axis=1) == label
    patterns = {
        k: row[right & (label == k)].mean(axis=0)
        if (right & (label == k)).any()
        else row[right].mean(axis=0)
        for k in range(K)
    }
    expected = [
        math.fsum(h * patterns[int(logits.argmax())])
        for h, logits in zip(seen.feature.numpy(), seen.logits.numpy(), strict=True)
    ]
    assert score_of(fit(SHE(), train), seen) == pytest.approx(expected, rel=1e-9)


def test_fdbd_averages_distances_to_decision_boundaries(
    network: Network, train: tuple[ForwardPass, Tensor], seen: ForwardPass
) -> None:
    mean, weight = train[0].feature.numpy().mean(axis=0), network.head.weight.detach().numpy()
    expected = []
    for h, logits in zip(seen.feature.numpy(), seen.logits.numpy(), strict=True):
        own = int(logits.argmax())
        boundary = [
            abs(logits[k] - logits[own]) / np.linalg.norm(weight[k] - weight[own])
            for k in range(K)
            if k != own
        ]
        expected.append(np.mean(boundary) / np.linalg.norm(h - mean))
    assert score_of(fit(FDBD(), train), seen) == pytest.approx(expected, rel=1e-9)


def test_classes_of_the_same_weights_have_no_boundary(
    network: Network, train: tuple[ForwardPass, Tensor], seen: ForwardPass
) -> None:
    network.head.weight.data[1] = network.head.weight.data[0]
    assert np.isfinite(score_of(fit(FDBD(), train), seen)).all()


def test_nci_adds_proximity_and_norm(
    network: Network, train: tuple[ForwardPass, Tensor], seen: ForwardPass
) -> None:
    mean, weight = train[0].feature.numpy().mean(axis=0), network.head.weight.detach().numpy()
    expected = [
        math.fsum(weight[int(logits.argmax())] * (h - mean)) / np.linalg.norm(h - mean)
        + 0.01 * np.abs(h).sum()
        for h, logits in zip(seen.feature.numpy(), seen.logits.numpy(), strict=True)
    ]
    assert score_of(fit(NCI(0.01), train), seen) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("decouple", [True, False])
def test_cadref_splits_the_relative_error_by_the_sign_of_the_weight(
    network: Network, train: tuple[ForwardPass, Tensor], seen: ForwardPass, decouple: bool
) -> None:
    network.head.bias.data += 3  # all energies are above zero
    for of in (train[0], seen):
        of.logits.copy_(network.head(of.feature).detach())
    weight = network.head.weight.detach().numpy()
    row, predicted = train[0].feature.numpy(), train[0].logits.numpy().argmax(axis=1)
    usual = np.log(np.exp(train[0].logits.numpy()).sum(axis=1)).mean()
    expected = []
    for h, logits in zip(seen.feature.numpy(), seen.logits.numpy(), strict=True):
        own = int(logits.argmax())
        known = row[predicted == own] if (predicted == own).any() else row
        error = [
            np.sign(w) * (value - mean)
            for w, value, mean in zip(weight[own], h, known.mean(axis=0), strict=True)
        ]
        raised = math.fsum(e for e in error if e > 0) / np.abs(h).sum()
        lowered = -math.fsum(e for e in error if e < 0) / np.abs(h).sum()
        energy = math.log(np.exp(logits).sum())
        expected.append(-(raised / energy + lowered / usual) if decouple else -(raised + lowered))
    score = score_of(fit(CADRef(decouple=decouple), train), seen)
    assert score == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "detector", [Mahalanobis(), RMDS(), SHE(), MultiLayerMahalanobis()], ids=repr
)
def test_unlabelled_images_are_refused_where_labels_are_needed(
    detector: Detector, train: tuple[ForwardPass, Tensor]
) -> None:
    with pytest.raises(ValueError, match=r"labels within 0..3, got label -1 \(-1: unlabelled\)"):
        fit(detector, (train[0], torch.full((N,), -1)))


@pytest.mark.parametrize("detector", [KNN(N + 1), NNGuide(N + 1)], ids=repr)
def test_more_neighbours_than_images_are_refused(
    detector: Detector, train: tuple[ForwardPass, Tensor]
) -> None:
    with pytest.raises(ValueError, match=r"at least k=91 ID images in the bank, got 90"):
        fit(detector, train)


def test_constant_features_have_no_distance(
    network: Network, train: tuple[ForwardPass, Tensor]
) -> None:
    constant = ForwardPass(
        train[0].image, train[0].logits, torch.ones_like(train[0].feature), {}, {}, network
    )
    with pytest.raises(ValueError, match="features that vary among ID images, got constant ones"):
        fit(Mahalanobis(), (constant, train[1]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: KNN(0), "k of at least 1, got 0"),
        (lambda: NNGuide(0), "k of at least 1, got 0"),
        (lambda: KNN(bank_size=0), "at least one row, got size=0"),
        (lambda: Residual(0), "dimension of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(build: Callable[[], Detector], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_combood_adds_the_densities_of_neighbours_and_of_extremes(
    train: tuple[ForwardPass, Tensor], seen: ForwardPass
) -> None:
    def extremes(of: ForwardPass) -> Array:
        maps = [m.numpy().astype(np.float32) for m in of.feature_map.values()]
        columns = [reduce(m, axis=(1, 2, 3)) for m in maps for reduce in (np.min, np.max)]
        columns += [of.logits.numpy().min(axis=1), of.logits.numpy().max(axis=1)]
        return np.stack(columns, axis=1).astype(np.float64)

    known, test = extremes(train[0]), extremes(seen)
    varies = known.std(axis=0) > 0
    scaler = StandardScaler().fit(known[:, varies])
    power = PowerTransformer().fit(scaler.transform(known[:, varies]))
    normal, row = (power.transform(scaler.transform(x[:, varies])) for x in (known, test))
    inverse = np.linalg.inv(normal.T @ normal / (N - 1) + np.eye(normal.shape[1]))
    bank, feature = unit(train[0].feature.numpy()), unit(seen.feature.numpy())
    distance = NearestNeighbors(n_neighbors=4).fit(bank).kneighbors(feature)[0][:, -1]
    expected = -D * np.log(distance**2) - np.einsum("bi,ij,bj->b", row, inverse, row)
    score = score_of(fit(CombOOD(4), train), seen)
    assert score == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-3)

"""Gaussians where arithmetic is hard: singular, far from the origin, of one class."""

import pytest
import torch
from torch import Tensor, nn

from src.detectors import RMDS, Detector, Mahalanobis, MultiLayerMahalanobis
from src.detectors.gaussians import nearest, total, whitening
from src.metrics.statistics import ClassMoments, Moments
from src.network import ForwardPass, Network

K, D, N = 4, 12, 4000


def new_network(num_classes: int = K) -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, D, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(D, num_classes),
    )  # fmt: skip
    return Network(net, ["1"], image_shape=(1, 5, 5)).eval()


def of_features(feature: Tensor, network: Network) -> ForwardPass:
    logits = network.head(feature.float()).detach()
    return ForwardPass(torch.zeros(len(feature), 1, 5, 5), logits, feature, {}, {}, network)


def clusters(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """(n, D) features of K clusters, and their labels."""
    label = torch.arange(n) % K
    noise = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    return noise + 2 * torch.eye(K, D)[label], label


def fit(detector: Detector, feature: Tensor, label: Tensor, network: Network) -> Detector:
    for row in torch.arange(len(label)).split(100):
        detector.update(of_features(feature[row], network), label[row], row)
    detector.fit(network)
    return detector


@pytest.mark.parametrize("build", [Mahalanobis, RMDS])
@pytest.mark.parametrize("constant", [0.0, 5.137, 31.37, 101.37, 1013.7])
def test_rounding_of_a_constant_channel_is_not_taken_for_variance(
    build: type[Mahalanobis], constant: float
) -> None:
    network = new_network()
    (feature, label), (test, _) = clusters(N, seed=1), clusters(50, seed=2)
    feature[:, 5], test[:, 5] = constant, constant
    detector = fit(build(), feature, label, network)
    expected = detector.score(of_features(test, network))
    test[:, 5] += 1
    torch.testing.assert_close(
        detector.score(of_features(test, network)), expected, rtol=1e-6, atol=1e-6
    )
    assert detector.whitening.shape == (D, D - 1)


@pytest.mark.parametrize("build", [Mahalanobis, RMDS])
def test_fewer_images_than_dimensions_leave_the_pseudo_inverse(
    build: type[Mahalanobis],
) -> None:
    network, (feature, label), (test, _) = new_network(), clusters(9, seed=1), clusters(20, seed=2)
    row, new = feature.double(), test.double()
    mean = torch.stack([row[label == k].mean(dim=0) for k in range(K)])
    within = row - mean[label]
    inverse = torch.linalg.pinv(within.T @ within / len(row), rtol=1e-10)
    expected = torch.stack(
        [-min((x - m) @ inverse @ (x - m) for m in mean) for x in new]
    )  # fmt: skip
    if build is RMDS:
        inverse = torch.linalg.pinv(row.T.cov(correction=0), rtol=1e-10)
        expected += torch.stack([(x - row.mean(0)) @ inverse @ (x - row.mean(0)) for x in new])
    score = fit(build(), feature, label, network).score(of_features(test, network))
    torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-6)


def test_distances_far_from_the_origin_keep_their_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(200, 30, generator=generator).double()
    row = mean[:60] + torch.randn(60, 30, generator=generator)
    expected = (row[:, None] - mean).square().sum(dim=2).amin(dim=1)
    for offset in (0, 1e3, 1e6):
        torch.testing.assert_close(
            nearest(row + offset, mean + offset), expected, rtol=1e-8, atol=1e-12
        )


def test_moments_of_all_images_follow_from_those_of_the_classes() -> None:
    feature, label = clusters(500, seed=1)
    classes, whole = ClassMoments(), Moments()
    classes.update(feature, label, K + 2)  # two classes have no image
    whole.update(feature)
    found, expected = total(classes.compute()), whole.compute()
    assert found.count == expected.count
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.covariance, expected.covariance)


def test_whitened_images_have_unit_covariance() -> None:
    feature, label = clusters(500, seed=1)
    moments = ClassMoments()
    moments.update(feature, label, K)
    gaussian = moments.compute()
    white = (feature.double() - gaussian.mean[label]) @ whitening(gaussian)
    torch.testing.assert_close(white.T @ white / 500, torch.eye(D).double())


def test_one_class_is_one_gaussian_and_leaves_rmds_nothing() -> None:
    network, (feature, _) = new_network(num_classes=1), clusters(N, seed=1)
    label = torch.zeros(N, dtype=torch.int64)
    row = feature.double()
    inverse = torch.linalg.inv(row.T.cov(correction=0))
    expected = [-(x - row.mean(dim=0)) @ inverse @ (x - row.mean(dim=0)) for x in row[:20]]
    score = fit(Mahalanobis(), feature, label, network).score(of_features(feature[:20], network))
    torch.testing.assert_close(score, torch.stack(expected), rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match=r"of at least two classes, got one, .* use Mahalanobis"):
        fit(RMDS(), feature, label, network)


def test_features_of_length_one_hide_how_bright_an_image_is() -> None:
    network, (feature, label) = new_network(), clusters(N, seed=1)
    for build in (Mahalanobis, RMDS):
        detector = fit(build(normalize=True), feature, label, network)
        score = detector.score(of_features(feature[:20], network))
        brighter = detector.score(of_features(1000 * feature[:20], network))
        torch.testing.assert_close(brighter, score, rtol=1e-4, atol=1e-4)
        assert detector.score(of_features(torch.zeros(1, D), network)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_do_not_overflow(dtype: torch.dtype) -> None:
    network, (feature, label) = new_network(), clusters(N, seed=1)
    feature = (1000 * feature).to(dtype)  # squares are beyond float16
    for build in (Mahalanobis, RMDS):
        detector = fit(build(), feature, label, network)
        assert detector.score(of_features(feature, network)).isfinite().all()
        own = -Mahalanobis.score(detector, of_features(feature, network)).mean()
        assert 0.7 * D < own <= D  # the nearest mean is at most as far as the own one


def test_blocks_are_named_and_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least one block, got none"):
        MultiLayerMahalanobis([])
    with pytest.raises(ValueError, match="expected a block of Sequential, got 'layer4'"):
        MultiLayerMahalanobis(["layer4"]).reads(new_network())
    assert repr(MultiLayerMahalanobis(["1"])).startswith("MultiLayerMahalanobis(blocks=('1',)")

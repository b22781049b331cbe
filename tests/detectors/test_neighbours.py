"""Neighbours at the edges: no direction, ties, half precision, one image, small memory."""

import pytest
import torch
from torch import Tensor, nn

from src.detectors import KNN, Detector, NNGuide
from src.detectors.neighbours import nearest_similarities
from src.network import ForwardPass, Network

D, N = 8, 60


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, D, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(D, 3)
    )
    return Network(net, ["1"], image_shape=(1, 5, 5)).eval()


@pytest.fixture
def feature() -> Tensor:
    """(N, D) features, none of them below zero."""
    return torch.rand(N, D, generator=torch.Generator().manual_seed(0))


def of_features(feature: Tensor, network: Network) -> ForwardPass:
    logits = network.head(feature.float()).detach() + 5
    return ForwardPass(torch.zeros(len(feature), 1, 5, 5), logits, feature, {}, {}, network)


def fit(detector: Detector, seen: ForwardPass) -> Detector:
    n = len(seen.feature)
    detector.update(seen, torch.full((n,), -1), torch.arange(n))
    detector.fit(seen.network)
    return detector


def test_knn_of_a_block_compares_mean_pooled_maps(network: Network) -> None:
    generator = torch.Generator().manual_seed(1)
    known, test = (network.observe(torch.rand(n, 1, 5, 5, generator=generator)) for n in (N, 7))
    both = [seen.feature_map["1"].double().mean(dim=(2, 3)) for seen in (known, test)]
    bank, row = (x / x.norm(dim=1, keepdim=True) for x in both)
    expected = [-sorted((x - y).norm().item() for y in bank)[3] for x in row]
    score = fit(KNN(4, at="1"), known).score(test)
    assert score.tolist() == pytest.approx(expected, abs=1e-3)


def test_an_image_of_the_bank_is_its_own_first_neighbour(
    network: Network, feature: Tensor
) -> None:
    seen = of_features(feature, network)
    assert fit(KNN(1), seen).score(seen).abs().max() <= 1e-3
    assert fit(KNN(2), seen).score(seen).max() < -1e-2


def test_as_many_neighbours_as_images_is_the_furthest_one(
    network: Network, feature: Tensor
) -> None:
    seen = of_features(feature, network)
    row = feature.double() / feature.double().norm(dim=1, keepdim=True)
    expected = -torch.cdist(row, row).amax(dim=1)
    score = fit(KNN(N), seen).score(seen)
    torch.testing.assert_close(score.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_feature_of_zero_is_as_far_as_an_orthogonal_one(
    network: Network, feature: Tensor
) -> None:
    zero = of_features(torch.zeros(2, D), network)
    seen = of_features(feature, network)
    assert fit(KNN(5), seen).score(zero).tolist() == pytest.approx([-(2**0.5)] * 2)
    assert fit(KNN(5), seen).score(seen).min() > -(2**0.5)
    assert fit(NNGuide(5), seen).score(zero).tolist() == [0, 0]


@pytest.mark.parametrize("build", [KNN, NNGuide])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_compared_in_float32(
    network: Network, feature: Tensor, build: type[KNN | NNGuide], dtype: torch.dtype
) -> None:
    half = of_features((2000 * feature).to(dtype), network)  # squares are beyond float16
    full = of_features(half.feature.float(), network)
    score = fit(build(5), half).score(half)
    assert score.dtype == torch.float32
    assert score.equal(fit(build(5), full).score(full))


@pytest.mark.parametrize("build", [KNN, NNGuide])
def test_a_bank_larger_than_the_data_is_the_data(
    network: Network, feature: Tensor, build: type[KNN | NNGuide]
) -> None:
    seen = of_features(feature, network)
    banks = [fit(build(5, bank_size=size), seen).bank for size in (None, 10 * N)]
    assert sorted(banks[0].tolist()) == sorted(banks[1].tolist())


def test_a_bank_smaller_than_k_is_refused(network: Network, feature: Tensor) -> None:
    for detector in (KNN(5, bank_size=4), NNGuide(5, bank_size=4)):
        with pytest.raises(ValueError, match="at least k=5 ID images in the bank, got 4; use"):
            fit(detector, of_features(feature, network))


def test_ties_and_an_empty_batch_are_no_exception() -> None:
    bank = torch.ones(40, 3)
    assert nearest_similarities(torch.ones(2, 3), bank, 7).equal(torch.full((2, 7), 3.0))
    assert nearest_similarities(torch.ones(0, 3), bank, 7).shape == (0, 7)


def test_chunks_smaller_than_k_still_give_k_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    row, bank = (torch.randn(n, 5, generator=generator) for n in (6, 103))
    expected = (row @ bank.mT).sort(dim=1, descending=True).values
    monkeypatch.setattr("src.detectors.neighbours.SIMILARITIES", 1)
    for k in (1, 50, 102, 103):  # the last chunk has 1, 3, 1 and 103 rows
        torch.testing.assert_close(nearest_similarities(row, bank, k), expected[:, :k])

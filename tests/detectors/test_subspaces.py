"""Subspaces at the edges: the authors' rule, odd heads, nothing outside, logits below zero."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.detectors import Detector, Residual, ViM
from src.network import ForwardPass, Network

N = 400


def new_network(size: int, num_classes: int = 4, *, bias: bool = True) -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, size, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(size, num_classes, bias=bias),
    )  # fmt: skip
    return Network(net, ["1"], image_shape=(1, 5, 5)).eval()


def of_features(feature: Tensor, network: Network) -> ForwardPass:
    with torch.no_grad():
        logits = network.head(feature.to(network.head.weight.dtype))
    return ForwardPass(torch.zeros(len(feature), 1, 5, 5), logits, feature, {}, {}, network)


def features(n: int, size: int, seed: int) -> Tensor:
    """(n, size) rectified features."""
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed)).relu()


def fit(detector: Detector, feature: Tensor, network: Network) -> Detector:
    for row in torch.arange(len(feature)).split(150):
        label = torch.full((len(row),), -1)
        detector.update(of_features(feature[row], network), label, row)
    detector.fit(network)
    return detector


@pytest.mark.parametrize(
    ("size", "principal"), [(6, 3), (7, 3), (767, 383), (768, 512), (2048, 1000)]
)
def test_the_usual_dimension_is_that_of_the_authors(size: int, principal: int) -> None:
    network = new_network(size)
    detector = fit(Residual(), features(10, size, seed=1), network)
    assert detector.basis.shape == (size, size - principal)


def test_the_residual_vanishes_within_the_subspace_and_is_all_that_is_outside() -> None:
    network = new_network(6, bias=False)  # so that the origin is zero
    direction = torch.linalg.qr(features(6, 6, seed=1).double() + torch.eye(6)).Q
    spread = torch.tensor([9.0, 8.0, 7.0, 0.3, 0.2, 0.1]).double()
    sign = torch.tensor([1.0, -1.0]).repeat(6).double()
    rows = sign[:, None] * (spread[:, None] * direction).repeat_interleave(2, dim=0)
    detector = fit(Residual(3), rows, network)
    assert detector.origin.equal(torch.zeros(6).double())
    inside = detector.score(of_features(100 * direction[:3], network))
    assert inside.abs().max() < 1e-9
    outside = detector.score(of_features(5 * direction[3:], network))
    assert outside.tolist() == pytest.approx([-5, -5, -5], rel=1e-9)


@pytest.mark.parametrize("num_classes", [1, 4, 20])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_at_the_origin_are_as_near_to_zero_as_can_be(num_classes: int, bias: bool) -> None:
    network = new_network(8, num_classes, bias=bias)
    origin = fit(Residual(), features(N, 8, seed=1), network).origin.numpy()
    weight = network.head.weight.detach().double().numpy()
    offset = network.head.bias.detach().double().numpy() if bias else np.zeros(num_classes)
    expected = np.linalg.lstsq(weight, -offset, rcond=1e-10)[0]
    np.testing.assert_allclose(origin, expected, rtol=1e-9, atol=1e-12)


def test_a_head_whose_rows_sum_to_zero_has_a_near_origin() -> None:
    network = new_network(16)
    weight = network.head.weight.data
    weight -= weight.mean(dim=0)  # up to rounding in float32
    network.head.bias.data = torch.ones(4)
    origin = fit(Residual(), features(N, 16, seed=1), network).origin
    assert origin.norm() < 1e-3


def test_a_head_in_half_precision_has_the_origin_of_its_own_numbers() -> None:
    network = new_network(512)
    network.head.bias.data.normal_(generator=torch.Generator().manual_seed(2))
    network.head.bfloat16()
    feature = features(N, 512, seed=1).bfloat16()
    half = fit(Residual(), feature, network).origin
    network.head.float()
    full = fit(Residual(), feature, network).origin
    assert full.norm() > 1
    torch.testing.assert_close(half, full)


def test_vim_at_any_split_takes_its_scale_from_the_same_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("src.detectors.subspaces.VIRTUAL_LOGIT_ROWS", 30)
    network, feature = new_network(8), features(N, 8, seed=1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    scales = []
    for rows in (torch.arange(N).split(N), torch.arange(N).split(17), order.split(90)):
        detector = ViM()
        for row in (*rows, order[:0]):
            detector.update(of_features(feature[row], network), torch.full_like(row, -1), row)
        detector.fit(network)
        scales.append(detector.alpha.item())
    assert scales[1:] == pytest.approx([scales[0]] * 2, rel=1e-9)


def test_what_is_outside_by_rounding_alone_gives_vim_no_scale() -> None:
    network = new_network(64)
    mix = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    flat = torch.randn(N, 5, generator=torch.Generator().manual_seed(4)) @ mix
    with pytest.raises(ValueError, match=r"outside of the principal subspace, got none; .* 32"):
        fit(ViM(), flat, network)
    assert fit(Residual(), flat, network).score(of_features(flat, network)).isfinite().all()


def test_logits_below_zero_would_turn_vim_around() -> None:
    network, feature = new_network(8), features(N, 8, seed=1)
    network.head.bias.data.fill_(-20)
    with pytest.raises(ValueError, match=r"logits are above zero on average, got -.*use Residual"):
        fit(ViM(), feature, network)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_do_not_overflow(dtype: torch.dtype) -> None:
    network = new_network(8)
    feature = (1000 * features(N, 8, seed=1)).to(dtype)  # squares are beyond float16
    same = feature.float()
    for build in (Residual, ViM):
        score = fit(build(), feature, network).score(of_features(feature, network))
        expected = fit(build(), same, network).score(of_features(same, network))
        torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-6)

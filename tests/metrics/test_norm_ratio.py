"""Laws of FeatureNorm and NormRatio."""

from math import sqrt

import pytest
import torch
from torch import Tensor

from src.metrics import NormRatio, feature_norm, mean_activation


def norm_by_loop(feature_map: Tensor) -> Tensor:
    """FeatureNorm from its equation, number by number."""
    norm = []
    for image in feature_map.double():
        channel_norms = []
        for channel in image:
            energy = 0.0
            for activation in channel.flatten().tolist():
                energy += max(activation, 0.0) ** 2
            channel_norms.append(sqrt(energy))
        norm.append(sum(channel_norms) / len(channel_norms))
    return torch.tensor(norm, dtype=torch.float64)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (4, 3, 5, 5), (7, 2, 3, 8), (5, 8, 128, 128), (2, 5, 256, 256)],
    ids=["one_value", "small", "oblong", "several_cpu_pieces", "an_image_above_a_piece"],
)
def test_feature_norm_equals_a_loop_over_its_equation(shape: tuple[int, ...]) -> None:
    feature_map = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    norm = feature_norm(feature_map)
    assert norm.dtype == torch.float32
    torch.testing.assert_close(norm.double(), norm_by_loop(feature_map), rtol=1e-5, atol=1e-7)


def test_feature_norm_of_a_hand_made_map() -> None:
    feature_map = torch.tensor([[[[3.0, -9.0], [4.0, -1.0]], [[0.0, 1.0], [-5.0, 0.0]]]])
    assert feature_norm(feature_map).tolist() == [(5.0 + 1.0) / 2]


def test_feature_norm_ignores_negative_activations() -> None:
    feature_map = torch.randn(6, 4, 5, 5)
    assert feature_norm(feature_map).equal(feature_norm(feature_map.relu()))
    assert feature_norm(-feature_map.relu()).eq(0).all()


@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_feature_norm_is_homogeneous(factor: float) -> None:
    feature_map = torch.randn(6, 4, 5, 5)
    torch.testing.assert_close(
        feature_norm(factor * feature_map), factor * feature_norm(feature_map)
    )


def test_feature_norm_is_the_mean_of_the_norms_of_the_channels() -> None:
    feature_map = torch.randn(3, 6, 4, 4)
    channel = torch.stack([feature_norm(feature_map[:, [c]]) for c in range(6)])
    torch.testing.assert_close(feature_norm(feature_map), channel.mean(dim=0))


def test_feature_norm_does_not_depend_on_memory_layout_or_batch() -> None:
    feature_map = torch.randn(9, 6, 16, 16)
    norm = feature_norm(feature_map)
    strided = torch.randn(9, 6, 16, 32)[..., ::2].copy_(feature_map)
    assert not strided.is_contiguous()
    for other in (strided, feature_map.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(feature_norm(other), norm)
    assert torch.cat([feature_norm(part) for part in feature_map.split(2)]).equal(norm)
    assert feature_norm(feature_map[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_feature_norm_is_float32_of_a_map_of_any_float_type(dtype: torch.dtype) -> None:
    feature_map = (100 * torch.randn(3, 2, 32, 32)).to(dtype)
    norm = feature_norm(feature_map)
    assert norm.dtype == torch.float32  # float16 squares would overflow
    torch.testing.assert_close(norm.double(), norm_by_loop(feature_map), rtol=1e-5, atol=0)


def test_feature_norm_leaves_the_map_as_it_was() -> None:
    feature_map = torch.randn(3, 2, 4, 4)
    before = feature_map.clone()
    feature_norm(feature_map)
    assert feature_map.equal(before)


def test_feature_norm_does_not_hide_nan() -> None:
    feature_map = torch.ones(2, 2, 2, 2)
    feature_map[0, 0, 0, 0] = torch.nan
    assert feature_norm(feature_map).isnan().tolist() == [True, False]


@pytest.mark.parametrize("shape", [(4, 3), (3, 4, 4), (1, 3, 4, 4, 4)])
def test_feature_norm_of_anything_but_a_map_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \("):
        feature_norm(torch.zeros(shape))


def test_norm_ratio_is_the_mean_of_ratios_not_the_ratio_of_means() -> None:
    metric = NormRatio(2)
    metric.update(torch.tensor([[1.0, 2.0], [4.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 4.0]]))
    result = {name: value.tolist() for name, value in metric.compute().items()}
    assert result["ratio"] == [1.5, 1.25]
    assert result["norm_id"] == [2.5, 2.0]
    assert result["norm_pseudo_ood"] == [1.5, 2.5]
    assert result["ratio"][0] != result["norm_id"][0] / result["norm_pseudo_ood"][0]


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 0, 53], [30, 30]])
def test_norm_ratio_does_not_depend_on_how_images_are_split(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    norm_id, norm_pseudo_ood = torch.rand(2, 60, 3, generator=generator) + 0.1
    expected = (norm_id.double() / norm_pseudo_ood.double()).mean(dim=0)
    metric, share = NormRatio(3), NormRatio(3)
    parts = zip(norm_id.split(sizes), norm_pseudo_ood.split(sizes), strict=True)
    for position, part in enumerate(parts):
        (metric if position % 2 == 0 else share).update(*part)
    metric.merge_state(share)
    ratio = metric.compute()["ratio"]
    assert ratio.dtype == torch.float64
    torch.testing.assert_close(ratio, expected, rtol=1e-14, atol=0)


def test_norm_ratio_sums_in_float64() -> None:
    metric = NormRatio(1)
    for _ in range(3):  # in float32 the first sum would swallow what follows
        metric.update(torch.tensor([[2.0**30], [1.0]]), torch.ones(2, 1))
    assert metric.compute()["ratio"].item() == (3 * 2**30 + 3) / 6


def test_a_map_that_is_dead_on_a_pseudo_ood_image_gives_a_finite_ratio() -> None:
    metric = NormRatio(2)
    metric.update(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    ratio = metric.compute()["ratio"]
    assert ratio.isfinite().all()
    assert ratio[1] == 0


def test_norm_ratio_starts_anew_after_reset() -> None:
    metric = NormRatio(1)
    metric.update(torch.tensor([[8.0]]), torch.tensor([[1.0]]))
    metric.reset()
    metric.update(torch.tensor([[3.0]]), torch.tensor([[2.0]]))
    assert metric.compute()["ratio"].item() == 1.5


def test_the_slope_of_the_norm_is_finite_also_at_a_dead_channel() -> None:
    feature_map = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    feature_map[:, 1] = -1.0
    feature_map.requires_grad_()
    norm = feature_norm(feature_map)
    assert norm.equal(feature_norm(feature_map.detach()))
    (gradient,) = torch.autograd.grad(norm.sum(), feature_map)
    assert gradient[:, 1].eq(0).all()
    rectified = feature_map.detach().relu()
    slope = rectified / rectified.square().sum(dim=(2, 3), keepdim=True).sqrt() / 4
    torch.testing.assert_close(gradient[:, [0, 2, 3]], slope[:, [0, 2, 3]], rtol=1e-5, atol=1e-7)


def test_mean_activation_averages_what_is_positive() -> None:
    feature_map = torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]]], [[[-1.0, -1.0]], [[0.0, 2.0]]]])
    assert mean_activation(feature_map).tolist() == [2.0, 0.5]
    many = torch.randn(300, 64, 16, 16).half()  # in several pieces on a CPU
    assert torch.allclose(mean_activation(many), many.float().relu().mean((1, 2, 3)), rtol=1e-3)

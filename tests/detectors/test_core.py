"""CORE against NumPy, and at the edges: no residual, classes never predicted, constant parts."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.detectors import CORE, expand_blocks
from src.network import Network
from tests.detectors.test_subspaces import features, fit, new_network, of_features

Array = NDArray[np.float64]


def energies(network: Network, row: Array) -> tuple[Array, NDArray[np.int64]]:
    """Log-sum-exp of the logits, and predicted classes."""
    bias = 0 if network.head.bias is None else network.head.bias.detach().numpy()
    logits = row @ network.head.weight.detach().numpy().T + bias
    return np.log(np.exp(logits).sum(axis=1)), logits.argmax(axis=1)


def residuals(network: Network, row: Array, predicted: NDArray[np.int64], spans: bool) -> Array:
    weight = network.head.weight.detach().numpy()
    out = []
    for h, k in zip(row, predicted, strict=True):
        across = weight if spans else weight[k : k + 1]
        out.append(h - across.T @ np.linalg.lstsq(across.T, h, rcond=None)[0])
    return np.array(out)


def cosine(a: Array, b: Array) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


@pytest.mark.parametrize("rowspace", [False, True])
def test_it_adds_standardised_energy_and_cosine_with_the_mean_residual_of_the_class(
    rowspace: bool,
) -> None:
    network = new_network(9).double()
    known, test = features(200, 9, seed=1).double(), features(20, 9, seed=2).double()
    parts, mean = [], {}
    for row in (known.numpy(), test.numpy()):
        energy, predicted = energies(network, row)
        residual = residuals(network, row, predicted, rowspace)
        if not mean:
            mean = {k: residual[predicted == k].mean(axis=0) for k in np.unique(predicted)}
        angle = [cosine(r, mean[k]) for r, k in zip(residual, predicted, strict=True)]
        parts.append(np.stack([energy, angle], axis=1))
    expected = ((parts[1] - parts[0].mean(axis=0)) / parts[0].std(axis=0)).sum(axis=1)
    score = fit(CORE(rowspace=rowspace), known, network).score(of_features(test, network))
    assert score.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_a_residual_of_rounding_noise_has_cosine_zero() -> None:
    network = new_network(64)
    detector = fit(CORE(), features(300, 64, seed=1), network)
    along = 1e3 * network.head.weight.detach()[2:3]  # not a power of two: not exact in float32
    assert network.head(along).argmax() == 2
    along = torch.cat([along / 3, torch.zeros_like(along)])
    energy = of_features(along, network).logits.double().logsumexp(dim=1)
    expected = (energy - detector.mean[0]) / detector.deviation[0]
    expected = expected - detector.mean[1] / detector.deviation[1]
    torch.testing.assert_close(detector.score(of_features(along, network)), expected)


def test_a_class_that_is_never_predicted_takes_the_mean_residual_of_all() -> None:
    network, feature = new_network(9), features(200, 9, seed=1)
    network.head.bias.data[3] = -1e3
    detector = fit(CORE(), feature, network)
    predicted = of_features(feature, network).logits.argmax(dim=1)
    assert predicted.unique().tolist() == [0, 1, 2]
    row = feature.double().numpy()
    mean = residuals(network, row, predicted.numpy(), False).mean(axis=0)
    expected = torch.from_numpy(mean / np.linalg.norm(mean))
    torch.testing.assert_close(detector.prototype[3], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("size", "classes"), [(4, 4), (4, 9)])
def test_weights_that_span_all_features_are_refused_early(size: int, classes: int) -> None:
    network = new_network(size, classes)
    with pytest.raises(ValueError, match=r"less than the 4 dimensions .* set rowspace=False"):
        expand_blocks({"core": CORE(rowspace=True)}, network)
    network.head.weight.data[:, 0] = network.head.weight.data[:, 1]
    assert expand_blocks({"core": CORE(rowspace=True)}, network)


def test_what_is_constant_among_id_images_does_not_count() -> None:
    network, feature = new_network(1), torch.arange(1.0, 9.0)[:, None]  # no residual at all
    score = fit(CORE(), feature, network).score(of_features(feature, network))
    energy = of_features(feature, network).logits.double().logsumexp(dim=1)
    expected = (energy - energy.mean()) / energy.std(correction=0)
    torch.testing.assert_close(score, expected)


@pytest.mark.parametrize("count", [1, 5])
def test_images_that_are_all_alike_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="energies or residuals differ, got constant ones"):
        fit(CORE(), features(1, 9, seed=1).expand(count, 9), new_network(9))


def test_it_keeps_ten_thousand_images_of_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.detectors.core.ROWS", 30)
    network, feature = new_network(9), features(200, 9, seed=1)
    means: list[Tensor] = []
    for order in (torch.arange(200), torch.arange(199, -1, -1)):
        detector = CORE()
        for row in order.split(70):
            detector.update(of_features(feature[row], network), torch.full_like(row, -1), row)
        detector.fit(network)
        means.append(detector.mean)
    torch.testing.assert_close(means[0], means[1], rtol=1e-6, atol=0)

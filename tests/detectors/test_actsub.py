"""ActSub against plain NumPy, and where its logarithm, power and singular vectors would fail."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.detectors import ActSub
from src.detectors.actsub import directions
from src.network import ForwardPass, Network

SIZE, CLASSES = 7, 3


def new_network(size: int = SIZE, num_classes: int = CLASSES) -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, size, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(size, num_classes),
    )  # fmt: skip
    return Network(net, ["1"], image_shape=(1, 5, 5)).eval()


def of_features(feature: Tensor, network: Network) -> ForwardPass:
    with torch.no_grad():
        logits = network.logits_of(feature)
    return ForwardPass(torch.zeros(len(feature), 1, 5, 5), logits, feature, {}, {}, network)


def features(n: int, size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.rand(n, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def fit(detector: ActSub, feature: Tensor, network: Network) -> ActSub:
    for row in torch.arange(len(feature)).split(13):
        detector.update(of_features(feature[row], network), torch.full_like(row, -1), row)
    detector.fit(network)
    return detector


def oracle(
    network: Network, bank: np.ndarray, feature: np.ndarray, k: int, percent: float, power: float
) -> tuple[int, np.ndarray]:
    weight, bias = (p.detach().double().numpy() for p in network.head.parameters())
    _, _, vector = np.linalg.svd(weight)
    null = vector[CLASSES:]
    value, principal = np.linalg.eigh(null @ bank.T @ bank @ null.T)
    order = [*vector[:CLASSES], *(principal.T[np.argsort(-value)] @ null)]

    def gap(size: int) -> float:
        basis = np.stack(order[:size])
        inside = bank @ basis.T @ basis
        lengths = [np.linalg.norm(part, axis=1).mean() for part in (inside, bank - inside)]
        return abs(lengths[0] - lengths[1])

    size = min(range(1, SIZE), key=gap)
    basis = np.stack(order[:size])
    rest = bank - bank @ basis.T @ basis
    score = []
    for h in feature:
        inside = basis.T @ (basis @ h)
        outside = h - inside
        cosine = rest @ outside / np.linalg.norm(rest, axis=1) / np.linalg.norm(outside)
        nearness = -np.log(1 - np.sort(cosine)[-k:].mean())
        active = np.sort(np.maximum(inside, 0))
        scale = np.exp(active.sum() / active[round(SIZE * percent / 100) :].sum())
        logits = weight @ (scale * inside) + bias
        score.append(np.log(np.exp(logits).sum()) * nearness**power)
    return size, np.array(score)


@pytest.mark.parametrize(("k", "percent", "power"), [(10, 70.0, 2.0), (1, 40.0, 0.5)])
def test_it_is_the_shaped_energy_of_one_part_times_the_nearness_of_the_other(
    k: int, percent: float, power: float
) -> None:
    network, bank, feature = new_network(), features(60), features(9, seed=1)
    detector = fit(ActSub(k, percent=percent, power=power), bank, network)
    size, expected = oracle(
        network, bank.double().numpy(), feature.double().numpy(), k, percent, power
    )
    assert detector.basis.shape == (SIZE, size)
    score = detector.score(of_features(feature, network)).detach()
    np.testing.assert_allclose(score, expected, rtol=1e-9)


def test_an_image_of_the_bank_is_near_but_not_at_infinity() -> None:
    network, bank = new_network(), features(60)
    detector = fit(ActSub(1, power=1), bank, network)
    seen = of_features(bank, network)
    largest = fit(ActSub(1, power=0), bank, network).score(seen) * -np.log(1e-6)
    torch.testing.assert_close(detector.score(seen), largest)


def test_what_is_opposite_to_the_bank_has_no_power_of_a_negative_number() -> None:
    network, bank = new_network(), features(60)
    detector = fit(ActSub(power=0.5), bank, network)
    decisive = bank.double() @ detector.basis @ detector.basis.mT
    opposite = of_features(2 * decisive - bank.double(), network)
    assert detector.score(opposite).equal(torch.zeros(60).double())


def test_a_feature_without_an_insignificant_part_scores_zero() -> None:
    network = new_network()
    detector = fit(ActSub(), features(60), network)
    assert detector.score(of_features(torch.zeros(1, SIZE), network)).tolist() == [0]


def test_directions_beyond_the_rank_do_not_hang_on_an_arbitrary_basis() -> None:
    weight = torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(1)).double()
    weight = torch.cat([weight, -weight.sum(dim=0, keepdim=True)])  # rank stays 3 of 4
    bank = features(50).double()
    basis = directions(weight, bank)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(SIZE).double())
    assert (weight @ basis[:, CLASSES:]).abs().max() < 1e-12
    # the second moment beyond the rank is diagonal, largest first, whatever the null space's basis
    moment = basis[:, CLASSES:].mT @ bank.mT @ bank @ basis[:, CLASSES:]
    torch.testing.assert_close(moment, moment.diagonal().sort(descending=True).values.diag())


def test_more_classes_than_features_leave_no_null_space() -> None:
    network = new_network(size=4, num_classes=9)
    detector = fit(ActSub(), features(40, 4), network)
    assert 1 <= detector.basis.shape[1] <= 3
    assert detector.score(of_features(features(5, 4, seed=1), network)).isfinite().all()


def test_what_it_cannot_work_with_is_refused() -> None:
    with pytest.raises(ValueError, match="expected k of at least 1 and power of at least 0"):
        ActSub(0)
    with pytest.raises(ValueError, match="expected k of at least 1 and power of at least 0"):
        ActSub(power=-1)
    with pytest.raises(ValueError, match=r"expected percent within 0\.\.100"):
        ActSub(percent=101)
    with pytest.raises(ValueError, match="expected a feature of at least 2 values, got 1"):
        ActSub().check(new_network(size=1))
    with pytest.raises(ValueError, match="at least k=10 ID images in the bank, got 9"):
        fit(ActSub(), features(9), new_network())

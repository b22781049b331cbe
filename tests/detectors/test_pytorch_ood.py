"""pytorch-ood 0.4 as a second oracle, through the adapter that makes a column of it."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from src.detectors import (
    ASH,
    DICE,
    FDBD,
    GEN,
    KNN,
    MSP,
    NCI,
    RMDS,
    SCALE,
    SHE,
    Detector,
    Energy,
    Entropy,
    GradNorm,
    KLMatching,
    Mahalanobis,
    MaxLogit,
    NNGuide,
    Perturbed,
    ReAct,
    TempScale,
    ViM,
    expand_blocks,
)
from src.detectors.pytorch_ood import PytorchOOD
from src.network import ForwardPass, Network
from tests.fakes import two_map_network

peer = pytest.importorskip("pytorch_ood.detector")
K, D = 4, 12


def passed(network: Network, n: int, seed: int) -> tuple[ForwardPass, Tensor]:
    """Images of four levels of brightness, and their labels."""
    label = torch.arange(n) % K
    image = torch.rand(n, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return network.observe(image * (0.3 + 0.2 * label.view(-1, 1, 1, 1))), label


@pytest.fixture(scope="module")
def network() -> Network:
    """Its head was fitted by least squares: right, and sure of it, about half of the time."""
    network = two_map_network(K, D)
    seen, label = passed(network, 200, seed=1)
    mean, target = seen.feature.mean(dim=0), 12 * torch.eye(K)[label]
    weight = torch.linalg.lstsq((seen.feature - mean).double(), target.double()).solution.float()
    network.head.weight.data = weight.mT.contiguous()
    network.head.bias.data = target.mean(dim=0) - network.head.weight.data @ mean
    return network


def fit(detector: Detector, network: Network) -> Detector:
    seen, label = passed(network, 200, seed=1)
    if detector.is_fitted_on_data:
        detector.update(seen, label, torch.arange(200))
    with torch.no_grad():
        detector.fit(network)
    return detector


def scores(detector: Detector, network: Network) -> Any:
    seen, _ = passed(network, 50, seed=2)
    with torch.no_grad():
        return fit(detector, network).score(seen).double().numpy()


def head_weight(name: str) -> bool:
    return name == "net.6.weight"


SAME: dict[str, tuple[Callable[[], Detector], Callable[[], Any]]] = {
    "MSP": (MSP, lambda: peer.MaxSoftmax),
    "MaxLogit": (MaxLogit, lambda: peer.MaxLogit),
    "Energy": (Energy, lambda: peer.EnergyBased),
    "Entropy": (Entropy, lambda: peer.Entropy),
    "KNN": (lambda: KNN(5), lambda: partial(peer.KNN, k=5)),
    "SHE": (SHE, lambda: peer.SHE),
    "DICE": (lambda: DICE(percent=70), lambda: partial(peer.DICE, p=0.7)),
    "FDBD": (FDBD, lambda: peer.fDBD),
    "NCI": (NCI, lambda: peer.NCI),
    "ViM": (lambda: ViM(6), lambda: partial(peer.ViM, d=6)),
    "NNGuide": (lambda: NNGuide(5), lambda: partial(peer.NNGuide, k=5)),
    "KLMatching": (KLMatching, lambda: peer.KLMatching),
    "ReAct": (ReAct, lambda: partial(peer.ReAct, percentile=0.9)),
    "ASH": (ASH, lambda: partial(peer.ASH, percentile=0.9, variant="ash-s")),
    "SCALE": (SCALE, lambda: partial(peer.SCALE, percentile=0.85)),
    "ODIN": (
        lambda: Perturbed(MSP(1000), epsilon=0.01),
        lambda: partial(peer.ODIN, eps=0.01, temperature=1000),
    ),
}
IN_OTHER_UNITS: dict[str, tuple[Callable[[], Detector], Callable[[], Any]]] = {
    "GradNorm (theirs has targets that sum to 1)": (
        GradNorm,
        lambda: partial(peer.GradNorm, param_filter=head_weight),
    ),
    "GEN (theirs is divided by the number of classes)": (GEN, lambda: peer.GEN),
    "Mahalanobis (theirs does not divide the scatter by N)": (
        Mahalanobis,
        lambda: peer.Mahalanobis,
    ),
    "RMDS (likewise)": (RMDS, lambda: peer.RMD),
}


@pytest.mark.parametrize("name", SAME)
def test_a_detector_that_both_have_scores_the_same(name: str, network: Network) -> None:
    ours, theirs = SAME[name]
    expected = scores(PytorchOOD(theirs()), network)
    np.testing.assert_allclose(scores(ours(), network), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", IN_OTHER_UNITS)
def test_a_detector_in_other_units_ranks_the_same(name: str, network: Network) -> None:
    ours, theirs = IN_OTHER_UNITS[name]
    first, second = scores(ours(), network), scores(PytorchOOD(theirs()), network)
    assert spearmanr(first, second)[0] == pytest.approx(1)
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(1, abs=1e-5)


def test_our_temperature_is_at_least_as_likely_as_theirs(network: Network) -> None:
    seen, label = passed(network, 200, seed=1)
    ours, theirs = fit(TempScale(), network), fit(PytorchOOD(peer.TemperatureScaling), network)
    first, second = (
        nn.functional.cross_entropy(seen.logits / float(t), label).item()
        for t in (ours.temperature, theirs.made.t)  # theirs stops after 50 steps of 0.01
    )
    assert first <= second + 1e-6


def test_what_it_was_fitted_on_is_saved_and_fitted_again(network: Network) -> None:
    build = partial(PytorchOOD, partial(peer.KNN, k=3), bank_size=60)
    detector, file = fit(build(), network), BytesIO()
    assert detector.row.shape == (60, D)
    torch.save(detector.state_dict(), file)
    file.seek(0)
    loaded = build()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    seen, _ = passed(network, 20, seed=2)
    assert loaded.score(seen).equal(detector.score(seen))


def test_it_is_refused_before_the_fit_and_without_labels(network: Network) -> None:
    seen, label = passed(network, 20, seed=2)
    with pytest.raises(RuntimeError, match="expected a fitted PytorchOOD"):
        PytorchOOD(peer.KNN).score(seen)
    with pytest.raises(ValueError, match="got label -1"):
        PytorchOOD(peer.KNN).update(seen, torch.full_like(label, -1), torch.arange(20))


@pytest.mark.parametrize(("kind", "given"), [("ViM", {}), ("DICE", {"share": 3}), ("Gram", {})])
def test_arguments_that_are_missing_or_unknown_are_refused_early(
    kind: str, given: dict[str, int], network: Network
) -> None:
    detector = PytorchOOD(partial(getattr(peer, kind), **given))
    with pytest.raises(ValueError, match=f"expected the arguments of {kind}, got: .*; correct"):
        expand_blocks({"theirs": detector}, network)


@pytest.mark.parametrize("name", SAME | IN_OTHER_UNITS)
def test_arguments_that_suit_are_accepted_early(name: str, network: Network) -> None:
    _, theirs = (SAME | IN_OTHER_UNITS)[name]
    assert expand_blocks({"theirs": PytorchOOD(theirs())}, network)


@pytest.mark.parametrize("kind", ["MaxSoftmax", "KNN", "ODIN", "ASH"])
def test_it_scores_in_inference_mode_as_elsewhere(kind: str, network: Network) -> None:
    detector = fit(PytorchOOD(getattr(peer, kind)), network)
    expected = detector.score(passed(network, 20, seed=2)[0])
    with torch.inference_mode():
        assert detector.score(passed(network, 20, seed=2)[0]).equal(expected)

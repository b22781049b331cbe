"""Prototype Fusion against a loop, and with classes never predicted and dead blocks."""

import numpy as np
import pytest
import torch
from torch import Tensor

from src.detectors import PrototypeFusion
from src.network import ForwardPass
from tests.fakes import two_map_network

K, BLOCKS = 3, ("1", "3")


def images(n: int, seed: int) -> Tensor:
    return torch.rand(n, 3, 9, 9, generator=torch.Generator().manual_seed(seed)).double()


@torch.no_grad()
def fit(detector: PrototypeFusion, seen: ForwardPass) -> PrototypeFusion:
    n = len(seen.image)
    detector.update(seen, torch.full((n,), -1), torch.arange(n))
    detector.fit(seen.network)
    return detector


def unit(row: np.ndarray) -> np.ndarray:
    unit: np.ndarray = row / np.linalg.norm(row)
    return unit


@pytest.mark.parametrize("blocks", [None, ["3"], ["3", "1"]])
def test_it_averages_the_largest_cosine_of_each_block(blocks: list[str] | None) -> None:
    network = two_map_network(K, 5).double()
    with torch.no_grad():
        known, seen = network.observe(images(60, seed=1)), network.observe(images(9, seed=2))
    predicted = known.logits.argmax(dim=1).numpy()
    cosine = np.zeros((9, 0))
    for block in blocks or BLOCKS:
        row, test = (
            np.array([unit(x) for x in of.feature_map[block].numpy().mean(axis=(2, 3))])
            for of in (known, seen)
        )
        prototype = [unit(row[predicted == k].mean(axis=0)) for k in np.unique(predicted)]
        best = [max(float(g @ p) for p in prototype) for g in test]
        cosine = np.column_stack([cosine, best])
    score = fit(PrototypeFusion(blocks), known).score(seen)
    assert score.tolist() == pytest.approx(cosine.mean(axis=1).tolist(), rel=1e-9)


def test_a_class_that_is_never_predicted_has_no_prototype() -> None:
    network = two_map_network(K, 5).double()
    network.head.bias.data[:2] = -1e3  # only the last class is left
    with torch.no_grad():
        seen = network.observe(images(20, seed=1))
        score = fit(PrototypeFusion(["1"]), seen).score(seen)
        other = network.observe(images(20, seed=1))
        other.feature_map["1"].neg_()  # opposite to the one prototype, not at right angles
        opposite = PrototypeFusion(["1"])
        opposite.load_state_dict(fit(PrototypeFusion(["1"]), seen).state_dict())
        torch.testing.assert_close(opposite.score(other), -score)


def test_a_map_of_zero_has_cosine_zero() -> None:
    network = two_map_network(K, 5).double()
    with torch.no_grad():
        known, seen = network.observe(images(20, seed=1)), network.observe(images(4, seed=2))
        detector = fit(PrototypeFusion(), known)
        deep = fit(PrototypeFusion(["3"]), known).score(seen)
        seen.feature_map["1"].zero_()
        torch.testing.assert_close(detector.score(seen), deep / 2)


def test_a_block_that_is_dead_among_id_images_does_not_count() -> None:
    network = two_map_network(K, 5).double()
    with torch.no_grad():
        known = network.observe(images(20, seed=1))
        known.feature_map["1"].zero_()
        seen = network.observe(images(4, seed=2))
        deep = fit(PrototypeFusion(["3"]), known).score(seen)
        torch.testing.assert_close(fit(PrototypeFusion(), known).score(seen), deep / 2)

"""Gram: an oracle in loops, and what becomes of strange input."""

import numpy as np
import pytest
import torch
from torch import Tensor

from src.counter_random import random_bits
from src.detectors.gram import Gram, GramRows
from src.network import Network
from tests.fakes import grey_network

BLOCKS = ("1", "4")


@pytest.fixture
def network() -> Network:
    return grey_network(3)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def fitted(network: Network, image: Tensor, sizes: list[int], **arguments: object) -> Gram:
    detector = Gram(**arguments)  # type: ignore[arg-type]
    index = torch.arange(len(image))
    for part, number in zip(image.split(sizes), index.split(sizes), strict=True):
        seen = network.observe(part, keep_maps=False, read=detector.reads(network))
        detector.update(seen, torch.full_like(number, -1), number)
    detector.fit(network)
    return detector


def rows_of(feature_map: Tensor, power: int) -> np.ndarray:
    """(B, C) of one power, from the whole Gram matrix."""
    feature = feature_map.detach().double().flatten(2).numpy() ** power
    total = np.stack([(f @ f.T).sum(axis=1) for f in feature])
    return np.sign(total) * np.abs(total) ** (1 / power)


def oracle(network: Network, train: Tensor, test: Tensor, powers: range) -> list[float]:
    held = (random_bits(torch.arange(len(train)), 1, seed=0)[:, 0] % 10 == 0).numpy()
    with torch.no_grad():
        seen, new = network.observe(train), network.observe(test)
    predicted = seen.logits.argmax(dim=1).numpy()
    probability = new.logits.double().softmax(dim=1)
    total = np.zeros(len(test))
    for block in BLOCKS:
        usual, found = np.zeros(held.sum()), np.zeros(len(test))
        for power in powers:
            row, other = (rows_of(s.feature_map[block], power) for s in (seen, new))
            for target, source, label in (
                (usual, row[held], predicted[held]),
                (found, other, probability.argmax(dim=1).numpy()),
            ):
                for n, k in enumerate(label):
                    own = row[~held & (predicted == k)]
                    low, high = own.min(axis=0), own.max(axis=0)
                    for x, a, b in zip(source[n], low, high, strict=True):
                        target[n] += max(a - x, 0) / (abs(a) + 1e-6)
                        target[n] += max(x - b, 0) / (abs(b) + 1e-6)
        total += found / (usual.mean() + 1e-7)
    return list(-total / probability.amax(dim=1).numpy())


@pytest.mark.parametrize("last", [5, 10])
def test_gram_is_the_deviation_from_the_range_of_the_predicted_class(
    network: Network, last: int
) -> None:
    train, test = images(200), 0.3 + 2 * images(20, 1)
    powers = range(1, last + 1)
    detector = fitted(network, train, [200], powers=powers)
    score = detector.score(network.observe(test))
    expected = torch.tensor(oracle(network, train, test, powers), dtype=torch.float64)
    assert score.lt(0).any()
    torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e4, 1e12])
def test_row_sums_are_those_of_the_whole_matrix_at_any_scale(scale: float) -> None:
    feature_map = torch.randn(7, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    feature_map[:, 1] *= 1e-5  # a channel whose tenth power vanishes beside the others
    feature_map = scale * feature_map
    feature_map[0], feature_map[1, 2] = 0, 0
    rows = GramRows((1, 2, 3, 10))(feature_map)
    assert rows.shape == (7, 4, 5)
    for column, power in enumerate((1, 2, 3, 10)):
        expected = rows_of(feature_map / scale, power) * scale**2
        scale_of = torch.tensor(np.abs(expected) + 1e-9 * scale**2)
        error = (rows[:, column].double() - torch.tensor(expected)).abs() / scale_of
        assert error.max() < 1e-4  # sums of mixed sign lose digits


def test_row_sums_do_not_depend_on_the_size_of_the_batch() -> None:
    feature_map = torch.randn(300, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = GramRows((1, 5))
    one = torch.cat([rows(part) for part in feature_map.split(1)])
    # their powers: the slope of the root has no bound at 0
    power = torch.tensor(rows.powers)[:, None]
    sums, expected = (each.sign() * each.abs() ** power for each in (rows(feature_map), one))
    error = (sums - expected).abs().amax(dim=(0, 2)) / expected.abs().amax(dim=(0, 2))
    assert error.max() < 1e-6


def test_half_precision_maps_do_not_overflow() -> None:
    feature_map = torch.full((2, 3, 4, 4), 6e4, dtype=torch.float16)
    rows = GramRows((10,))(feature_map)
    expected = torch.tensor(rows_of(feature_map.double(), 10), dtype=torch.float32)
    torch.testing.assert_close(rows[:, 0], expected, rtol=1e-4, atol=0)


def test_the_split_of_the_stream_changes_nothing(network: Network) -> None:
    train, seen = images(60), network.observe(2 * images(9, 1))
    whole, parts = fitted(network, train, [60]), fitted(network, train, [7, 0, 50, 3])
    torch.testing.assert_close(parts.score(seen), whole.score(seen), rtol=1e-5, atol=1e-6)


def test_images_within_all_ranges_score_zero_and_others_less(network: Network) -> None:
    train = images(60)
    detector = fitted(network, train, [60])
    held = random_bits(torch.arange(60), 1, seed=0)[:, 0] % 10 == 0
    score = detector.score(network.observe(train))
    assert score[~held].eq(0).all()
    assert score[held].lt(0).any()
    assert detector.score(network.observe(5 * train)).lt(score).all()


def test_a_class_never_predicted_takes_the_extrema_of_all_classes(network: Network) -> None:
    train = images(60)
    predicted = network.observe(train).logits.argmax(dim=1)
    empty = next(k for k in range(3) if not predicted.eq(k).any())
    detector = fitted(network, train, [60])
    others = [k for k in range(3) if predicted.eq(k).any()]
    assert detector.smallest[empty].equal(detector.smallest[others].amin(dim=0))
    assert detector.largest[empty].equal(detector.largest[others].amax(dim=0))
    network.head.bias.data[empty] = 100
    assert detector.score(network.observe(train)).isfinite().all()


def test_without_held_out_images_all_blocks_weigh_the_same(network: Network) -> None:
    held = random_bits(torch.arange(4), 1, seed=0)[:, 0] % 10 == 0
    assert not held.any()
    detector = fitted(network, images(4), [4])
    assert detector.usual.tolist() == [1, 1]
    assert detector.score(network.observe(1000 * images(4, 1))).isfinite().all()


def test_no_images_to_fit_on_are_refused(network: Network) -> None:
    with pytest.raises(RuntimeError, match="expected ID images to fit on, got none"):
        fitted(network, images(0), [0])


@pytest.mark.parametrize("powers", [(), (0, 1), (1.5,), (-2,)])
def test_powers_that_are_not_integers_above_zero_are_refused(powers: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected powers that are integers above zero"):
        Gram(powers=powers)  # type: ignore[arg-type]


def test_blocks_come_in_execution_order_and_must_exist(network: Network) -> None:
    assert Gram().blocks_of(network) == BLOCKS
    assert Gram(["4", "1", "4"]).blocks_of(network) == BLOCKS
    with pytest.raises(ValueError, match="expected a block of Sequential, got '2'"):
        Gram(["2"]).check(network)
    with pytest.raises(ValueError, match="expected at least one block, got none"):
        Gram([])


def test_gram_of_chosen_blocks_reads_these_alone(network: Network) -> None:
    detector = fitted(network, images(60), [60], blocks=["4"], powers=(1, 3))
    assert detector.smallest.shape == (3, 2 * 4)

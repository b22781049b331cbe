"""HDFF: vectors of the equation, spelled out, and the limit of many dimensions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from src.detectors.hdff import HDFF, orthonormal_rows
from src.network import Network
from tests.fakes import grey_network

BLOCKS = ("1", "4")
CHANNELS = [3, 4]


@pytest.fixture
def network() -> Network:
    return grey_network(4)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def labels(count: int) -> Tensor:
    """Of classes 0, 1 and 3; 2 has no image."""
    return torch.tensor([0, 1, 3])[torch.arange(count) % 3]


def fitted(network: Network, detector: HDFF, sizes: tuple[int, ...] = (60,)) -> HDFF:
    image, label = images(60), labels(60)
    for part, of, row in zip(
        image.split(sizes), label.split(sizes), torch.arange(60).split(sizes), strict=True
    ):
        seen = network.observe(part, keep_maps=False, read=detector.reads(network))
        detector.update(seen, of, row)
    detector.fit(network)
    return detector


@torch.no_grad()
def oracle(network: Network, test: Tensor, pool: str, projection: np.ndarray) -> list[float]:
    """Cosines of hyperdimensional vectors, block by block and image by image."""
    seen, new = network.observe(images(60)), network.observe(test)
    vectors = []
    for one in (seen, new):
        total = np.zeros((len(one.image), projection.shape[1]))
        for block, rows in zip(BLOCKS, np.split(projection, [CHANNELS[0]]), strict=True):
            feature_map = one.feature_map[block].double().numpy()
            mean = seen.feature_map[block].double().mean(dim=(2, 3)).mean().item()
            centred = feature_map - mean
            reduce = np.max if pool == "max" else np.mean
            total += reduce(centred, axis=(2, 3)) @ rows
        vectors.append(total)
    label, score = labels(60).numpy(), []
    for y in vectors[1]:
        of_class = [vectors[0][label == k].sum(axis=0) for k in (0, 1, 3)]
        score.append(max(y @ d / math.sqrt((y @ y) * (d @ d)) for d in of_class))
    return score


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("hd_dim", [None, 4, 50])
def test_hdff_is_the_cosine_of_bundled_vectors(
    network: Network, pool: str, hd_dim: int | None
) -> None:
    detector = fitted(network, HDFF(pool=pool, hd_dim=hd_dim, seed=3))  # type: ignore[arg-type]
    projection = np.eye(7)
    if hd_dim is not None:
        projection = orthonormal_rows(CHANNELS, hd_dim, seed=3).double().numpy()
    test = images(20, 1) ** 3
    score = detector.score(network.observe(test))
    expected = torch.tensor(oracle(network, test, pool, projection), dtype=torch.float64)
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5)


def test_projections_are_orthonormal_within_a_block_and_reproducible() -> None:
    rows = orthonormal_rows(CHANNELS, 10, seed=5)
    for block in rows.split(CHANNELS):
        torch.testing.assert_close(block @ block.mT, torch.eye(len(block)), rtol=0, atol=1e-5)
    assert rows.equal(orthonormal_rows(CHANNELS, 10, seed=5))
    assert not rows.equal(orthonormal_rows(CHANNELS, 10, seed=6))
    assert (rows[:3] @ rows[3:].mT).abs().max() > 1e-2


def test_more_dimensions_come_nearer_to_the_limit(network: Network) -> None:
    seen = network.observe(images(20, 1) ** 3)
    limit = fitted(network, HDFF()).score(seen)
    error = []
    for hd_dim in (10, 300, 10_000):
        runs = [fitted(network, HDFF(hd_dim=hd_dim, seed=s)).score(seen) for s in range(5)]
        error.append(max((run - limit).abs().max().item() for run in runs))
        assert error[-1] < 5 / math.sqrt(hd_dim)
    assert error[0] > 2 * error[1] > 4 * error[2]


@pytest.mark.parametrize("hd_dim", [None, 20])
def test_the_split_of_the_stream_changes_nothing(network: Network, hd_dim: int | None) -> None:
    seen = network.observe(images(9, 1))
    whole = fitted(network, HDFF(hd_dim=hd_dim)).score(seen)
    parts = fitted(network, HDFF(hd_dim=hd_dim), (7, 0, 50, 3)).score(seen)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)


def test_an_image_of_the_class_vectors_direction_scores_one(network: Network) -> None:
    detector, image = HDFF(), images(2)
    detector.update(network.observe(image[:1]), torch.tensor([0]), torch.tensor([0]))
    detector.fit(network)
    score = detector.score(network.observe(image))
    assert score[0].item() == pytest.approx(1, abs=1e-6)
    assert score[1] < score[0]


def test_a_class_without_images_takes_no_part(network: Network) -> None:
    assert fitted(network, HDFF()).prototype.shape == (7, 3)


def test_a_block_of_more_channels_than_dimensions_is_refused(network: Network) -> None:
    detector = HDFF(hd_dim=3)
    with pytest.raises(ValueError, match="hd_dim of at least 4, the channels of '4', got 3"):
        detector.check(network)
    HDFF(blocks=["1"], hd_dim=3).check(network)


def test_unlabelled_images_are_refused(network: Network) -> None:
    with pytest.raises(ValueError, match=r"labels within 0..3, got label -1"):
        HDFF().update(network.observe(images(2)), torch.tensor([0, -1]), torch.arange(2))


def test_no_images_to_fit_on_are_refused(network: Network) -> None:
    detector = HDFF()
    detector.update(network.observe(images(0)), torch.arange(0), torch.arange(0))
    with pytest.raises(RuntimeError, match="expected ID images to fit on, got none"):
        detector.fit(network)


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="expected pool 'max' or 'mean', got 'sum'"):
        HDFF(pool="sum")  # type: ignore[arg-type]

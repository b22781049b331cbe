"""NMD against plain NumPy and scikit-learn, and channels or pools that give it little."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from src.data.distortions import PixelShuffle
from src.data.pseudo_ood import Jigsaw
from src.detectors import NMD
from src.network import Network

POOL = {"jigsaw": Jigsaw(2, border="keep", identity=False), "pixels": PixelShuffle()}


def new_network(dead: int = 0) -> Network:
    """Blocks "1" and "3" of three and four channels; the first ones of the second are dead."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 3),
    )  # fmt: skip
    net[2].weight.data[:dead] = 0
    net[2].bias.data[:dead] = 0.3
    return Network(net, ["1", "3"], image_shape=(2, 8, 8)).eval()


def images(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def fitted(network: Network, detector: NMD, count: int = 80) -> NMD:
    for row in torch.arange(count).split(33):
        seen = network.observe(
            images(count)[row], keep_maps=False, read=tuple(detector.reads(network))
        )
        detector.update(seen, torch.full_like(row, -1), row)
    detector.fit(network)
    return detector


@torch.no_grad()
def means(network: Network, image: Tensor) -> np.ndarray:
    """(B, 7) channel means of both blocks."""
    normal = (image - network.mean) / network.std
    maps = [network.net[:depth](normal).double().numpy() for depth in (2, 4)]
    return np.concatenate([each.mean(axis=(2, 3)) for each in maps], axis=1)


@torch.no_grad()
def score(detector: NMD, network: Network, image: Tensor) -> np.ndarray:
    return detector.score(network.observe(image)).numpy()


@pytest.mark.parametrize("penalty", [1.0, 50.0])
def test_it_is_a_balanced_logistic_regression(penalty: float) -> None:
    network, index = new_network(), torch.arange(80)
    known = means(network, images(80))
    mean, deviation = known.mean(0), known.std(0)
    rows = [known, *(means(network, change(images(80), index)) for change in POOL.values())]
    model = LogisticRegression(C=1 / penalty, class_weight="balanced", tol=1e-10, max_iter=10_000)
    model.fit((np.concatenate(rows) - mean) / deviation, [1] * 80 + [0] * 160)
    detector = fitted(network, NMD(POOL, penalty=penalty))
    np.testing.assert_allclose(detector.weight, model.coef_[0], rtol=1e-3, atol=1e-4)
    test = (means(network, images(9, seed=1)) - mean) / deviation
    expected = model.decision_function(test)
    np.testing.assert_allclose(
        score(detector, network, images(9, seed=1)), expected, rtol=1e-3, atol=1e-3
    )


def test_fewer_images_than_channels_are_enough_because_of_the_penalty() -> None:
    network = new_network()
    detector = fitted(network, NMD(POOL), count=5)
    assert np.isfinite(score(detector, network, images(9, seed=1))).all()


def test_a_channel_that_never_varies_says_nothing() -> None:
    network = new_network(dead=2)
    detector = fitted(network, NMD(POOL))
    assert detector.deviation[3:5].isinf().all()
    assert detector.weight[3:5].abs().max() == 0
    before = score(detector, network, images(9, seed=1))
    network.net[2].bias.data[:2] = 7.0
    assert np.array_equal(score(detector, network, images(9, seed=1)), before)


def test_blocks_are_chosen() -> None:
    assert fitted(new_network(), NMD(POOL, blocks=["3"])).mean.shape == (4,)


def test_images_whose_channels_never_vary_all_score_the_same() -> None:
    network = new_network(dead=4)
    detector = fitted(network, NMD(POOL, blocks=["3"]))
    assert len(np.unique(score(detector, network, images(9, seed=1)))) == 1


def test_what_it_cannot_work_with_is_refused_early() -> None:
    with pytest.raises(ValueError, match="images of 8 pixels a side, got a pool of nine"):
        NMD({"nine": Jigsaw(9)}).check(new_network())
    for arguments in ({"pool": {}}, {"pool": POOL, "penalty": -1}, {"pool": POOL, "penalty": 0}):
        with pytest.raises(ValueError, match=r"expected a (pool of pseudo-OOD|penalty above 0)"):
            NMD(**arguments)  # type: ignore[arg-type]

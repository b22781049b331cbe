"""NormProfile: its inputs and weights against plain code, and networks that give it little."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from src.data.distortions import Blur, PixelShuffle, Zoom
from src.data.pseudo_ood import Jigsaw
from src.detectors.norm_profile import NormProfile
from src.network import Network

POOL = {"jigsaw": Jigsaw(2, border="keep", identity=False), "pixels": PixelShuffle()}


def new_network(*, dead: bool = False, blocks: Sequence[str] = ("1", "3")) -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 3),
    )  # fmt: skip
    if dead:
        net[2].weight.data.zero_()
        net[2].bias.data.fill_(0.5)
    return Network(net, blocks, image_shape=(2, 8, 8)).eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def fitted(network: Network, detector: NormProfile, sizes: tuple[int, ...] = (80,)) -> NormProfile:
    image, index = images(80), torch.arange(80)
    for part, row in zip(image.split(sizes), index.split(sizes), strict=True):
        seen = network.observe(part, keep_maps=False, read=tuple(detector.reads(network)))
        detector.update(seen, torch.full_like(row, -1), row)
    detector.fit(network)
    return detector


@torch.no_grad()
def inputs(network: Network, image: Tensor) -> np.ndarray:
    """(B, 5): norms of both blocks, means of both blocks, energy."""
    normalised = (image - network.mean) / network.std
    maps = [network.net[:depth](normalised).double() for depth in (2, 4)]
    norms = [each.square().sum((2, 3)).sqrt().mean(1).log() for each in maps]
    means = [each.mean((1, 2, 3)).log() for each in maps]
    energy = network.net(normalised).double().logsumexp(1)
    return torch.stack([*norms, *means, energy], dim=1).numpy()


def oracle(network: Network, penalty: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    index = torch.arange(80)
    row = [inputs(network, images(80))]
    row += [inputs(network, change(images(80), index)) for change in POOL.values()]
    mean, deviation = row[0].mean(0), row[0].std(0)
    standard = (np.concatenate(row) - mean) / deviation
    fit = LogisticRegression(C=1 / penalty, class_weight="balanced", tol=1e-10, max_iter=10_000)
    fit.fit(standard, [1] * 80 + [0] * 160)
    return mean, deviation, fit.coef_[0], fit.intercept_[0]


@pytest.mark.parametrize("penalty", [1.0, 30.0])
def test_it_is_a_balanced_logistic_regression_on_logarithms(penalty: float) -> None:
    network = new_network()
    detector = fitted(network, NormProfile(POOL, penalty=penalty))
    mean, deviation, weight, bias = oracle(network, penalty)
    np.testing.assert_allclose(detector.mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(detector.deviation, deviation, rtol=1e-4)
    np.testing.assert_allclose(detector.weight, weight, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        seen = network.observe(images(20, 1))
    expected = (inputs(network, images(20, 1)) - mean) / deviation @ weight + bias
    np.testing.assert_allclose(detector.score(seen), expected, rtol=1e-3, atol=1e-3)
    assert detector.probability(seen).equal(detector.score(seen).sigmoid())


def test_it_is_the_same_in_any_batches() -> None:
    network = new_network()
    whole, parts = (fitted(network, NormProfile(POOL), sizes) for sizes in ((80,), (13, 0, 67)))
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-6, atol=1e-8)


def test_each_member_takes_one_forward_of_each_image() -> None:
    network, seen = new_network(), []
    network.net.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    fitted(network, NormProfile(POOL), (50, 30))
    assert seen == [50] * 3 + [30] * 3


def test_weights_are_at_least_zero_if_asked() -> None:
    free, bound = (
        fitted(new_network(), NormProfile(POOL, nonnegative=each)).weight for each in (False, True)
    )
    assert free.min() < 0
    assert bound.min() == 0
    assert bound.max() > 0


@pytest.mark.parametrize(("options", "size"), [
    ({}, 5), ({"energy": False}, 4), ({"statistics": ["norm"]}, 3), ({"blocks": ["3"]}, 3),
    ({"statistics": ["mean"], "energy": False, "blocks": ["1"]}, 1),
])  # fmt: skip
def test_inputs_are_chosen(options: dict[str, object], size: int) -> None:
    network = new_network()
    detector = fitted(network, NormProfile(POOL, **options))
    assert detector.weight.shape == (size,)
    assert detector.score(network.observe(images(9))).shape == (9,)


def test_a_block_that_never_varies_says_nothing() -> None:
    detector = fitted(new_network(dead=True), NormProfile(POOL))
    assert detector.weight[[1, 3, 4]].abs().max() == 0
    assert detector.weight[[0, 2]].abs().max() > 0
    assert detector.score(new_network(dead=True).observe(images(9))).isfinite().all()


def test_it_tells_the_weight_of_each_input_of_each_block() -> None:
    network = new_network()
    detector = fitted(network, NormProfile(POOL))
    norm_1, norm_3, mean_1, mean_3, energy = detector.weight.tolist()
    assert detector.block_weights(network) == {
        "1": {"norm": norm_1, "mean": mean_1},
        "3": {"norm": norm_3, "mean": mean_3},
        "logits": {"energy": energy},
    }
    dead = new_network(dead=True)
    some = fitted(dead, NormProfile(POOL, statistics=["norm"], energy=False))
    assert some.block_weights(dead) == {"1": {"norm": some.weight[0].item()}, "3": {"norm": None}}


def test_what_a_small_image_does_not_allow_is_left_out() -> None:
    pool = POOL | {"jigsaw_9": Jigsaw(9), "zoom": Zoom(8.5), "blur": Blur(9)}
    detector, network = NormProfile(pool), new_network()
    assert [*detector.members(network)] == ["jigsaw", "pixels", "blur"]
    with pytest.raises(ValueError, match=r"expected pseudo-OOD for images of 8 pixels .*jigsaw_9"):
        NormProfile({"jigsaw_9": Jigsaw(9)}).check(network)


@pytest.mark.parametrize("count", [1, 5])
def test_few_images_are_enough_and_said(count: int, caplog: pytest.LogCaptureFixture) -> None:
    detector, network = NormProfile(POOL), new_network()
    with torch.no_grad():
        seen = network.observe(images(count))
        detector.update(seen, torch.zeros(count).long(), torch.arange(count))
        detector.fit(network)
        score = detector.score(network.observe(images(9, seed=1)))
    assert f"learns 5 weights from {count} held-out images" in caplog.text
    assert score.isfinite().all()
    assert (len(score.unique()) == 1) == (count == 1)  # of one image, no input varies


@pytest.mark.parametrize("build", [
    lambda: NormProfile({}), lambda: NormProfile(POOL, statistics=["max"]),
    lambda: NormProfile(POOL, penalty=-1), lambda: NormProfile(POOL, statistics=[], energy=False),
])  # fmt: skip
def test_arguments_are_checked(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^expected (a pool of|statistics out of)"):
        build()

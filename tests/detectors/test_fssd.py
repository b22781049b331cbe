"""FSSD: noise, distances, steps and regressions, each by itself."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from src.data.pseudo_ood import Jigsaw
from src.detectors.fssd import FSSD
from src.network import Network

BLOCKS = ("1", "3")


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip
    net[1].running_mean.data, net[1].running_var.data = torch.rand(3), 0.5 + torch.rand(3)
    network = Network(net, BLOCKS, image_shape=(2, 8, 8), mean=[0.3, 0.6], std=[0.2, 0.5])
    return network.eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def fitted(network: Network, detector: FSSD, sizes: tuple[int, ...] = (60,)) -> FSSD:
    image, index = images(60), torch.arange(60)
    for part, row in zip(image.split(sizes), index.split(sizes), strict=True):
        with torch.no_grad():
            detector.prepare(network)
            seen = network.observe(part, keep_maps=False, read=detector.reads(network))
            detector.update(seen, torch.full_like(row, -1), row)
    detector.fit(network)
    return detector


@torch.no_grad()
def maps(network: Network, normalised: Tensor) -> Iterator[np.ndarray]:
    """(B, C * H * W) rectified maps of both blocks, of images already normalised."""
    for block in BLOCKS:
        output = network.net[: int(block) + 1](normalised)
        yield output.double().clamp_min(0).flatten(1).numpy()


def normalised(network: Network, image: Tensor) -> Tensor:
    return (image - network.mean) / network.std


def distances(network: Network, image: Tensor, noise_images: int = 100, seed: int = 0) -> Tensor:
    """(B, 2) in float64."""
    generator = torch.Generator().manual_seed(seed)
    pixel = torch.randint(0, 255, (noise_images, 2, 8, 8), generator=generator)
    noise = maps(network, (pixel.float() - 127.5) / 255)
    seen = maps(network, normalised(network, image))
    columns = [
        [np.sqrt(((row - n.mean(axis=0)) ** 2).sum()) for row in f]
        for n, f in zip(noise, seen, strict=True)
    ]
    return torch.tensor(np.array(columns).T)


def test_the_z_score_is_the_mean_over_blocks_of_standardised_distances(network: Network) -> None:
    train, test = distances(network, images(60)), distances(network, 2 * images(20, 1))
    expected = ((test - train.mean(dim=0)) / train.std(dim=0, correction=0)).mean(dim=1)
    score = fitted(network, FSSD()).score(network.observe(2 * images(20, 1)))
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noise_images", [1, 130])
def test_the_last_is_the_distance_in_the_last_block(network: Network, noise_images: int) -> None:
    detector = FSSD(combine="last", noise_images=noise_images, seed=4)
    assert not detector.is_fitted_on_data
    score = detector.score(network.observe(images(20, 1)))
    expected = distances(network, images(20, 1), noise_images, seed=4)[:, 1]
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-6)
    assert [block for block, _ in detector.reads(network)] == ["3"]


def test_the_noise_itself_lies_near_the_singularity(network: Network) -> None:
    detector = FSSD(combine="last", noise_images=1)
    pixel = torch.randint(0, 255, (1, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    noise = (pixel - 127.5) / 255 * network.std + network.mean
    near, far = detector.score(network.observe(torch.cat([noise, images(1)])))
    assert near < 1e-5 < far


def test_the_logistic_regression_is_that_of_scikit_learn(network: Network) -> None:
    jigsaw = Jigsaw(2)
    detector = fitted(network, FSSD(combine="logreg", pseudo_ood=jigsaw), (13, 0, 47))
    index = torch.arange(60)
    row = torch.cat([distances(network, x) for x in (images(60), jigsaw(images(60), index))])
    mean, spread = row.mean(dim=0), row.std(dim=0, correction=0)
    model = LogisticRegression().fit((row - mean) / spread, [1] * 60 + [0] * 60)
    test = (distances(network, 2 * images(20, 1)) - mean) / spread
    expected = torch.tensor(model.decision_function(test.numpy()))
    score = detector.score(network.observe(2 * images(20, 1)))
    torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("step", [0.003, 0.2])
def test_the_step_goes_towards_the_singularity_of_each_block(
    network: Network, step: float
) -> None:
    image = images(5, 1)
    expected = torch.zeros(5)
    plain = FSSD(["3"], combine="last")
    plain.prepare(network)
    (pair,) = plain.reads(network)
    for n in range(5):  # one by one, in the network's normalised input
        x = normalised(network, image[n : n + 1]).requires_grad_()
        reading = network.net[:4](x).relu().flatten(1) - plain.singularity
        loss = -reading.norm()
        (g,) = torch.autograd.grad(loss, x)
        g = (g - g.mean()) / g.std(correction=0)
        moved = x.detach() + step * g / network.std
        seen = network.observe(moved * network.std + network.mean)
        expected[n] = seen.read(*pair)
    with torch.inference_mode():
        detector = FSSD(["3"], combine="last", step=step)
        score = detector.score(network.observe(image))
    torch.testing.assert_close(score.float(), expected, rtol=1e-4, atol=1e-4)
    before = plain.score(network.observe(image))
    if step < 0.01:
        assert score.lt(before).all()


def test_a_step_is_taken_in_fitting_and_scoring_in_every_block(network: Network) -> None:
    detector = fitted(network, FSSD(step=0.01), (20, 40))
    alone = [FSSD([block], combine="last", step=0.01) for block in BLOCKS]
    train, test = (
        torch.stack([d.score(network.observe(x)) for d in alone], dim=1)
        for x in (images(60), images(9, 1))
    )
    expected = ((test - train.mean(dim=0)) / train.std(dim=0, correction=0)).mean(dim=1)
    score = detector.score(network.observe(images(9, 1)))
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


def test_black_images_have_no_gradient_that_could_break_the_step(network: Network) -> None:
    for module in (network.net[0], network.net[3]):
        module.weight.data.zero_()
    score = FSSD(combine="last", step=0.1).score(network.observe(torch.zeros(2, 2, 8, 8)))
    assert score.eq(0).all()


def test_the_split_of_the_stream_changes_nothing(network: Network) -> None:
    seen = network.observe(images(9, 1))
    whole = fitted(network, FSSD()).score(seen)
    parts = fitted(network, FSSD(), (7, 0, 50, 3)).score(seen)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)


def test_the_singularity_is_found_once_and_leaves_the_network_as_it_was(network: Network) -> None:
    network.train()
    network.net[0].eval()
    statistics = network.net[1].running_mean.clone()
    calls: list[int] = []
    handle = network.net.register_forward_hook(lambda *_: calls.append(1))
    detector = FSSD()
    readers = tuple(detector.reads(network))
    assert not calls
    for _ in range(2):
        detector.prepare(network)
        assert len(calls) == 2  # of 50 noise images each
        assert tuple(detector.reads(network)) == readers
    assert len({*readers, *detector.reads(network)}) == 2
    handle.remove()
    assert network.net[1].running_mean.equal(statistics)
    assert network.net[1].training
    assert not network.net[0].training
    assert not detector.singularity.is_inference()


def test_a_loaded_singularity_is_used_as_it_is(network: Network) -> None:
    first, second = FSSD(combine="last"), FSSD(combine="last", seed=1)
    first.prepare(network)
    second.load_state_dict(first.state_dict())
    seen = network.observe(images(3))
    assert second.score(seen).equal(first.score(seen))


def test_the_singularity_of_another_network_is_refused(network: Network) -> None:
    detector = FSSD()
    detector.prepare(network)
    other = Network(network.net, ("3",), image_shape=(2, 8, 8))
    with pytest.raises(ValueError, match=r"expected maps of 256 values.*got 64"):
        detector.prepare(other)


def test_a_block_that_is_dead_or_constant_counts_in_its_own_units(network: Network) -> None:
    network.net[3].weight.data.zero_()
    network.net[3].bias.data.fill_(1)
    score = fitted(network, FSSD()).score(network.observe(1000 * images(3)))
    assert score.isfinite().all()
    assert score.max() < 1e6


def test_no_images_to_fit_on_are_refused(network: Network) -> None:
    for detector in (FSSD(), FSSD(combine="logreg", pseudo_ood=Jigsaw(2))):
        detector.update(network.observe(images(0)), torch.arange(0), torch.arange(0))
        with pytest.raises(RuntimeError, match="expected ID images to fit on, got none"):
            detector.fit(network)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"combine": "sum"}, "expected combine 'zscore', 'last' or 'logreg', got 'sum'"),
        ({"noise_images": 0}, "at least one noise image"),
        ({"step": -0.1}, "a step of at least 0, got"),
        ({"combine": "logreg"}, "expected pseudo_ood with combine='logreg'"),
        ({"pseudo_ood": Jigsaw(2)}, "expected pseudo_ood with combine='logreg'"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FSSD(**wrong)  # type: ignore[arg-type]

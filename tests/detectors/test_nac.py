"""NAC: the gradient by autograd, the histogram by loops."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.detectors.nac import NAC
from src.network import ForwardPass, Network


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(12, 5)
    )
    return Network(net, ("1",), image_shape=(1, 8, 8)).eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def fitted(network: Network, detector: NAC, sizes: tuple[int, ...] = (200,)) -> NAC:
    image, index = images(sum(sizes)), torch.arange(sum(sizes))
    for part, row in zip(image.split(sizes), index.split(sizes), strict=True):
        detector.update(network.observe(part), torch.full_like(row, -1), row)
    detector.fit(network)
    return detector


def states(network: Network, seen: ForwardPass, alpha: float) -> np.ndarray:
    """By autograd, from KL(u || p) = sum of u log(u / p)."""
    feature = seen.feature.detach().double().requires_grad_()
    head = network.head
    logits = feature @ head.weight.detach().double().mT + head.bias.detach().double()
    uniform = torch.full_like(logits, 1 / logits.shape[1])
    divergence = (uniform * (uniform.log() - logits.log_softmax(dim=1))).sum()
    (gradient,) = torch.autograd.grad(divergence, feature)
    return (1 / (1 + torch.exp(-alpha * feature * gradient))).detach().numpy()


@pytest.mark.parametrize(
    ("alpha", "bins", "threshold"), [(100, 50, 50), (3, 2, 700), (10, 7, 400)]
)
def test_nac_is_the_mean_coverage_of_the_neurons_states(
    network: Network, alpha: float, bins: int, threshold: float
) -> None:
    detector = fitted(network, NAC(alpha=alpha, bins=bins, threshold=threshold))
    test = network.observe(2 * images(20, 1))
    train, new = (states(network, s, alpha) for s in (network.observe(images(200)), test))
    edges = np.linspace(0, 1, bins + 1)  # numpy's last bin has both its edges
    expected = np.zeros(len(new))
    for neuron in range(12):
        count, _ = np.histogram(train[:, neuron], edges)
        coverage = np.minimum(count / (threshold * len(train) / 1000), 1)
        for n, state in enumerate(new[:, neuron]):
            bin_ = min(int(np.searchsorted(edges, state, side="right")) - 1, bins - 1)
            expected[n] += coverage[bin_] / 12
    torch.testing.assert_close(detector.score(test), torch.tensor(expected), rtol=0, atol=1e-9)
    assert 0 < expected.min() < expected.max() <= 1


def test_the_split_of_the_stream_changes_nothing(network: Network) -> None:
    whole, parts = fitted(network, NAC()), fitted(network, NAC(), (7, 0, 190, 3))
    assert parts.coverage.equal(whole.coverage)


def test_as_many_images_again_change_nothing(network: Network) -> None:
    once, twice = NAC(), NAC()
    seen = network.observe(images(100))
    for detector, times in ((once, 1), (twice, 2)):
        for _ in range(times):
            detector.update(seen, torch.full((100,), -1), torch.arange(100))
        detector.fit(network)
    assert once.coverage.equal(twice.coverage)


def test_a_state_of_one_is_in_the_last_bin(network: Network) -> None:
    detector = NAC()
    assert detector.histogram.bin_of(torch.tensor([[0.0, 0.02, 0.999, 1.0]])).tolist() == [
        [0, 1, 49, 49]
    ]


def test_states_never_seen_score_zero_and_usual_ones_one(network: Network) -> None:
    detector = NAC(alpha=1e9)  # all states are 0 or 1
    image = images(1)
    for index in range(100):
        detector.update(network.observe(image), torch.tensor([-1]), torch.tensor([index]))
    detector.fit(network)
    seen = network.observe(image)
    assert detector.score(seen).item() == 1
    negative = ForwardPass(image, seen.logits, -seen.feature, {}, {}, network)
    assert detector.score(negative).item() == 0


def test_no_images_to_fit_on_are_refused(network: Network) -> None:
    with pytest.raises(RuntimeError, match="expected ID images to fit on, got none"):
        fitted(network, NAC(), (0,))


def test_one_class_alone_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 1))
    network = Network(net, ("1",), image_shape=(1, 8, 8)).eval()
    with pytest.raises(ValueError, match="a network of at least two classes"):
        fitted(network, NAC())


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"bins": 1}, {"threshold": 0}])
def test_arguments_out_of_their_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="above zero and at least 2 bins, got"):
        NAC(**wrong)

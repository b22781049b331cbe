"""PRO against plain steps, and gradients that are not a number."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from src.detectors import GEN, KNN, MSP, PRO, Detector, Entropy
from src.network import Network


def new_network(scale: float = 1.0) -> Network:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    net[3].weight.data *= scale
    network = Network(net.float(), ["1"], image_shape=(2, 8, 8), mean=0.4, std=[0.2, 0.5])
    return network.double().eval()


def images(n: int) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def gen(logits: Tensor) -> Tensor:
    p = logits.softmax(dim=1)
    return -(p * (1 - p)).pow(0.1).sum(dim=1)


@pytest.mark.parametrize(
    ("detector", "score"),
    [
        (MSP(), lambda logits: logits.softmax(dim=1).amax(dim=1)),
        (MSP(temperature=50), lambda logits: (logits / 50).softmax(dim=1).amax(dim=1)),
        (Entropy(), lambda logits: -torch.distributions.Categorical(logits=logits).entropy()),
        (GEN(), gen),
    ],
    ids=["msp", "msp_50", "entropy", "gen"],
)
@pytest.mark.parametrize("steps", [1, 3])
def test_it_is_the_smallest_score_on_a_descent_of_the_normalised_image(
    detector: Detector, score: Callable[[Tensor], Tensor], steps: int
) -> None:
    network, epsilon = new_network(), 0.02
    normal = (images(6) - network.mean) / network.std
    along = []
    for _ in range(steps + 1):
        normal = normal.detach().requires_grad_()
        value = score(network.net(normal))
        along.append(value.detach())
        normal = normal - epsilon * torch.autograd.grad(value.sum(), normal)[0].sign()
    with torch.no_grad():
        seen = network.observe(images(6))
        pro = PRO(detector, epsilon=epsilon, steps=steps).score(seen)
        plain = detector.score(seen)
    torch.testing.assert_close(pro, torch.stack(along).amin(dim=0), rtol=1e-9, atol=1e-12)
    assert (pro < plain).all()


def test_a_gradient_that_is_not_a_number_leaves_the_image_as_it_is() -> None:
    network = new_network(scale=1000.0)  # probabilities of 1
    with torch.no_grad():
        seen = network.observe(images(6))
        assert seen.gradient(GEN().score).isnan().any()
        assert PRO(GEN()).score(seen).equal(GEN().score(seen))


def test_steps_leave_no_gradient_in_the_parameters() -> None:
    network = new_network()
    PRO(MSP(), steps=2).score(network.observe(images(2)))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_wrapped_detector_is_fitted_on_images_without_a_step() -> None:
    network, index = new_network(), torch.arange(20)
    with torch.no_grad():
        seen = network.observe(images(20))
        inner, outer = KNN(1), PRO(KNN(1))
        for detector in (inner, outer):
            detector.update(seen, index, index)
            detector.fit(network)
    assert outer.detector.bank.equal(inner.bank)


def test_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one step, got 0"):
        PRO(MSP(), steps=0)

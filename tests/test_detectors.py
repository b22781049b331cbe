"""The contract of all detectors, and an oracle for each."""

from math import exp, fsum, log

import pytest
import torch
from torch import Tensor, nn

from src import detectors
from src.detectors import MSP, Detector, Energy, FeatureNorm, MaxLogit, expand_blocks
from src.network import ForwardPass, Network

BLOCKS = ("1", "3")
DETECTORS = [
    MSP(),
    MaxLogit(),
    Energy(),
    Energy(temperature=0.1),
    Energy(temperature=1000.0),
    FeatureNorm(),
    FeatureNorm(at="1"),
]
every_detector = pytest.mark.parametrize("detector", DETECTORS, ids=repr)


@pytest.fixture
def network() -> Network:
    """Fires on the pattern it was built for; class 0 for bright left halves, 1 for right ones."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU(),
        nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2, bias=False),
    )  # fmt: skip
    vertical = torch.tensor([[-1.0, 0.0, 1.0]] * 3)  # an edge filter, and its mirror image
    net[0].weight.data = torch.stack([vertical, -vertical])[:, None]
    net[5].weight.data = torch.tensor([[-1.0] * 16 + [1.0] * 16, [1.0] * 16 + [-1.0] * 16])
    network = Network(net, BLOCKS, image_shape=(1, 8, 8), mean=0.5, std=0.5).eval()
    network.norm_ratio = {"1": 1.0, "3": 2.0}
    return network


@pytest.fixture
def id_image() -> Tensor:
    """(8, 1, 8, 8): strong vertical edges, as the network knows them."""
    contrast = torch.linspace(0.5, 1, 4).view(-1, 1, 1, 1)
    left = contrast * (torch.arange(8) < 4).float().expand(4, 1, 8, 8)
    return torch.cat([left, left.flip(3)])


@pytest.fixture
def ood_image() -> Tensor:
    """(8, 1, 8, 8): faint noise."""
    noise = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return 0.5 + 0.02 * noise


def a_pass(network: Network, logits: Tensor) -> ForwardPass:
    """A pass of given logits: all that a detector of logits looks at."""
    empty = torch.zeros(len(logits), 0)
    return ForwardPass(empty, logits, empty, {}, {}, network)


def test_every_exported_detector_is_under_test() -> None:
    exported = {getattr(detectors, name) for name in detectors.__all__}
    classes = {item for item in exported if isinstance(item, type)} - {Detector}
    assert {type(detector) for detector in DETECTORS} == classes


@every_detector
def test_a_score_is_one_finite_number_per_image(
    detector: Detector, network: Network, id_image: Tensor, ood_image: Tensor
) -> None:
    for image in (id_image, ood_image, torch.zeros(1, 1, 8, 8), 1000 * id_image):
        score = detector.score(network.observe(image))
        assert score.shape == (len(image),)
        assert score.is_floating_point()
        assert score.isfinite().all()


@every_detector
def test_a_score_does_not_depend_on_the_other_images_of_the_batch(
    detector: Detector, network: Network, id_image: Tensor, ood_image: Tensor
) -> None:
    seen = network.observe(torch.cat([id_image, ood_image]))
    whole = detector.score(seen)
    for size in (1, 3, 8):
        row = torch.arange(16).div(size, rounding_mode="floor")
        parts = [detector.score(seen.rows(row == part)) for part in row.unique()]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=0)


@every_detector
def test_in_distribution_images_score_higher(
    detector: Detector, network: Network, id_image: Tensor, ood_image: Tensor
) -> None:
    score = [detector.score(network.observe(image)) for image in (id_image, ood_image)]
    assert score[0].min() > score[1].max()


@every_detector
def test_scoring_works_in_inference_mode_and_changes_nothing(
    detector: Detector, network: Network, id_image: Tensor
) -> None:
    expected = detector.score(network.observe(id_image)).detach()
    with torch.inference_mode():
        seen = network.observe(id_image)
        before = [seen.logits.clone(), *(norm.clone() for norm in seen.norm.values())]
        assert detector.score(seen).equal(expected)
        assert all(map(torch.equal, before, [seen.logits, *seen.norm.values()]))


@every_detector
def test_the_repr_names_every_argument(detector: Detector) -> None:
    again = eval(repr(detector), vars(detectors))
    assert type(again) is type(detector)
    for name in ("at", "temperature"):
        assert getattr(again, name, None) == getattr(detector, name, None)


@every_detector
def test_a_detector_without_update_is_not_fitted_on_data(
    detector: Detector, network: Network
) -> None:
    assert not detector.is_fitted_on_data
    detector.fit(network)


def test_msp_is_the_largest_probability(network: Network) -> None:
    logits = 5 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    expected = [
        exp(max(row)) / fsum(exp(logit) for logit in row) for row in logits.double().tolist()
    ]
    score = MSP().score(a_pass(network, logits))
    torch.testing.assert_close(
        score, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_msp_tells_images_apart_that_float32_does_not(network: Network) -> None:
    logits = torch.zeros(12, 10)
    logits[:, 3] = torch.arange(20.0, 32.0)
    assert logits.softmax(dim=1).amax(dim=1).unique().numel() == 1
    assert MSP().score(a_pass(network, logits)).diff().gt(0).all()


def test_max_logit_is_the_largest_logit(network: Network) -> None:
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    assert MaxLogit().score(a_pass(network, logits)).tolist() == [max(r) for r in logits.tolist()]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2, 100.0])
def test_energy_is_the_scaled_log_of_summed_exponentials(
    network: Network, temperature: float
) -> None:
    logits = 5 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    expected = [
        temperature * log(fsum(exp(logit / temperature) for logit in row))
        for row in logits.double().tolist()
    ]
    score = Energy(temperature).score(a_pass(network, logits))
    torch.testing.assert_close(
        score.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5
    )


def test_energy_survives_logits_whose_exponential_does_not(network: Network) -> None:
    score = Energy().score(a_pass(network, torch.tensor([[1000.0, 0.0], [-1000.0, -1000.0]])))
    torch.testing.assert_close(score, torch.tensor([1000.0, -1000.0 + log(2)]))


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"above zero, got {temperature}"):
        Energy(temperature)


def test_feature_norm_is_the_norm_of_its_block(network: Network, id_image: Tensor) -> None:
    seen = network.observe(id_image)
    for block in BLOCKS:
        rectified = seen.feature_map[block].double().clamp_min(0)
        expected = torch.stack([(c**2).sum().sqrt() for x in rectified for c in x]).view(8, -1)
        score = FeatureNorm(at=block).score(seen)
        torch.testing.assert_close(score.double(), expected.mean(dim=1), rtol=1e-6, atol=0)


def test_the_selected_block_is_looked_up_when_scoring(network: Network, id_image: Tensor) -> None:
    detector, seen = FeatureNorm(), network.observe(id_image)
    for first, second in ((2.0, 1.0), (1.0, 2.0)):
        network.norm_ratio = {"1": first, "3": second}
        assert detector.score(seen).equal(seen.norm["1" if first > second else "3"])
    network.norm_ratio = {}
    with pytest.raises(RuntimeError, match="no block selected"):
        detector.score(seen)


def test_each_block_becomes_one_column_per_block(network: Network, id_image: Tensor) -> None:
    named = {
        "norm": FeatureNorm("each_block"), "other@each_block": FeatureNorm("each_block"),
        "msp": MSP(), "selected": FeatureNorm(),
    }  # fmt: skip
    columns = expand_blocks(named, network)
    assert list(columns) == ["norm@1", "norm@3", "other@1", "other@3", "msp", "selected"]
    seen = network.observe(id_image)
    for block in BLOCKS:
        assert columns[f"norm@{block}"].score(seen).equal(seen.norm[block])
    assert named["norm"].at == "each_block"
    assert columns["msp"] is named["msp"]
    assert len({id(detector) for detector in columns.values()}) == len(columns)


def test_a_block_that_the_network_does_not_have_is_refused_early(network: Network) -> None:
    with pytest.raises(ValueError, match="block of Sequential, got 'layer4'; blocks are 1, 3"):
        expand_blocks({"norm": FeatureNorm(at="layer4")}, network)


def test_a_detector_must_say_how_it_scores(network: Network, id_image: Tensor) -> None:
    with pytest.raises(NotImplementedError):
        Detector().score(network.observe(id_image))

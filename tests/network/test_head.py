"""Laws of the head: what it is taken for, what it is asked, and what is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torchvision import models

from src.detectors import (
    ASH,
    CORE,
    DICE,
    FDBD,
    NAC,
    NCI,
    SCALE,
    VRA,
    AdaSCALE,
    CADRef,
    Detector,
    Energy,
    GradNorm,
    MatchedNorm,
    ReAct,
    Residual,
    SelectedNorm,
    ViM,
    expand_blocks,
)
from src.network import Network

D, K, SHAPE = 8, 3, (3, 12, 12)


class Cosine(nn.Linear):
    """Ten times the cosine."""

    def forward(self, feature: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(feature), F.normalize(self.weight))


class Scaled(nn.Linear):
    """A scale that is 1 before training."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, feature: Tensor) -> Tensor:
        return self.scale * super().forward(feature)


class LowRank(nn.Linear):
    """An update of the weight that is 0 before training."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down, self.up = nn.Linear(D, 2), nn.Linear(2, K)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, feature: Tensor) -> Tensor:
        return super().forward(feature) + self.up(self.down(feature))


class Rectified(nn.Linear):
    """Linear for features that are not negative."""

    def forward(self, feature: Tensor) -> Tensor:
        return super().forward(feature.relu())


class Capped(nn.Linear):
    """Linear for small logits."""

    def forward(self, feature: Tensor) -> Tensor:
        return super().forward(feature).clamp(-50, 50)


class Zero(Cosine):
    """A cosine head whose weight is 0 before training."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        nn.init.zeros_(self.weight)


class Named(nn.Linear):
    """A plain layer under another name."""


def weight_normed(*sizes: int) -> nn.Module:
    return parametrizations.weight_norm(nn.Linear(*sizes))


class Net(nn.Module):
    """A small network; `give` says what it returns, given the logits and the feature."""

    def __init__(self, head: nn.Module, give: Callable[..., Any] = lambda logits, *_: logits):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, D, 3), nn.BatchNorm2d(D), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.fc, self.auxiliary, self.give = head, nn.Linear(D, K), give

    def forward(self, image: Tensor) -> Any:
        feature = self.body(image)
        return self.give(self.fc(feature), feature, self)


def network_with(head: nn.Module, give: Callable[..., Any] | None = None) -> Network:
    net = Net(head) if give is None else Net(head, give)
    return Network(net, ["body.2"], image_shape=SHAPE)


def images(n: int, seed: int) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


PLAIN = [nn.Linear, lambda d, k: nn.Linear(d, k, bias=False), Named, weight_normed]
OTHER = [Cosine, Scaled, LowRank, Rectified, Capped, Zero]
ASKING = [
    lambda: ReAct(percent=100), lambda: VRA(low=0, high=100),
    lambda: ASH(variant="p", percent=0),
]  # fmt: skip
COMPUTING = [DICE, ViM, Residual, NCI, FDBD, NAC, CADRef, GradNorm, CORE]


@pytest.mark.parametrize("make", [*PLAIN, *OTHER])
def test_what_changes_nothing_in_the_feature_scores_like_the_network(
    make: Callable[[int, int], nn.Module],
) -> None:
    torch.manual_seed(0)
    network = network_with(make(D, K)).eval()
    for parameter in network.head.parameters():  # as after a training
        nn.init.normal_(parameter)
    with torch.no_grad():
        seen = network.observe(images(20, seed=1))
        for detector in [build() for build in ASKING]:
            detector.update(seen, torch.zeros(20, dtype=torch.int64), torch.arange(20))
            detector.fit(network)
            score = detector.score(seen)
            torch.testing.assert_close(score, Energy().score(seen).double(), rtol=1e-4, atol=1e-4)
            assert score.dtype == torch.float64


@pytest.mark.parametrize("make", OTHER)
def test_what_reshapes_the_feature_asks_any_head(make: Callable[[int, int], nn.Module]) -> None:
    torch.manual_seed(0)
    network = network_with(make(D, K)).eval()
    seen = network.observe(images(20, seed=1))
    feature = 2.5 * seen.feature + 1
    with torch.no_grad():
        torch.testing.assert_close(
            network.logits_of(feature.double()).float(), network.head(feature)
        )
        network.norm_ratio = {"body.2": 1.0}
        for detector in (SCALE(), SelectedNorm(), AdaSCALE(), MatchedNorm()):
            detector.check(network)
            detector.update(seen, torch.zeros(20, dtype=torch.int64), torch.arange(20))
            detector.fit(network)
            assert detector.score(seen).isfinite().all()


@pytest.mark.parametrize("kind", COMPUTING)
@pytest.mark.parametrize("make", OTHER)
def test_weight_and_bias_of_a_head_that_does_more_are_not_taken(
    make: Callable[[int, int], nn.Module], kind: type[Detector]
) -> None:
    network = network_with(make(D, K))
    assert not network.head_is_linear
    with pytest.raises(
        ValueError, match=rf"with which {kind.__name__} computes, got {make.__name__}, .*leave"
    ):
        expand_blocks({"column": kind()}, network)


@pytest.mark.parametrize("kind", COMPUTING)
@pytest.mark.parametrize("make", PLAIN)
def test_weight_and_bias_of_a_plain_head_are_taken_whatever_its_class(
    make: Callable[[int, int], nn.Module], kind: type[Detector]
) -> None:
    assert network_with(make(D, K)).head_is_linear
    expand_blocks({"column": kind()}, network_with(make(D, K)))


def test_a_detector_of_pytorch_ood_that_reads_the_weight_refuses_such_a_head() -> None:
    theirs = pytest.importorskip("pytorch_ood.detector")
    from functools import partial

    from src.detectors.pytorch_ood import PytorchOOD

    network = network_with(Cosine(D, K))
    for make in (partial(theirs.DICE, p=0.5), partial(theirs.ViM, d=2), theirs.fDBD):
        with pytest.raises(ValueError, match="with which PytorchOOD computes, got Cosine"):
            PytorchOOD(make).check(network)
    PytorchOOD(theirs.ReAct).check(network)


class Cast(nn.Linear):
    def forward(self, feature: Tensor) -> Tensor:
        return super().forward(feature.float())


class Noisy(nn.Linear):
    def forward(self, feature: Tensor) -> Tensor:
        return super().forward(feature) + torch.randn(K)


class Two(nn.Linear):
    def forward(self, feature: Tensor, scale: float) -> Tensor:
        return scale * super().forward(feature)


class Calls(Net):
    """Calls its head in another way than with the feature alone."""

    def __init__(self, head: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__(head)
        self.call = call

    def forward(self, image: Tensor) -> Tensor:
        return self.call(self.fc, self.body(image))


def overwrite(head: nn.Module, feature: Tensor) -> Tensor:
    logits: Tensor = head(feature)
    feature.mul_(0)
    return logits


def twice(head: nn.Module, feature: Tensor) -> Tensor:
    logits: Tensor = head(feature)
    head(feature + 1)
    return logits


def zero_head() -> nn.Linear:
    head = nn.Linear(D, K, bias=False)
    nn.init.zeros_(head.weight)
    return head


def of_nan() -> nn.Linear:
    head = nn.Linear(D, K)
    nn.init.constant_(head.weight, torch.nan)
    return head


def plain(give: Callable[..., Any]) -> Net:
    return Net(nn.Linear(D, K), give)


def called(call: Callable[[Any, Tensor], Tensor]) -> Net:
    return Calls(nn.Linear(D, K), call)


LAST = "expected a network whose last step is an nn.Linear"
SAME = "logits follow from its input"
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "relu behind it": (lambda: plain(lambda x, *_: x.relu()), LAST),
    "an in-place scale behind it": (lambda: plain(lambda x, *_: x.mul_(2)), LAST),
    "a scale of 1 behind it": (lambda: plain(lambda x, *_: x * 1), LAST),
    "zeros with a scale behind them": (lambda: Net(zero_head(), lambda x, *_: x * 5), LAST),
    "a sum of two": (lambda: plain(lambda x, h, net: x + net.auxiliary(h)), LAST),
    "nothing": (lambda: plain(lambda *_: None), "returns a NoneType"),
    "a dict without logits": (lambda: plain(lambda x, *_: {"out": x}), "returns a dict"),
    "an empty tuple": (lambda: plain(lambda *_: ()), "returns a tuple"),
    "the feature before the logits": (lambda: plain(lambda x, h, _: (h, x)), "returns a tuple"),
    "a keyword": (lambda: called(lambda fc, h: fc(input=h)), "give it one input"),
    "two inputs": (lambda: Calls(Two(D, K), lambda fc, h: fc(h, 2.0)), "raised TypeError"),
    "two calls": (lambda: called(twice), "the head 'fc' to run once .* it ran 2 times"),
    "an overwritten input": (lambda: called(overwrite), SAME),
    "a fixed precision": (lambda: Net(Cast(D, K)), "also in float64, got Cast at 'fc'"),
    "noise": (lambda: Net(Noisy(D, K)), SAME),
    "NaN": (lambda: Net(of_nan()), "expected finite logits of random images, got NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_head_by_itself_is_refused(name: str) -> None:
    make, says = REFUSED[name]
    with pytest.raises(ValueError, match=says):
        Network(make(), ["body.2"], image_shape=SHAPE)


class Output(NamedTuple):
    auxiliary: Tensor
    logits: Tensor


@dataclass
class Record:
    hidden: Tensor
    logits: Tensor


OUTPUTS: dict[str, Callable[[Tensor, Tensor, Any], Any]] = {
    "a tuple": lambda x, h, net: (x, net.auxiliary(h)),
    "a list": lambda x, h, net: [x, h],
    "a named tuple": lambda x, h, net: Output(net.auxiliary(h), x),
    "a dataclass": lambda x, h, net: Record(h, x),
    "a dict": lambda x, h, net: {"hidden": h, "logits": x},
}


@pytest.mark.parametrize("when", ["always", "while training"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_logits_are_taken_out_of_what_a_network_returns(name: str, when: str) -> None:
    torch.manual_seed(0)

    def give(x: Tensor, h: Tensor, net: nn.Module) -> Any:
        return OUTPUTS[name](x, h, net) if net.training or when == "always" else x

    network, image = network_with(nn.Linear(D, K), give), images(4, seed=1)
    for training in (False, True):
        network.train(training)
        feature = network.net.body((image - 0.5) / 0.5)
        assert network(image).equal(network.net.fc(feature))
    seen = network.eval().observe(image)
    assert seen.logits.equal(network.head(seen.feature))


def fail(*_: Any) -> None:
    raise KeyError("labels")


TRAINED: dict[str, tuple[Callable[..., Any], str]] = {
    "the feature": (lambda x, h, net: h, r"the logits \(2, 3\) of 'fc' while training too"),
    "another head first": (lambda x, h, net: (net.auxiliary(h), x), "got a tuple that has none"),
    "nothing": (lambda x, h, net: None, "got a NoneType"),
    "a dict without logits": (lambda x, h, net: {"loss": x.sum()}, "got a dict"),
    "an error": (fail, "while training, got KeyError: 'labels'; switch off what it adds then"),
}


@pytest.mark.parametrize("name", TRAINED)
def test_what_returns_no_logits_while_training_is_refused(name: str) -> None:
    give, says = TRAINED[name]
    with pytest.raises(ValueError, match=says):
        network_with(nn.Linear(D, K), lambda x, h, net: give(x, h, net) if net.training else x)


def test_what_is_done_to_logits_while_training_alone_is_left_to_the_network() -> None:
    network_with(nn.Linear(D, K), lambda x, h, net: F.dropout(x, training=net.training))


def test_the_dry_run_in_training_mode_leaves_no_trace() -> None:
    net = Net(nn.Linear(D, K), lambda x, h, net: (x, F.dropout(h)) if net.training else x)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    Network(net, ["body.2"], image_shape=SHAPE)
    assert torch.get_rng_state().equal(random)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_of_torchvision_with_auxiliary_heads_learns_by_its_head() -> None:
    torch.manual_seed(0)
    net = models.googlenet(num_classes=K, init_weights=False)
    network = Network(net, image_shape=(3, 32, 32))
    F.cross_entropy(network(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0])).backward()
    assert network.head.weight.grad.abs().sum() > 0
    assert net.aux1.fc2.weight.grad is None
    assert network.head_path == "fc"


def test_a_net_that_raises_anything_at_such_images_is_refused() -> None:
    net = models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8
    )
    with pytest.raises(ValueError, match=r"of image_shape \(3, 16, 16\), got AssertionError: Wr"):
        Network(net, image_shape=(3, 16, 16))

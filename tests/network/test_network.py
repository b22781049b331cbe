"""Laws of the network: what is observed, what is refused, what travels with the weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.metrics import feature_norm
from src.models import ResNet
from src.network import Network
from src.network.tracing import tap

SHAPE = (3, 16, 16)
BLOCKS = ("layer1.0", "layer2.0", "layer3.0", "layer4.0")


def resnet() -> ResNet:
    torch.manual_seed(0)
    return ResNet((1, 1, 1, 1), width=4, num_classes=5)


@pytest.fixture
def network() -> Network:
    network = Network(resnet(), r"layer\d\.\d", image_shape=SHAPE)
    network(torch.rand(8, *SHAPE))  # in training mode: BatchNorm statistics of some images
    return network.eval()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))


def open_hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in net.modules())


class Backwards(nn.Module):
    """Registers its blocks in the reverse of the order in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.c = nn.Conv2d(4, 4, 3)
        self.b = nn.Conv2d(4, 4, 3)
        self.a = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.c(self.b(self.a(image))).mean((2, 3)))


class Repeated(nn.Module):
    """Runs one block twice and another never."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.idle = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.shared(self.shared(image)).mean((2, 3)))


class Pair(nn.Module):
    """Returns two maps."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image, image


class FromPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = Pair(), nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.pair(image)[0].mean((2, 3)))


class Auxiliary(nn.Module):
    """Registers a linear layer behind its head."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.auxiliary = nn.Linear(4, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.block(image).mean((2, 3)))


def flat(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_observed_logits_equal_plain_logits_bit_for_bit(network: Network, image: Tensor) -> None:
    logits = network(image)
    for keep_maps in (True, False):
        assert network.observe(image, keep_maps=keep_maps).logits.equal(logits)
    with network.observe_norms() as norm:
        assert network(image).equal(logits)
    assert list(norm) == list(BLOCKS)
    assert network(image).equal(logits)


def test_forward_normalises_images(image: Tensor) -> None:
    net, mean, std = resnet().eval(), (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    network = Network(net, BLOCKS, image_shape=SHAPE, mean=mean, std=std)
    normalised = torch.stack([(image[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(network(image), net(normalised))
    one = Network(net, BLOCKS, image_shape=SHAPE, mean=0.5, std=0.25)
    torch.testing.assert_close(one(image), net((image - 0.5) / 0.25))


def test_the_head_turns_the_feature_into_the_logits(network: Network, image: Tensor) -> None:
    seen = network.observe(image)
    assert network.head(seen.feature).equal(seen.logits)
    assert seen.feature.shape == (6, 32)
    assert network.num_classes == 5


def test_norms_are_those_of_the_observed_maps(network: Network, image: Tensor) -> None:
    seen = network.observe(image)
    assert tuple(seen.norm) == tuple(seen.feature_map) == network.blocks == BLOCKS
    for block in BLOCKS:
        assert seen.norm[block].equal(feature_norm(seen.feature_map[block]))
    x = F.relu(network.net.bn1(network.net.conv1((image - 0.5) / 0.5)))
    for number in (1, 2, 3, 4):
        x = network.net.get_submodule(f"layer{number}")(x)
        torch.testing.assert_close(seen.feature_map[f"layer{number}.0"], x)


def test_without_keep_maps_no_map_is_kept(network: Network, image: Tensor) -> None:
    seen = network.observe(image, keep_maps=False)
    assert not seen.feature_map
    for block, norm in network.observe(image).norm.items():
        assert seen.norm[block].equal(norm)


def test_rows_of_a_pass_are_the_rows_of_all_its_parts(network: Network, image: Tensor) -> None:
    seen, keep = network.observe(image), torch.tensor([True, False, True, True, False, False])
    kept = seen.rows(keep)
    for name in ("image", "logits", "feature"):
        assert getattr(kept, name).equal(getattr(seen, name)[keep])
    for block in BLOCKS:
        assert kept.norm[block].equal(seen.norm[block][keep])
        assert kept.feature_map[block].equal(seen.feature_map[block][keep])
    assert kept.network is network


def test_blocks_come_in_execution_order() -> None:
    for blocks in ("[abc]", ["c", "a", "b"], ["b", "c", "a"]):
        network = Network(Backwards(), blocks, image_shape=SHAPE)
        seen = network.observe(torch.rand(2, *SHAPE))
        assert network.blocks == tuple(seen.norm) == tuple(seen.feature_map) == ("a", "b", "c")


def test_a_regular_expression_must_match_the_whole_path() -> None:
    assert Network(resnet(), "layer4", image_shape=SHAPE).blocks == ("layer4",)
    assert Network(resnet(), r"layer4\.0.*bn2", image_shape=SHAPE).blocks == ("layer4.0.bn2",)


def test_no_hook_outlives_a_pass(network: Network, image: Tensor) -> None:
    network.observe(image)
    with network.observe_norms():
        assert open_hooks(network) == len(BLOCKS)
    assert open_hooks(network) == 0


def test_no_hook_outlives_an_exception(network: Network) -> None:
    with pytest.raises(RuntimeError):
        network.observe(torch.rand(2, 3, 0, 0))
    assert open_hooks(network) == 0
    with (
        pytest.raises(AttributeError),
        tap(network.net, {"conv1": lambda *_: None, "wrong": lambda *_: None}),
    ):
        pass
    assert open_hooks(network) == 0


def test_no_hook_outlives_a_refusal() -> None:
    net = Repeated()
    with pytest.raises(ValueError, match="2 times"):
        Network(net, ["shared"], image_shape=SHAPE)
    assert open_hooks(net) == 0


@pytest.mark.parametrize(
    ("make", "blocks", "message"),
    [
        (resnet, ["layer1.0", "layer5.0"], r"ResNet as blocks, got 'layer5\.0'.*layer4\.0"),
        (resnet, r"stage\d", r"got 'stage\\\\d'; near it are"),
        (resnet, [], "got an empty list"),
        (Repeated, ["shared"], "'shared' to run once in a forward pass, it ran 2 times"),
        (Repeated, "shared|idle", "once in a forward pass, it ran [02] times"),
        (Repeated, ["idle"], "'idle' to run once in a forward pass, it ran 0 times"),
        (resnet, ["fc"], r"'fc' to return a feature map \(B, C, H, W\), .* got \(2, 5\)"),
        (FromPair, ["pair"], "'pair' to return a feature map .* got tuple"),
        (flat, ["0"], r"expected a network whose last step is an nn\.Linear .* got Sequential"),
        (lambda: nn.Sequential(flat(), nn.Linear(4, 2), nn.Softmax(1)), [r"0.0"], "head comes"),
        (lambda: nn.Sequential(flat(nn.Linear(14, 2)), Pair()), ["0"], "head comes last"),
    ],
    ids=[
        "unknown_block", "no_match", "no_block", "shared_block", "shared_and_idle", "idle_block",
        "not_a_map", "a_tuple", "no_head", "softmax_behind_the_head", "pair_of_logits",
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_observed_is_refused(
    make: Callable[[], nn.Module], blocks: str | list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Network(make(), blocks, image_shape=SHAPE)


@pytest.mark.parametrize("inplace", [True, False])
def test_a_map_that_is_overwritten_later_is_observed_as_it_was(inplace: bool) -> None:
    body = flat(nn.BatchNorm2d(4), nn.Identity(), nn.Hardtanh(-1.0, 0.0, inplace=inplace))
    network = Network(nn.Sequential(body, nn.Linear(4, 2)), ["0.0", "0.1"], image_shape=SHAPE)
    assert not network.places["0.0"].overwritten
    assert network.places["0.1"].overwritten == inplace
    image = torch.rand(2, *SHAPE)
    with torch.no_grad():
        seen = network.eval().observe(image)
        expected = body[1](body[0]((image - 0.5) / 0.5))
    assert seen.feature_map["0.1"].equal(expected)
    assert seen.norm["0.1"].equal(feature_norm(expected))
    assert network.observe(image).logits.equal(network(image))


def test_what_a_tap_reads_is_not_spoilt_by_a_later_in_place_operation() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(-1.0, 0.0, inplace=True))
    image = torch.rand(2, *SHAPE)
    with torch.no_grad(), tap(net, {"0": lambda _, output: feature_norm(output)}) as norm:
        net(image)
    assert norm["0"].equal(feature_norm(net[0](image)))
    assert norm["0"].all()


@pytest.mark.parametrize("name", ["mean", "std"])
def test_normalisation_of_another_number_of_channels_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="of 3 channels, got 2 values"):
        Network(resnet(), BLOCKS, image_shape=SHAPE, **{name: (0.5, 0.5)})


def test_construction_leaves_weights_statistics_and_random_state_alone() -> None:
    net = resnet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    Network(net, BLOCKS, image_shape=SHAPE)
    assert torch.get_rng_state().equal(random)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert open_hooks(net) == 0


@pytest.mark.parametrize("training", [True, False])
def test_construction_leaves_the_training_mode_of_every_module_alone(training: bool) -> None:
    net = resnet().train(training)
    net.layer2.eval()  # as when a part is frozen
    before = [module.training for module in net.modules()]
    Network(net, BLOCKS, image_shape=SHAPE)
    assert [module.training for module in net.modules()] == before


def test_norms_are_float32_and_close_in_any_memory_format_and_precision(
    network: Network, image: Tensor
) -> None:
    expected = network.observe(image).norm
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network.observe(image)
    assert half.feature_map["layer4.0"].dtype == torch.bfloat16
    network.to(memory_format=torch.channels_last)
    last = network.observe(image.contiguous(memory_format=torch.channels_last))
    for block in BLOCKS:
        assert half.norm[block].dtype == last.norm[block].dtype == torch.float32
        torch.testing.assert_close(half.norm[block], expected[block], rtol=0.05, atol=0)
        torch.testing.assert_close(last.norm[block], expected[block], rtol=1e-4, atol=0)


def test_the_block_of_largest_norm_ratio_is_selected(network: Network) -> None:
    for position, block in enumerate(BLOCKS):
        network.norm_ratio = {b: 2.0 if b == block else 1.0 + 0.1 * position for b in BLOCKS}
        assert network.selected == network.block("selected") == block
        assert network.block("layer2.0") == "layer2.0"


@pytest.mark.parametrize(
    ("ratio", "selected"),
    [((1, 1, 1, 1), "layer4.0"), ((2, 1, 2, 1), "layer3.0"), ((3, 3, 1, 2), "layer2.0")],
)
def test_of_equal_norm_ratios_the_deeper_block_is_selected(
    network: Network, ratio: tuple[float, ...], selected: str
) -> None:
    network.norm_ratio = dict(zip(BLOCKS, ratio, strict=True))
    assert network.selected == selected


def test_before_selection_the_selected_block_is_refused(network: Network) -> None:
    assert network.selected is None
    with pytest.raises(RuntimeError, match="no block selected; train with BlockSelection"):
        network.block("selected")


def test_a_block_that_is_not_observed_is_refused(network: Network) -> None:
    with pytest.raises(
        ValueError, match=r"block of ResNet, got 'layer5\.0'; blocks are layer1\.0"
    ):
        network.block("layer5.0")


@pytest.mark.parametrize("ratio", [{}, dict(zip(BLOCKS, (1.0, 1.5, 1.25, 0.5), strict=True))])
def test_weights_normalisation_and_selection_travel_together(
    network: Network, image: Tensor, tmp_path: Path, ratio: dict[str, float]
) -> None:
    network.norm_ratio = ratio
    torch.save(network.state_dict(), tmp_path / "network.pt")
    other = Network(ResNet((1, 1, 1, 1), 4, 5), BLOCKS, image_shape=SHAPE, mean=0.1, std=2).eval()
    other.norm_ratio = dict.fromkeys(BLOCKS, 9.0)
    other.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))
    assert other.norm_ratio == ratio
    assert other.selected == ("layer2.0" if ratio else None)
    assert other(image).equal(network(image))


@pytest.mark.parametrize("blocks", [BLOCKS[:3], (*BLOCKS, "bn1"), ("layer1", *BLOCKS[1:])])
def test_a_selection_among_other_blocks_is_refused(
    network: Network, blocks: tuple[str, ...]
) -> None:
    network.norm_ratio = dict.fromkeys(BLOCKS, 1.0)
    other = Network(resnet(), blocks, image_shape=SHAPE)
    with pytest.raises(ValueError, match=r"NormRatio of the blocks .*, got layer1\.0, layer2\.0"):
        other.load_state_dict(network.state_dict())
    assert other.selected is None


def test_a_selection_by_another_criterion_travels_with_the_state(network: Network) -> None:
    deeper = {block: float(depth) for depth, block in enumerate(BLOCKS)}
    shallower = {block: -float(depth) for depth, block in enumerate(BLOCKS)}
    network.measured = {"norm_ratio": deeper, "paired_t": shallower}
    assert (network.criterion, network.selected) == ("paired_t", BLOCKS[0])
    other = Network(resnet(), BLOCKS, image_shape=SHAPE)
    other.load_state_dict(network.state_dict())
    assert (other.measured, other.selected) == (network.measured, BLOCKS[0])
    other.norm_ratio = deeper  # then it is the paper's rule again, and so is what is saved
    assert (other.criterion, other.selected) == ("norm_ratio", BLOCKS[-1])
    assert other.get_extra_state() == deeper


@pytest.mark.parametrize("name", ["paired_t", "d_prime"])
def test_a_selection_without_norm_ratio_or_by_an_unknown_criterion_is_refused(
    name: str, network: Network
) -> None:
    value = dict.fromkeys(BLOCKS, 1.0)
    names = ("auroc", name) if name == "paired_t" else ("norm_ratio", name)
    with pytest.raises(ValueError, match=f"expected NormRatio and one of .*got .*{name}"):
        network.set_extra_state(dict.fromkeys(names, value))


def test_a_selection_is_in_execution_order_whatever_order_it_was_saved_in(
    network: Network,
) -> None:
    network.set_extra_state({block: float(i) for i, block in enumerate(reversed(BLOCKS))})
    assert list(network.norm_ratio) == list(BLOCKS)


def test_the_head_is_the_linear_layer_that_returns_the_logits(image: Tensor) -> None:
    network = Network(Auxiliary(), ["block"], image_shape=SHAPE)
    assert network.head_path == "head"
    seen = network.observe(image)
    assert network.head(seen.feature).equal(seen.logits)

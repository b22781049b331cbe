"""Laws of the places in a network: how outputs are read as maps, which blocks are proposed."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from src.metrics import feature_norm
from src.models import ResNet
from src.network import Network
from src.network.blocks import Place

SHAPE = (3, 16, 16)


class Residual(nn.Module):
    """A residual block whose sum is in place, with its activation in a module, as torchvision."""

    def __init__(self, channels: int, *, shortcut: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = (
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )
        self.relu, self.shortcut = nn.ReLU(inplace=True), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        if self.shortcut:
            y += x
        return self.relu(y)


class Functional(nn.Module):
    """Plain convolutions with functional activations, as in the first tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.fc = nn.Linear(6, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(image)), 2)
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


class Wrapped(nn.Module):
    """A network in a network, with its own head outside of it."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.backbone, self.fc = backbone, nn.Linear(features, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.backbone(image).mean((2, 3)))


class Backbone(nn.Module):
    """Residual blocks between functional steps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(4) for _ in range(3))

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem(image))
        for block in self.blocks:
            x = block(x) * 1.0
        return x


class SharedActivation(nn.Module):
    """One ReLU behind all convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(4), nn.BatchNorm2d(6), nn.ReLU()
        self.fc = nn.Linear(6, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(image)))
        return self.fc(self.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class Reshaped(nn.Module):
    """Returns its map in another layout."""

    def __init__(self, layout: str, class_tokens: int = 1) -> None:
        super().__init__()
        self.layout = layout
        self.token = nn.Parameter(torch.full((1, class_tokens, 5), 9.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.layout == "channels_last":
            return x.permute(0, 2, 3, 1).contiguous()
        if self.layout == "tokens":
            return torch.cat((self.token.expand(len(x), -1, -1), x.flatten(2).mT), dim=1)
        return x


class Laid(nn.Module):
    def __init__(self, layout: str, class_tokens: int = 1) -> None:
        super().__init__()
        self.conv, self.block = nn.Conv2d(3, 5, 3, 2, padding=1), Reshaped(layout, class_tokens)
        self.fc = nn.LazyLinear(2)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.block(self.conv(image)).flatten(1))


def network_of(layout: str, image_shape: tuple[int, ...], class_tokens: int = 1) -> Network:
    torch.manual_seed(0)
    net = Laid(layout, class_tokens)
    net(torch.zeros(2, *image_shape))
    return Network(net, ["conv", "block"], image_shape=image_shape).eval()


@pytest.mark.parametrize("image_shape", [(3, 16, 16), (3, 24, 16), (3, 12, 16)])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "tokens"])
def test_feature_norm_does_not_depend_on_the_layout(
    layout: str, image_shape: tuple[int, ...]
) -> None:
    network = network_of(layout, image_shape)
    place, plain = network.places["block"], network.places["conv"]
    assert (place.layout, place.stride) == (layout, 2)
    assert (plain.layout, plain.stride) == ("channels_first", 2)
    seen = network.observe(torch.rand(4, *image_shape))
    torch.testing.assert_close(seen.norm["block"], seen.norm["conv"], rtol=1e-6, atol=0)
    for block in ("conv", "block"):
        assert seen.feature_map[block].shape[1:] == network.places[block].shape
    torch.testing.assert_close(
        seen.feature_map["block"].flatten(2), seen.feature_map["conv"].flatten(2)
    )


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("image_shape", [(3, 16, 16), (3, 16, 48)])
def test_class_tokens_are_those_beyond_the_grid_and_are_left_out(
    count: int, image_shape: tuple[int, ...]
) -> None:
    network = network_of("tokens", image_shape, count)
    assert network.places["block"].class_tokens == count
    assert network.places["block"].shape == (5, image_shape[1] * image_shape[2] // 4, 1)
    before = network.observe(image := torch.rand(2, *image_shape)).norm["block"]
    network.net.block.token.data.mul_(100)
    assert network.observe(image).norm["block"].equal(before)


def test_tokens_that_fill_no_grid_are_all_positions() -> None:
    place = Place("tokens", (5, 7, 1), 4)
    assert place.feature_map(torch.rand(2, 7, 5)).shape == (2, 5, 7, 1)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("channels_first", (2, 5, 4, 4)), ("channels_last", (2, 4, 4, 5)), ("tokens", (2, 16, 5))],
)
def test_a_map_is_a_view_of_the_output(layout: str, shape: tuple[int, ...]) -> None:
    output = torch.rand(shape)
    seen = Place(layout, (5, 4, 4), 1).feature_map(output)
    assert seen.dim() == 4
    assert seen.shape[1] == 5
    assert seen.data_ptr() == output.data_ptr()
    assert feature_norm(seen).shape == (2,)


def test_a_block_whose_output_has_the_batch_elsewhere_is_refused() -> None:
    class SequenceFirst(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).permute(2, 0, 1)  # (N, B, C)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.fc = SequenceFirst(), nn.Linear(3, 2)

        def forward(self, image: Tensor) -> Tensor:
            return self.fc(self.block(image).mean(0))

    with pytest.raises(ValueError, match=r"to return a feature map .*got \(256, 2, 3\)"):
        Network(Net(), ["block"], image_shape=SHAPE)


@pytest.mark.parametrize(
    ("size", "padding", "strides"),
    [(32, 1, (1, 2, 4, 8)), (32, 2, (1, 2, 4, 8)), (28, 1, (1, 2, 4, 7)), (96, 2, (1, 2, 4, 8))],
)
def test_strides_are_powers_of_two_where_padding_makes_the_sides_odd(
    size: int, padding: int, strides: tuple[int, ...]
) -> None:
    net = ResNet((1, 1, 1, 1), width=4, stem_padding=padding)
    network = Network(net, image_shape=(3, size, size))
    assert tuple(place.stride for place in network.places.values()) == strides


PROPOSALS = {
    "resnet18": (models.resnet18, 64, r"layer\d\.\d", 8),
    "resnet50": (models.resnet50, 64, r"layer\d\.\d", 16),
    "vgg16": (
        lambda: models.vgg.VGG(models.vgg.make_layers(SMALL_VGG), 2),
        64,
        r"features\.\d+",
        6,
    ),
    "vgg16_bn": (
        lambda: models.vgg.VGG(models.vgg.make_layers(SMALL_VGG, batch_norm=True), 2),
        64,
        r"features\.\d+",
        6,
    ),
    "mobilenet_v3_large": (models.mobilenet_v3_large, 96, r"features\.(\d+|16\.2)", 16),
    "efficientnet_b0": (models.efficientnet_b0, 96, r"features\.(\d\.\d|8\.2)", 17),
    "convnext_tiny": (models.convnext_tiny, 64, r"features\.[1357]\.\d", 18),
    "regnet_y_400mf": (models.regnet_y_400mf, 64, r"trunk_output\.block\d\.block\d-\d", 16),
    "densenet121": (models.densenet121, 64, r"features\.denseblock\d", 4),
    "swin_t": (models.swin_t, 64, r"features\.[1357]\.\d", 12),
    "vit_b_16": (lambda: models.VisionTransformer(64, 16, 3, 2, 32, 64), 64, r"encoder\..*\d", 3),
    "googlenet": (
        lambda: models.googlenet(init_weights=False, aux_logits=False),
        64,
        r"(conv\d|inception\d[a-e])",
        12,
    ),
    "shufflenet": (models.shufflenet_v2_x0_5, 64, r"(stage\d\.\d|conv5\.2)", 17),
    "mnasnet": (models.mnasnet0_5, 64, r"layers\.(\d+\.\d|16)", 17),
    "residual": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            Residual(4),
            nn.Sequential(Residual(4, shortcut=False), Residual(4)),
            nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.ReLU()),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
        ),
        16,
        r"2|3\.0|3\.1|4\.2",
        4,
    ),
    "functional": (Functional, 16, r"conv[12]", 2),
    "shared activation": (SharedActivation, 16, r"bn[12]", 2),
    "wrapped": (lambda: Wrapped(Backbone(), 4), 16, r"backbone\.blocks\.\d", 3),
    "twice wrapped": (
        lambda: nn.Sequential(nn.Identity(), Wrapped(Wrapped(Backbone(), 4).backbone, 4)),
        16,
        r"1\.backbone\.blocks\.\d",
        3,
    ),
}
SMALL_VGG = (8, "M", 8, "M", 8, 8, "M", 8, 512)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPOSALS)
def test_blocks_are_found_where_a_reader_of_the_network_would_name_them(name: str) -> None:
    make, size, pattern, count = PROPOSALS[name]
    found = Network(make(), image_shape=(3, size, size))
    assert len(found.blocks) == count
    named = Network(found.net, pattern, image_shape=(3, size, size))
    assert set(found.blocks) <= set(named.blocks)


def test_a_module_that_runs_twice_is_not_proposed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.once = Residual(3), Residual(3)
            self.fc = nn.Linear(3, 2)

        def forward(self, image: Tensor) -> Tensor:
            return self.fc(self.once(self.shared(self.shared(image))).mean((2, 3)))

    assert Network(Net(), image_shape=SHAPE).blocks == ("once",)


def test_a_network_without_maps_is_asked_to_name_its_blocks() -> None:
    with pytest.raises(ValueError, match="blocks that can be found, got none; name them: blocks:"):
        Network(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), image_shape=SHAPE)

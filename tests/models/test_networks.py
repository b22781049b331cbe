"""The contract of every network that ships: what conf/net declares is what a forward pass does."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision.models import get_model_weights, get_weight

from src.network import Network
from tests import REPOSITORY

CONF = REPOSITORY / "conf"
FOUND = {
    path.relative_to(CONF / "net").with_suffix("").as_posix()
    for path in (CONF / "net").rglob("*.yaml")
    if path.parent.name != "base"
}
# blocks in execution order, as runs of (number, channels, stride)
DECLARED = {
    "convnext_small": [(2, 64, 4), (4, 128, 8), (2, 256, 16)],
    "densenet_small": [(1, 168, 4), (1, 228, 8), (1, 258, 16)],
    "mobilenet_v3_cifar": [
        *[(2, 16, 2), (2, 24, 4), (3, 40, 8), (4, 80, 16), (2, 112, 16)],
        *[(3, 160, 16), (1, 960, 16)],
    ],
    "resnet18": [(2, 64, 1), (2, 128, 2), (2, 256, 4), (2, 512, 8)],
    "resnet18_digits": [(2, 16, 1), (2, 32, 2), (2, 64, 4), (2, 128, 8)],
    "resnet18_mnist": [(2, 16, 1), (2, 32, 2), (2, 64, 4), (2, 128, 7)],  # 28 pixels become 4
    "resnet18_openood": [(2, 64, 1), (2, 128, 2), (2, 256, 4), (2, 512, 8)],
    "resnet34": [(3, 64, 1), (4, 128, 2), (6, 256, 4), (3, 512, 8)],
    "resnet50": [(3, 256, 1), (4, 512, 2), (6, 1024, 4), (3, 2048, 8)],
    "swin_small": [(2, 48, 2), (4, 96, 4), (2, 192, 8)],
    "timm": [(3, 256, 4), (4, 512, 8), (6, 1024, 16), (3, 2048, 32)],
    "vgg11": [(1, 64, 1), (1, 128, 2), (1, 256, 4), (1, 256, 8), (2, 512, 8), (2, 512, 16)],
    "vgg11_bn": [(1, 64, 1), (1, 128, 2), (2, 256, 4), (2, 512, 8), (2, 512, 16)],
    "vgg16": [(2, 64, 1), (2, 128, 2), (3, 256, 4), (3, 512, 8), (3, 512, 16)],
    "vgg16_bn": [(2, 64, 1), (2, 128, 2), (3, 256, 4), (3, 512, 8), (3, 512, 16)],
    "vit_small": [(6, 192, 4)],
    "wrn16_4": [(2, 64, 1), (2, 128, 2), (2, 256, 4)],
    "wrn28_10": [(4, 160, 1), (4, 320, 2), (4, 640, 4)],
    "wrn40_2": [(6, 32, 1), (6, 64, 2), (6, 128, 4)],
    "imagenet/convnext_tiny": [(3, 96, 4), (3, 192, 8), (9, 384, 16), (3, 768, 32)],
    "imagenet/densenet121": [(1, 256, 4), (1, 512, 8), (1, 1024, 16), (1, 1024, 32)],
    "imagenet/efficientnet_b0": [
        *[(1, 16, 2), (2, 24, 4), (2, 40, 8), (3, 80, 16), (3, 112, 16)],
        *[(4, 192, 32), (1, 320, 32), (1, 1280, 32)],
    ],
    "imagenet/mobilenet_v3_large": [
        *[(2, 16, 2), (2, 24, 4), (3, 40, 8), (4, 80, 16), (2, 112, 16)],
        *[(3, 160, 32), (1, 960, 32)],
    ],
    "imagenet/regnet_y_400mf": [(1, 48, 4), (3, 104, 8), (6, 208, 16), (6, 440, 32)],
    "imagenet/resnet50": [(3, 256, 4), (4, 512, 8), (6, 1024, 16), (3, 2048, 32)],
    "imagenet/swin_t": [(2, 96, 4), (2, 192, 8), (6, 384, 16), (2, 768, 32)],
    "imagenet/vgg16": [(2, 64, 1), (2, 128, 2), (3, 256, 4), (3, 512, 8), (3, 512, 16)],
    "imagenet/vit_b_16": [(12, 768, 16)],
}
# first block, last block, and what the blocks are
TAPPED = {
    "convnext_small": ("features.1.0", "features.5.1", "CNBlock"),
    "densenet_small": ("features.denseblock1", "features.denseblock3", "_DenseBlock"),
    "mobilenet_v3_cifar": ("features.0", "features.16", "Conv2dNormActivation InvertedResidual"),
    "resnet18": ("layer1.0", "layer4.1", "BasicBlock"),
    "resnet18_digits": ("layer1.0", "layer4.1", "BasicBlock"),
    "resnet18_mnist": ("layer1.0", "layer4.1", "BasicBlock"),
    "resnet18_openood": ("layer1.0", "layer4.1", "BasicBlock"),
    "resnet34": ("layer1.0", "layer4.2", "BasicBlock"),
    "resnet50": ("layer1.0", "layer4.2", "Bottleneck"),
    "swin_small": ("features.1.0", "features.5.1", "SwinTransformerBlock"),
    "timm": ("layer1.0", "layer4.2", "Bottleneck"),
    "vgg11": ("features.1", "features.19", "MaxPool2d ReLU"),
    "vgg11_bn": ("features.2", "features.27", "ReLU"),
    "vgg16": ("features.1", "features.29", "ReLU"),
    "vgg16_bn": ("features.2", "features.42", "ReLU"),
    "vit_small": (
        "encoder.layers.encoder_layer_0",
        "encoder.layers.encoder_layer_5",
        "EncoderBlock",
    ),
    "wrn16_4": ("block1.layer.0", "block3.layer.1", "PreActivationBlock"),
    "wrn28_10": ("block1.layer.0", "block3.layer.3", "PreActivationBlock"),
    "wrn40_2": ("block1.layer.0", "block3.layer.5", "PreActivationBlock"),
    "imagenet/convnext_tiny": ("features.1.0", "features.7.2", "CNBlock"),
    "imagenet/densenet121": ("features.denseblock1", "features.denseblock4", "_DenseBlock"),
    "imagenet/efficientnet_b0": ("features.1.0", "features.8", "Conv2dNormActivation MBConv"),
    "imagenet/mobilenet_v3_large": (
        *("features.0", "features.16"),
        "Conv2dNormActivation InvertedResidual",
    ),
    "imagenet/regnet_y_400mf": (
        *("trunk_output.block1.block1-0", "trunk_output.block4.block4-5"),
        "ResBottleneckBlock",
    ),
    "imagenet/resnet50": ("layer1.0", "layer4.2", "Bottleneck"),
    "imagenet/swin_t": ("features.1.0", "features.7.1", "SwinTransformerBlock"),
    "imagenet/vgg16": ("features.1", "features.29", "ReLU"),
    "imagenet/vit_b_16": (
        *("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11"),
        "EncoderBlock",
    ),
}
LAYOUT = {
    "vit_small": "tokens",
    "imagenet/vit_b_16": "tokens",
    "swin_small": "channels_last",
    "imagenet/swin_t": "channels_last",
}


class Observer(nn.Module):
    """What would be exported to serve scores: logits, and FeatureNorm of every block."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        seen = self.network.observe(image, keep_maps=False)
        return seen.logits, *seen.norm.values()


def config(name: str, *overrides: str) -> DictConfig:
    """The network's configuration as it ships, but for the overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [f"net={name}", "run_dir=nowhere", *overrides]).net


def build(name: str) -> Network:
    """The network without weights; those for ImageNet at 64 x 64 pixels.

    What a fresh network leaves at 0 or 1, like the head of a vision transformer, is set at random:
    logits that are all 0 would agree whatever happens.
    """
    overrides = ["net.weights=null"]
    if name.startswith("imagenet/") or name == "timm":
        overrides.append("net.image_shape=[3,64,64]")
    if name == "imagenet/vit_b_16":
        overrides.append("+net.net.image_size=64")
    if name == "timm":
        overrides.append("net.net.pretrained=false")
    network: Network = instantiate(config(name, *overrides))
    nn.init.normal_(network.head.weight, std=0.1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


EACH = [
    pytest.param(name, marks=[pytest.mark.slow] * name.startswith("imagenet/"))
    for name in DECLARED
]


@pytest.fixture(scope="module", params=EACH)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "timm":
        pytest.importorskip("timm")
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> Network:
    torch.manual_seed(0)
    return build(name)


@pytest.fixture
def image(network: Network) -> Tensor:
    return torch.rand(3, *network.image_shape, generator=torch.Generator().manual_seed(1))


def test_every_network_that_ships_is_declared_here() -> None:
    assert set(DECLARED) == set(TAPPED) == FOUND


@pytest.mark.parametrize("name", [name for name in DECLARED if name.startswith("imagenet/")])
def test_weights_are_of_the_network_and_were_trained_on_such_images(name: str) -> None:
    cfg = config(name)
    weights = get_weight(cfg.weights)
    assert weights in get_model_weights(cfg.net._target_.removeprefix("torchvision.models."))
    preset = weights.transforms()
    assert (cfg.mean, cfg.std, cfg.image_shape[1:]) == (preset.mean, preset.std, [224, 224])
    assert preset.crop_size == [224]


@pytest.mark.slow
def test_blocks_are_the_modules_that_are_declared(name: str, network: Network) -> None:
    kinds = {type(network.net.get_submodule(block)).__name__ for block in network.blocks}
    ends = network.blocks[0], network.blocks[-1]
    assert (*ends, " ".join(sorted(kinds))) == TAPPED[name]


def test_blocks_have_the_channels_strides_and_layout_that_are_declared(
    name: str, network: Network
) -> None:
    declared = [(c, stride) for number, c, stride in DECLARED[name] for _ in range(number)]
    assert [(place.shape[0], place.stride) for place in network.places.values()] == declared
    assert {place.layout for place in network.places.values()} == {
        LAYOUT.get(name, "channels_first")
    }


@torch.no_grad()
def test_blocks_fire_once_each_in_the_order_of_their_names(
    network: Network, image: Tensor
) -> None:
    fired: list[str] = []
    handles = [
        network.net.get_submodule(block).register_forward_hook(
            lambda *_, block=block: fired.append(block)
        )
        for block in reversed(network.blocks)
    ]
    network(image)
    for handle in handles:
        handle.remove()
    assert tuple(fired) == network.blocks


@pytest.mark.slow
@torch.no_grad()
def test_observing_changes_nothing_and_sees_the_feature_and_the_maps(
    network: Network, image: Tensor
) -> None:
    logits = network(image)
    assert logits.std() > 0
    for keep_maps in (True, False):
        seen = network.observe(image, keep_maps=keep_maps)
        assert seen.logits.equal(logits)
        assert network.head(seen.feature).equal(logits)
        assert tuple(seen.norm) == network.blocks
        assert all(norm.isfinite().all() and (norm >= 0).all() for norm in seen.norm.values())
        for block, feature_map in seen.feature_map.items():
            assert feature_map.shape[1:] == network.places[block].shape


@pytest.mark.slow
@torch.no_grad()
def test_a_state_dict_goes_through_a_file_into_another_network(
    name: str, network: Network, image: Tensor, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "network.pt")
    logits, other = network(image), build(name)
    assert (other(image) - logits).abs().max() > 0.01
    other.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))
    assert other(image).equal(logits)


@pytest.mark.slow
@torch.no_grad()
def test_an_observing_network_can_be_exported(network: Network, image: Tensor) -> None:
    exported = torch.export.export(Observer(network), (image,)).module()
    for given, expected in zip(exported(image), Observer(network)(image), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)

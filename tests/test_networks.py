"""The contract of every network that ships: what conf/net declares is what a forward pass does."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from src.network import Network

CONF = Path(__file__).parent.parent / "conf"
FOUND = {
    path.relative_to(CONF / "net").with_suffix("").as_posix()
    for path in (CONF / "net").rglob("*.yaml")
}
# blocks in execution order, as runs of (number, channels, stride)
DECLARED = {
    "convnext_small": [(2, 64, 4), (4, 128, 8), (2, 256, 16)],
    "densenet_small": [(1, 168, 4), (1, 228, 8), (1, 258, 16)],
    "resnet18": [(2, 64, 1), (2, 128, 2), (2, 256, 4), (2, 512, 8)],
    "resnet18_digits": [(2, 16, 1), (2, 32, 2), (2, 64, 4), (2, 128, 8)],
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


def config(name: str) -> DictConfig:
    """The network's configuration without weights; those for ImageNet at 64 x 64 pixels."""
    overrides = [f"net={name}", "run_dir=nowhere", "net.weights=null"]
    if name.startswith("imagenet/") or name == "timm":
        overrides.append("net.image_shape=[3,64,64]")
    if name == "imagenet/vit_b_16":
        overrides.append("+net.net.image_size=64")
    if name == "timm":
        overrides.append("net.net.pretrained=false")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides).net


@pytest.fixture(scope="module", params=DECLARED)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "timm":
        pytest.importorskip("timm")
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> Network:
    torch.manual_seed(0)
    network: Network = instantiate(config(name)).eval()
    return network


@pytest.fixture
def image(network: Network) -> Tensor:
    return torch.rand(3, *network.image_shape, generator=torch.Generator().manual_seed(1))


def test_every_network_that_ships_is_declared_here() -> None:
    assert set(DECLARED) == FOUND - {"imagenet/base"}


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


@torch.no_grad()
def test_observing_changes_nothing_and_sees_the_feature_and_the_maps(
    network: Network, image: Tensor
) -> None:
    logits = network(image)
    for keep_maps in (True, False):
        seen = network.observe(image, keep_maps=keep_maps)
        assert seen.logits.equal(logits)
        assert network.head(seen.feature).equal(logits)
        assert tuple(seen.norm) == network.blocks
        assert all(norm.isfinite().all() and (norm >= 0).all() for norm in seen.norm.values())
        for block, feature_map in seen.feature_map.items():
            assert feature_map.shape[1:] == network.places[block].shape


@torch.no_grad()
def test_a_state_dict_goes_through_a_file_into_another_network(
    network: Network, image: Tensor, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "network.pt")
    other = deepcopy(network)  # to build it anew would take most of the time of these tests
    for tensor in other.state_dict().values():
        if isinstance(tensor, Tensor):
            tensor.zero_()
    assert not other(image).equal(network(image))
    other.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))
    assert other(image).equal(network(image))


@torch.no_grad()
def test_an_observing_network_can_be_exported(network: Network, image: Tensor) -> None:
    exported = torch.export.export(Observer(network), (image,)).module()
    for given, expected in zip(exported(image), Observer(network)(image), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)

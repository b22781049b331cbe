import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from src.models import (
    VGG,
    ResNet,
    WideResNet,
    resnet18,
    resnet34,
    resnet50,
    vgg11,
    vgg11_bn,
    vgg16,
    vgg16_bn,
    wrn16_4,
    wrn28_10,
    wrn40_2,
)
from src.models.resnet import BasicBlock, Bottleneck
from src.models.wide_resnet import PreActivationBlock

RESNET = r"layer[1-4]\.\d+"
WIDE_RESNET = r"block[1-3]\.layer\.\d+"
VGG11 = r"features\.(1|4|7|10|12|14|17|19)"

SMALL: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet": (lambda: ResNet((2, 1, 1, 2), width=4), RESNET),
    "wide_resnet": (lambda: WideResNet(depth=16, widen_factor=2), WIDE_RESNET),
    "bottleneck resnet": (lambda: ResNet((2, 1, 1, 2), width=4, block=Bottleneck), RESNET),
    "vgg": (lambda: VGG((4, "M", 8, "M", 8, 8, "M", 8, 8, "M", 8, 8, "M")), VGG11),
    "vgg with batch norm": (
        lambda: VGG((4, "M", 8, "M", 8, 8, "M", 8, 8), batch_norm=True),
        r"features\.(2|6|10|13|17|20)",
    ),
}
PAPER: dict[str, tuple[Callable[..., nn.Module], str, int, list[tuple[int, ...]]]] = {
    "resnet18": (
        resnet18,
        RESNET,
        11_173_962,
        [s for s in [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)] for _ in range(2)],
    ),
    "resnet18, official stem": (
        lambda **arguments: resnet18(stem_padding=2, **arguments),
        RESNET,
        11_173_962,
        [s for s in [(64, 34, 34), (128, 17, 17), (256, 9, 9), (512, 5, 5)] for _ in range(2)],
    ),
    "wrn28_10": (
        wrn28_10,
        WIDE_RESNET,
        36_479_194,
        [s for s in [(160, 32, 32), (320, 16, 16), (640, 8, 8)] for _ in range(4)],
    ),
    "vgg11": (
        vgg11,
        VGG11,
        9_750_922,
        [
            *[(64, 32, 32), (128, 16, 16), (256, 8, 8), (256, 4, 4)],
            *[(512, 4, 4), (512, 4, 4), (512, 2, 2), (512, 2, 2)],
        ],
    ),
}
# name -> (network, parameters): numbers of the field, or counted by hand from the layers' shapes
OTHERS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "resnet34": (resnet34, 21_282_122),
    "resnet50": (resnet50, 23_520_842),
    "wrn16_4": (wrn16_4, 2_748_890),
    "wrn40_2": (wrn40_2, 2_243_546),
    "vgg11_bn": (vgg11_bn, 9_750_922 + 2 * (64 + 128 + 2 * 256 + 4 * 512)),
    "vgg16": (vgg16, 14_714_688 + 2 * (512 * 512 + 512) + 512 * 10 + 10),
    "vgg16_bn": (vgg16_bn, 14_723_136 + 2 * (512 * 512 + 512) + 512 * 10 + 10),
}


def tap(network: nn.Module, image: Tensor, pattern: str) -> dict[str, tuple[Tensor, int]]:
    """One forward: the output of each such module, and its version on return from the module."""
    taps: dict[str, tuple[Tensor, int]] = {}
    for name, module in network.named_modules():
        if re.fullmatch(pattern, name):
            module.register_forward_hook(
                lambda _module, _args, output, name=name: taps.update(
                    {name: (output, output._version)}
                )
            )
    with torch.no_grad():
        network(image)
    return taps


@pytest.mark.parametrize("name", PAPER)
def test_networks_have_the_parameters_and_maps_of_the_paper(name: str) -> None:
    build, pattern, parameters, shapes = PAPER[name]
    with torch.device("meta"):  # shapes only: nothing is allocated or computed
        network = build()
        taps = tap(network, torch.empty(2, 3, 32, 32), pattern)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert [tuple(output.shape[1:]) for output, _ in taps.values()] == shapes


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_have_the_parameters_that_the_field_counts(name: str) -> None:
    build, parameters = OTHERS[name]
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build().parameters()) == parameters


@pytest.mark.parametrize("name", [*PAPER, *OTHERS])
def test_logits_have_one_column_per_class(name: str) -> None:
    build = (PAPER | OTHERS)[name][0]
    with torch.device("meta"):
        logits = build(num_classes=7)(torch.empty(2, 3, 32, 32))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_nothing_overwrites_the_output_of_a_module(name: str, training: bool) -> None:
    build, _ = SMALL[name]
    taps = tap(build().train(training), torch.randn(2, 3, 32, 32), r".+")
    assert taps
    assert all(output._version == version for output, version in taps.values())


@pytest.mark.parametrize("name", SMALL)
def test_only_blocks_of_the_wide_resnet_return_negative_values(name: str) -> None:
    torch.manual_seed(0)
    build, pattern = SMALL[name]
    taps = tap(build().eval(), torch.randn(2, 3, 32, 32), pattern)
    negative = {bool((output < 0).any()) for output, _ in taps.values()}
    assert negative == {name == "wide_resnet"}


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    network = SMALL[name][0]()
    network(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in network.parameters()
    )


@pytest.mark.parametrize("make", [BasicBlock, Bottleneck])
def test_a_silent_branch_leaves_the_rectified_input_of_a_resnet_block(
    make: type[BasicBlock] | type[Bottleneck],
) -> None:
    block = make(4 * make.expansion, 4).eval()
    nn.init.zeros_((block.conv2 if isinstance(block, BasicBlock) else block.conv3).weight)
    x = torch.randn(2, 4 * make.expansion, 8, 8)
    assert torch.equal(block(x), x.relu())


def test_a_silent_branch_leaves_the_raw_input_of_a_wide_resnet_block() -> None:
    block = PreActivationBlock(4, 4)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_a_wide_resnet_block_that_changes_shape_shortcuts_its_activation() -> None:
    block = PreActivationBlock(4, 8, stride=2).eval()
    nn.init.zeros_(block.conv2.weight)
    nn.init.constant_(block.bn1.bias, -9.0)  # every activation is silenced by the ReLU
    assert not block(torch.rand(2, 4, 8, 8)).any()


@pytest.mark.parametrize("stem_padding", [1, 2])
@pytest.mark.parametrize("size", [8, 9, 15, 28, 33])
def test_resnet_takes_images_of_any_size(size: int, stem_padding: int) -> None:
    network = ResNet(width=4, in_channels=1, stem_padding=stem_padding).eval()
    assert network(torch.randn(2, 1, size, size)).shape == (2, 10)


def weight(*names: str) -> set[str]:
    return {f"{name}.weight" for name in names}


def weight_and_bias(*names: str) -> set[str]:
    return weight(*names) | {f"{name}.bias" for name in names}


def batch_norm(*names: str) -> set[str]:
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return weight_and_bias(*names) | {f"{name}.{key}" for name in names for key in statistics}


def test_state_dict_of_resnet18_has_the_official_keys() -> None:
    expected = weight("conv1") | batch_norm("bn1") | weight_and_bias("fc")
    for block in [f"layer{stage}.{index}" for stage in (1, 2, 3, 4) for index in (0, 1)]:
        expected |= weight(f"{block}.conv1", f"{block}.conv2")
        expected |= batch_norm(f"{block}.bn1", f"{block}.bn2")
    for block in ("layer2.0", "layer3.0", "layer4.0"):
        expected |= weight(f"{block}.shortcut.0") | batch_norm(f"{block}.shortcut.1")
    with torch.device("meta"):
        assert set(resnet18().state_dict()) == expected


def test_state_dict_of_resnet50_has_the_usual_keys() -> None:
    expected = weight("conv1") | batch_norm("bn1") | weight_and_bias("fc")
    depth = {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}
    for block in [f"{stage}.{index}" for stage, count in depth.items() for index in range(count)]:
        expected |= weight(*(f"{block}.conv{number}" for number in (1, 2, 3)))
        expected |= batch_norm(*(f"{block}.bn{number}" for number in (1, 2, 3)))
    for stage in depth:
        expected |= weight(f"{stage}.0.shortcut.0") | batch_norm(f"{stage}.0.shortcut.1")
    with torch.device("meta"):
        assert set(resnet50().state_dict()) == expected


def test_state_dict_of_wrn28_10_has_the_official_keys() -> None:
    expected = weight("conv1") | batch_norm("bn1") | weight_and_bias("fc")
    for block in [f"block{group}.layer.{index}" for group in (1, 2, 3) for index in range(4)]:
        expected |= weight(f"{block}.conv1", f"{block}.conv2")
        expected |= batch_norm(f"{block}.bn1", f"{block}.bn2")
    expected |= weight(*(f"block{group}.layer.0.convShortcut" for group in (1, 2, 3)))
    with torch.device("meta"):
        assert set(WideResNet().state_dict()) == expected


def test_state_dict_of_vgg11_has_the_official_keys() -> None:
    expected = weight_and_bias(*(f"features.{index}" for index in (0, 3, 6, 8, 11, 13, 16, 18)))
    expected |= weight_and_bias("classifier.0", "classifier.3", "classifier.6")
    with torch.device("meta"):
        assert set(vgg11().state_dict()) == expected


@pytest.mark.parametrize("depth", [(2, 2, 2), (2, 2, 2, 0)])
def test_resnet_refuses_other_than_four_stages(depth: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="four positive numbers of blocks, got"):
        ResNet(depth)


@pytest.mark.parametrize("depth", [4, 27])
def test_wide_resnet_refuses_a_depth_it_cannot_divide(depth: int) -> None:
    with pytest.raises(ValueError, match=f"6 n \\+ 4 with n >= 1, got {depth}"):
        WideResNet(depth)


@pytest.mark.parametrize("config", ["VGG11", (), ("M",), (64, "m")])
def test_vgg_refuses_what_is_neither_channels_nor_a_pool(config: tuple[int | str, ...]) -> None:
    with pytest.raises(ValueError, match="numbers of channels"):
        VGG(config)

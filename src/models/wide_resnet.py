"""Wide residual networks for small images."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PreActivationBlock", "WideResNet", "wrn16_4", "wrn28_10", "wrn40_2"]


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, with a shortcut around them.

    Args:
        in_channels: Number of channels of the input map.
        out_channels: Number of channels of the output map.
        stride: Factor by which height and width shrink.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.convShortcut = (  # the name in official checkpoints
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            if stride != 1 or in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns the raw (B, C, H, W) sum of branch and shortcut, about half of it negative."""
        activation = F.relu(self.bn1(x))
        # where the shape changes, the shortcut starts from the activation, not from x
        shortcut = x if self.convShortcut is None else self.convShortcut(activation)
        branch = F.relu(self.bn2(self.conv1(activation)))
        return torch.add(shortcut, self.conv2(branch))


class WideResNet(nn.Module):
    r"""Wide residual network; WRN-28-10 (36,479,194 parameters at 10 classes) by default.

    The blocks of the paper are `block[1-3]\.layer\.\d+`. Each returns the residual stream before
    the next batch norm and ReLU, so the ReLU inside FeatureNorm matters here. The paper selects
    "Block 3.3" of WRN-28-10, which is `block3.layer.2`.

    Args:
        depth: Number of convolutions, 6 n + 4 for n blocks in each of the three groups.
        widen_factor: Factor of the widths, which are 16, 32 and 64 times this.
        num_classes: Number of classes.

    Raises:
        ValueError: If `depth` is not 6 n + 4 with n >= 1.

    Source:
        Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016,
        https://arxiv.org/abs/1605.07146. The state dict has the layout of `wrn.py` in
        https://github.com/gist-ailab/block-selection-for-OOD-detection.

    Differs:
        The official code averages over 8x8 windows; here the average is global, so that any size
        works. For 32x32 images, both are the same.
    """

    def __init__(self, depth: int = 28, widen_factor: int = 10, num_classes: int = 10) -> None:
        super().__init__()
        count, rest = divmod(depth - 4, 6)
        if count < 1 or rest:
            raise ValueError(
                f"expected depth to be 6 n + 4 with n >= 1, got {depth}; choose 16, 22, 28 or 40"
            )
        width = 16 * widen_factor
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = group(count, PreActivationBlock(16, width))
        self.block2 = group(count, PreActivationBlock(width, 2 * width, 2))
        self.block3 = group(count, PreActivationBlock(2 * width, 4 * width, 2))
        self.bn1 = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, num_classes)
        nn.init.zeros_(self.fc.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Returns the (B, K) logits of (B, 3, H, W) images of any size."""
        x = self.block3(self.block2(self.block1(self.conv1(image))))
        x = F.relu(self.bn1(x))
        feature = F.adaptive_avg_pool2d(x, 1).flatten(1)  # (B, D)
        logits: Tensor = self.fc(feature)
        return logits


def group(count: int, first: PreActivationBlock) -> nn.Sequential:
    """Returns a sequence of `count` blocks that begins with `first`, under its official name."""
    width = first.conv2.out_channels
    rest = (PreActivationBlock(width, width) for _ in range(count - 1))
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *rest)))


def wrn16_4(num_classes: int = 10) -> WideResNet:
    """Returns WRN-16-4, which a CPU can train: 2,748,890 parameters at 10 classes.

    Args:
        num_classes: Number of classes.
    """
    return WideResNet(16, 4, num_classes)


def wrn28_10(num_classes: int = 10) -> WideResNet:
    """Returns WRN-28-10, as in the paper: 36,479,194 parameters at 10 classes.

    Args:
        num_classes: Number of classes.
    """
    return WideResNet(28, 10, num_classes)


def wrn40_2(num_classes: int = 10) -> WideResNet:
    """Returns WRN-40-2, which is common in the field: 2,243,546 parameters at 10 classes.

    Args:
        num_classes: Number of classes.
    """
    return WideResNet(40, 2, num_classes)

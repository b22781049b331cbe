"""Residual networks for small images."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "resnet18", "resnet34", "resnet50"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them and a ReLU after the sum.

    Args:
        in_channels: Number of channels of the input map.
        width: Number of channels of the convolutions and of the output map.
        stride: Factor by which height and width shrink.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the rectified (B, C, H, W) sum of branch and shortcut as a new tensor."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return F.relu(branch + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions, with a shortcut and a ReLU after the sum.

    Args:
        in_channels: Number of channels of the input map.
        width: Number of channels of the 3x3 convolution; the output map has four times as many.
        stride: Factor by which height and width shrink.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = shortcut(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the rectified (B, C, H, W) sum of branch and shortcut as a new tensor."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return F.relu(branch + self.shortcut(x))


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Returns the identity, or a 1x1 convolution with batch norm where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    r"""Residual network with a 3x3 stem and no max-pool, for images of about 32x32 pixels.

    The blocks of the paper are `layer[1-4]\.\d+`; each ends in its ReLU. The paper selects
    "Block 4.1" of ResNet-18, which is `layer4.0`.

    Args:
        depth: Number of blocks in each of the four stages.
        width: Width of the blocks in the first stage; each later stage doubles it.
        num_classes: Number of classes.
        in_channels: Number of channels of the image.
        stem_padding: Padding of the first convolution. For 32x32 images, 1 gives maps of 32, 16, 8
            and 4 pixels, as in the paper's table, and 2 gives maps of 34, 17, 9 and 5, as in the
            official code.
        block: Class of the blocks.

    Raises:
        ValueError: If `depth` is not four positive numbers.

    Source:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
        https://arxiv.org/abs/1512.03385. The state dict has the layout of `resnet.py` in
        https://github.com/gist-ailab/block-selection-for-OOD-detection, and of OpenOOD's
        `resnet18_32x32.py` for a stem padding of 1.
    """

    def __init__(
        self,
        depth: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        num_classes: int = 10,
        in_channels: int = 3,
        stem_padding: int = 1,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
    ) -> None:
        super().__init__()
        if len(depth) != 4 or min(depth) < 1:
            raise ValueError(
                f"expected depth to be four positive numbers of blocks, got {list(depth)}; "
                "ResNet-18 is [2, 2, 2, 2]"
            )
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=stem_padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        top = width * block.expansion  # channels of the first stage's output
        self.layer1 = stage(block, width, width, depth[0], stride=1)
        self.layer2 = stage(block, top, 2 * width, depth[1], stride=2)
        self.layer3 = stage(block, 2 * top, 4 * width, depth[2], stride=2)
        self.layer4 = stage(block, 4 * top, 8 * width, depth[3], stride=2)
        self.fc = nn.Linear(8 * top, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Returns the (B, K) logits of (B, C, H, W) images of any size."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        feature = F.adaptive_avg_pool2d(x, 1).flatten(1)  # (B, D)
        logits: Tensor = self.fc(feature)
        return logits


def stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    width: int,
    depth: int,
    stride: int,
) -> nn.Sequential:
    """Returns a sequence of `depth` blocks, of which the first changes the shape."""
    first = block(in_channels, width, stride)
    rest = (block(width * block.expansion, width) for _ in range(depth - 1))
    return nn.Sequential(first, *rest)


def resnet18(num_classes: int = 10, stem_padding: int = 1) -> ResNet:
    """Returns ResNet-18 for small images: 11,173,962 parameters at 10 classes.

    Args:
        num_classes: Number of classes.
        stem_padding: Padding of the first convolution: 1 for the map sizes of the paper, 2 for
            those of the official code.
    """
    return ResNet((2, 2, 2, 2), num_classes=num_classes, stem_padding=stem_padding)


def resnet34(num_classes: int = 10, stem_padding: int = 1) -> ResNet:
    """Returns ResNet-34 for small images: 21,282,122 parameters at 10 classes.

    Args:
        num_classes: Number of classes.
        stem_padding: Padding of the first convolution; see `resnet18`.
    """
    return ResNet((3, 4, 6, 3), num_classes=num_classes, stem_padding=stem_padding)


def resnet50(num_classes: int = 10, stem_padding: int = 1) -> ResNet:
    """Returns ResNet-50 for small images: 23,520,842 parameters at 10 classes.

    Args:
        num_classes: Number of classes.
        stem_padding: Padding of the first convolution; see `resnet18`.
    """
    return ResNet(
        (3, 4, 6, 3), num_classes=num_classes, stem_padding=stem_padding, block=Bottleneck
    )

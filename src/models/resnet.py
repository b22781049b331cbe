"""Residual networks for small images."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BasicBlock", "ResNet", "resnet18"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them and a ReLU after the sum.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        stride: factor by which height and width shrink.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()  # the identity
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the rectified (B, C, H, W) sum of branch and shortcut, a tensor of its own."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return F.relu(branch + self.shortcut(x))


class ResNet(nn.Module):
    r"""Residual network with a 3x3 stem and no max-pool, for images of about 32x32 pixels.

    The blocks of the paper are `layer[1-4]\.\d+`; each ends in its ReLU. The paper selects
    "Block 4.1" of ResNet-18, which is `layer4.0`.

    Args:
        depth: blocks in each of the four stages.
        width: channels of the first stage; every later stage doubles them.
        num_classes: width of the logits.
        in_channels: channels of the image.
        stem_padding: 1 keeps 32x32 maps at 32, 16, 8 and 4 pixels, as in the paper's table;
            2 makes them 34, 17, 9 and 5, as in the official code.

    Raises:
        ValueError: if `depth` is not four positive numbers.

    Source:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
        https://arxiv.org/abs/1512.03385. The state dict has the layout of `resnet.py` in
        https://github.com/gist-ailab/block-selection-for-OOD-detection.
    """

    def __init__(
        self,
        depth: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        num_classes: int = 10,
        in_channels: int = 3,
        stem_padding: int = 1,
    ) -> None:
        super().__init__()
        if len(depth) != 4 or min(depth) < 1:
            raise ValueError(
                f"expected depth to be four positive numbers of blocks, got {list(depth)}; "
                "ResNet-18 is [2, 2, 2, 2]"
            )
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=stem_padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = stage(width, width, depth[0], stride=1)
        self.layer2 = stage(width, 2 * width, depth[1], stride=2)
        self.layer3 = stage(2 * width, 4 * width, depth[2], stride=2)
        self.layer4 = stage(4 * width, 8 * width, depth[3], stride=2)
        self.fc = nn.Linear(8 * width, num_classes)
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


def stage(in_channels: int, out_channels: int, depth: int, stride: int) -> nn.Sequential:
    """Returns `depth` blocks in a row, of which the first changes the shape."""
    first = BasicBlock(in_channels, out_channels, stride)
    rest = (BasicBlock(out_channels, out_channels) for _ in range(depth - 1))
    return nn.Sequential(first, *rest)


def resnet18(num_classes: int = 10, stem_padding: int = 1) -> ResNet:
    """Returns ResNet-18 for small images: 11,173,962 parameters at 10 classes.

    Args:
        num_classes: width of the logits.
        stem_padding: 1 for the paper's map sizes, 2 for those of the official code.
    """
    return ResNet((2, 2, 2, 2), num_classes=num_classes, stem_padding=stem_padding)

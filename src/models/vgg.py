"""VGG networks for small images."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["VGG", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn"]

VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
VGG16 = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, "M"),
    *(512, 512, 512, "M", 512, 512, 512, "M"),
)


class VGG(nn.Module):
    """Stack of 3x3 convolutions and max-pools, followed by three linear layers.

    For VGG-11, the blocks of the paper are `features.{1,4,7,10,12,14,17,19}`: the ReLU after each
    convolution, except that the fourth block is the max-pool after its ReLU. The paper selects
    "Layer 7", which is `features.14`.

    Args:
        config: Layers between image and classifier. A number is a convolution with that many
            channels and its ReLU; "M" is a max-pool that halves height and width.
        num_classes: Number of classes.
        batch_norm: Whether batch norm follows each convolution; the paper uses none.

    Raises:
        ValueError: If `config` contains anything else or no convolution.

    Source:
        Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
        Recognition", ICLR 2015, https://arxiv.org/abs/1409.1556. The state dict has the layout of
        `vgg.py` in https://github.com/gist-ailab/block-selection-for-OOD-detection.

    Differs:
        The official code flattens the last map; here it is averaged, so that larger images work.
        For 32x32 images, whose last map is 1x1, both are the same.
    """

    def __init__(
        self, config: Sequence[int | str], num_classes: int = 10, *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        width = [entry for entry in config if isinstance(entry, int)]
        if not width or any(entry != "M" for entry in config if not isinstance(entry, int)):
            raise ValueError(
                f'expected config to hold numbers of channels and "M", got {config!r}; '
                'VGG-11 begins with [64, "M", 128, "M", ...]'
            )
        self.features = layers(config, batch_norm)
        self.classifier = nn.Sequential(
            nn.Linear(width[-1], 512),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(512, num_classes),
        )
        for module in self.features:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Returns the (B, K) logits of (B, 3, H, W) images, 32x32 or larger for VGG-11."""
        x = F.adaptive_avg_pool2d(self.features(image), 1).flatten(1)  # (B, C)
        logits: Tensor = self.classifier(x)
        return logits


def layers(config: Sequence[int | str], batch_norm: bool) -> nn.Sequential:
    """Returns the layers that `config` describes; none of them overwrites its input."""
    sequence = nn.Sequential()
    channels = 3
    for entry in config:
        if isinstance(entry, int):
            sequence.append(nn.Conv2d(channels, entry, 3, padding=1))
            if batch_norm:
                sequence.append(nn.BatchNorm2d(entry))
            sequence.append(nn.ReLU())
            channels = entry
        else:
            sequence.append(nn.MaxPool2d(2))
    return sequence


def vgg11(num_classes: int = 10) -> VGG:
    """Returns VGG-11, as in the paper: 9,750,922 parameters at 10 classes.

    Args:
        num_classes: Number of classes.
    """
    return VGG(VGG11, num_classes)


def vgg11_bn(num_classes: int = 10) -> VGG:
    """Returns VGG-11 with batch norm: 9,756,426 parameters at 10 classes.

    Args:
        num_classes: Number of classes.
    """
    return VGG(VGG11, num_classes, batch_norm=True)


def vgg16(num_classes: int = 10) -> VGG:
    """Returns VGG-16: 15,245,130 parameters at 10 classes.

    Args:
        num_classes: Number of classes.
    """
    return VGG(VGG16, num_classes)


def vgg16_bn(num_classes: int = 10) -> VGG:
    """Returns VGG-16 with batch norm: 15,253,578 parameters at 10 classes.

    Args:
        num_classes: Number of classes.
    """
    return VGG(VGG16, num_classes, batch_norm=True)

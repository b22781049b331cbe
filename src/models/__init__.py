"""Networks for small images: those of the paper and close relatives.

The networks for ImageNet come from torchvision.
"""

from .resnet import ResNet, resnet18, resnet34, resnet50
from .vgg import VGG, vgg11, vgg11_bn, vgg16, vgg16_bn
from .wide_resnet import WideResNet, wrn16_4, wrn28_10, wrn40_2

__all__ = [
    "VGG",
    "ResNet",
    "WideResNet",
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vgg16_bn",
    "wrn16_4",
    "wrn28_10",
    "wrn40_2",
]

"""The CIFAR networks of the FeatureNorm paper; those for ImageNet come from torchvision."""

from .resnet import ResNet, resnet18
from .vgg import VGG, vgg11
from .wide_resnet import WideResNet

__all__ = ["VGG", "ResNet", "WideResNet", "resnet18", "vgg11"]

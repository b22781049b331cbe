"""Image sets, their sources, sampling and augmentation.

Names are imported when they are first used, so that a command that only prints help stays fast.
"""

from typing import TYPE_CHECKING

from src.records.lazy import exports

if TYPE_CHECKING:
    from src.data.datamodule import ImageData
    from src.data.datasets import Batch, ImageSet, PictureSource, Source, StoredImages
    from src.data.digits import Digits, Letters, MNIST5k, Noise, Photographs
    from src.data.folders import ImageFolder
    from src.data.libraries import HuggingFace, Torchvision
    from src.data.lists import ImageList
    from src.data.sampling import BatchSampler
    from src.data.transforms import CropFlip

__all__ = [
    "Batch",
    "BatchSampler",
    "CropFlip",
    "Digits",
    "HuggingFace",
    "ImageData",
    "ImageFolder",
    "ImageList",
    "ImageSet",
    "Letters",
    "MNIST5k",
    "Noise",
    "Photographs",
    "PictureSource",
    "Source",
    "StoredImages",
    "Torchvision",
]

MODULES = {
    "datamodule": ("ImageData",),
    "datasets": ("Batch", "ImageSet", "PictureSource", "Source", "StoredImages"),
    "digits": ("Digits", "Letters", "MNIST5k", "Noise", "Photographs"),
    "folders": ("ImageFolder",),
    "libraries": ("HuggingFace", "Torchvision"),
    "lists": ("ImageList",),
    "sampling": ("BatchSampler",),
    "transforms": ("CropFlip",),
}


__getattr__ = exports(__name__, MODULES)

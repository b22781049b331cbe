"""Image sets, their sources, sampling and augmentation.

Names are imported when they are first used, so that a command that only prints help stays fast.
"""

from typing import TYPE_CHECKING

from src.records.lazy import exports

if TYPE_CHECKING:
    from src.data.augmentation import Augmentation, Compose
    from src.data.datamodule import ImageData
    from src.data.datasets import Batch, ImageSet, PictureSource, Source, StoredImages
    from src.data.digits import Digits, Letters, MNIST5k, Noise, Photographs
    from src.data.folders import ImageFolder
    from src.data.libraries import HuggingFace, Torchvision
    from src.data.lists import ImageList
    from src.data.mixing import CutMix, Mixing, Mixup
    from src.data.pixmix import PixMix
    from src.data.policies import RandAugment, TrivialAugment
    from src.data.sampling import BatchSampler
    from src.data.shards import ImageShards
    from src.data.transforms import CropFlip, Cutout

__all__ = [
    "Augmentation",
    "Batch",
    "BatchSampler",
    "Compose",
    "CropFlip",
    "CutMix",
    "Cutout",
    "Digits",
    "HuggingFace",
    "ImageData",
    "ImageFolder",
    "ImageList",
    "ImageSet",
    "ImageShards",
    "Letters",
    "MNIST5k",
    "Mixing",
    "Mixup",
    "Noise",
    "Photographs",
    "PictureSource",
    "PixMix",
    "RandAugment",
    "Source",
    "StoredImages",
    "Torchvision",
    "TrivialAugment",
]

MODULES = {
    "augmentation": ("Augmentation", "Compose"),
    "datamodule": ("ImageData",),
    "datasets": ("Batch", "ImageSet", "PictureSource", "Source", "StoredImages"),
    "digits": ("Digits", "Letters", "MNIST5k", "Noise", "Photographs"),
    "folders": ("ImageFolder",),
    "libraries": ("HuggingFace", "Torchvision"),
    "lists": ("ImageList",),
    "mixing": ("CutMix", "Mixing", "Mixup"),
    "pixmix": ("PixMix",),
    "policies": ("RandAugment", "TrivialAugment"),
    "sampling": ("BatchSampler",),
    "shards": ("ImageShards",),
    "transforms": ("CropFlip", "Cutout"),
}


__getattr__ = exports(__name__, MODULES)

"""Image sets, their sources, sampling and augmentation."""

from src.data.datamodule import ImageData
from src.data.datasets import Batch, ImageFolder, ImageSet, Source, StoredImages, Torchvision
from src.data.digits import Digits, Noise, Photographs
from src.data.sampling import BatchSampler
from src.data.transforms import CropFlip

__all__ = [
    "Batch",
    "BatchSampler",
    "CropFlip",
    "Digits",
    "ImageData",
    "ImageFolder",
    "ImageSet",
    "Noise",
    "Photographs",
    "Source",
    "StoredImages",
    "Torchvision",
]

"""Image sets, their sources, sampling and augmentation."""

from src.data.datamodule import ImageData
from src.data.datasets import Batch, ImageSet, Source, StoredImages
from src.data.digits import Digits, Noise, Photographs
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
    "Noise",
    "Photographs",
    "Source",
    "StoredImages",
    "Torchvision",
]

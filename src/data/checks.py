"""Checks of the arguments and images of `ImageData`."""

__all__ = [
    "PARTS",
    "check_calibration",
    "check_classes",
    "check_groups",
    "check_images",
    "check_names",
    "check_sizes",
    "check_stored",
    "tell_notes",
]

import logging
from collections.abc import Collection, Mapping

import torch
from lightning.pytorch.utilities import rank_zero_only

from src.data.datasets import ImageSet, Source, StoredImages
from src.data.names import folded

log = logging.getLogger(__name__)
PARTS = {"train", "validation", "calibration"}  # of the ID training images
RESERVED = {"id", "average"} | PARTS


def check_sizes(**sizes: object) -> None:
    """Refuses sizes that are not positive integers."""
    for key, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(
                f"expected data.{key} to be a whole number of at least 1, got {size!r}; set it"
            )


def check_calibration(calibration_size: object, validation_size: int) -> None:
    """Refuses to keep all held-out images for calibration, or a number that is none."""
    if not isinstance(calibration_size, int) or not 0 <= calibration_size < validation_size:
        raise ValueError(
            f"expected data.calibration_size within 0..{validation_size - 1}, as some of the "
            f"{validation_size} held-out images select, got {calibration_size!r}; lower it, or "
            "raise data.validation_size"
        )


def check_classes(train: tuple[str, ...], test: tuple[str, ...]) -> None:
    """Refuses training images without classes, and test images of other classes."""
    if not train or train != test:
        only = [name for name in (*train, *test) if (name in train) != (name in test)]
        differs = f", of which {only[:4]} are in one of them" if train and test and only else ""
        if only and sorted(map(folded, train)) == sorted(map(folded, test)):
            differs += " and differ in case or in how letters are encoded"
        raise ValueError(
            "expected training and test images of the same classes, got "
            f"{len(train)} {train[:10]} and {len(test)} {test[:10]}{differs}; check their sources"
        )


@rank_zero_only
def tell_notes(sources: Mapping[str, Source]) -> None:
    """Logs what a user should know about the sources."""
    for name, source in sources.items():
        for note in source.notes:
            log.warning("%s: %s", name, note)


def check_names(ood: Collection[str], groups: Collection[str]) -> None:
    """Refuses OOD sets and groups with reserved names, with the same name, or with none."""
    names: list[object] = [*ood, *groups]
    if strange := [name for name in names if type(name) not in (str, int) or name == ""]:
        raise ValueError(
            f"expected texts as names of OOD sets and groups, got {strange[0]!r}, as YAML reads "
            "yes, no and null; put the name into quotes"
        )
    if reserved := RESERVED & {*ood, *groups} or set(ood) & set(groups):
        raise ValueError(
            f"expected OOD sets and groups of different names, none of {sorted(RESERVED)}, "
            f"got {sorted(reserved)}; rename them"
        )


def check_groups(ood: Collection[str], groups: Mapping[str, Collection[str]]) -> None:
    """Refuses empty groups, and groups of unknown OOD sets."""
    grouped = {member for members in groups.values() for member in members}
    empty = [name for name, members in groups.items() if not members]
    if unknown := grouped - set(ood) or empty:
        raise ValueError(
            f"expected groups of the OOD sets {', '.join(ood)}, got {sorted(unknown)}; remove "
            "a set from data.groups if you remove it from data.ood"
        )


def check_images(
    name: str, images: ImageSet | StoredImages, image_shape: tuple[int, ...] | None
) -> None:
    """Refuses an empty set, and images of another shape than the network requires."""
    if len(images) == 0:
        raise ValueError(f"expected images in {name!r}, got none; correct its source")
    shape = tuple(images[torch.zeros(1, dtype=torch.int64)].image.shape[1:])
    if image_shape not in (None, shape):
        raise ValueError(
            f"expected images of shape {image_shape}, as net.image_shape says, got {shape} in "
            f"{name!r}; make the size of its source and net.image_shape agree"
        )


def check_stored(images: ImageSet | StoredImages, *, is_mixed: bool) -> None:
    """Refuses training images that are decoded when used, if they are mixed or may be corrupt."""
    if isinstance(images, ImageSet):
        return
    if is_mixed:
        raise ValueError(
            "expected training images in memory, since each is mixed with any other, got "
            "images that are decoded when they are used; set data.mixing=null, or "
            "data.train.in_memory=true"
        )
    if images.files.on_corrupt == "skip":
        raise ValueError(
            "expected no corrupt training images, since they are decoded when they are used, "
            "got on_corrupt=skip; remove the corrupt images (python -m src.data verify=true "
            "lists them), or set in_memory=true"
        )

"""A cache of decoded image sets, which a later run maps into memory."""

__all__ = ["load_cached"]

import logging
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from shutil import rmtree

import torch
from filelock import FileLock

from src.data.datasets import ImageSet, Source, StoredImages
from src.records.atomic import PARTIAL, is_intact, write_whole

log = logging.getLogger(__name__)


def load_cached(source: Source, folder: Path | None) -> ImageSet | StoredImages:
    """Returns the set of a source: decoded the first time, and mapped from a file later.

    The file name holds the source's `key`, which identifies its settings and the state of its
    files. When the files change, the set is decoded again and the old cache file is removed. A
    cache file that was damaged is made again.

    Args:
        source: Source of the images. It is not cached if its key is None.
        folder: Folder of the cache; None disables caching.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
        ValueError: If `load` of the source raises it.
    """
    key = source.key
    if folder is None or key is None:
        return source.load()
    path = folder / f"{key[0][:16]}-{key[1][:32]}.pt"
    cached = _read(path)
    if cached is None:
        images = source.load()
        assert isinstance(images, ImageSet)
        _save(images, path)
        for old in folder.glob(f"{key[0][:16]}-*.pt"):
            if old != path:
                old.unlink(missing_ok=True)
        cached = _read(path)
    return cached or images


def _read(path: Path) -> ImageSet | None:
    """Returns the set in a cache file; None if there is none, or one that was damaged."""
    if not path.exists():
        return None
    try:
        if is_intact(path):
            saved = torch.load(path, mmap=True, weights_only=True)
            images = ImageSet(saved["image"], saved["label"], saved["classes"], saved["skipped"])
            images.sha256 = saved["sha256"]
            return images
    except (UnpicklingError, EOFError, RuntimeError, OSError, KeyError, TypeError):
        pass
    log.warning("%s is damaged; its images are decoded again", path)
    path.unlink(missing_ok=True)
    return None


def _save(images: ImageSet, path: Path) -> None:
    """Writes a set to a file, unless another process writes the same one."""
    lock = path.with_name(f".{path.name}.lock")
    content = {
        "image": images.image,
        "label": images.label,
        "classes": images.classes,
        "skipped": images.skipped,
        "sha256": images.sha256,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if not path.exists():
                for left in path.parent.glob(f"{PARTIAL}*/{path.name}"):  # of a killed process
                    rmtree(left.parent)
                write_whole(path, lambda partial: torch.save(content, partial))
    except OSError as error:
        raise OSError(
            f"expected to write {images.image.nbytes / 2**20:.0f} MiB of decoded images into "
            f"{path.parent}, got: {error}; make room, set data.cache_dir to another folder, or to "
            "null to disable the cache"
        ) from error
    finally:
        with suppress(OSError):
            lock.unlink(missing_ok=True)

"""Decoded image sets on disk: the second start maps them into memory."""

__all__ = ["load_cached"]

import os
from contextlib import suppress
from pathlib import Path

import torch

from src.data.datasets import ImageSet, Source, StoredImages


def load_cached(source: Source, folder: Path | None) -> ImageSet | StoredImages:
    """Returns the source's set, decoded the first time and mapped from a file after that.

    The file's name holds the source's `key`: of what is asked for, and of the state of the files
    that it comes from. When these change, the set is decoded anew and the old file is removed.

    Args:
        source: one without a key, or whose key is None, is loaded as it is.
        folder: of the cache; None for no cache.

    Raises:
        OSError: if the folder cannot be written, or is full.
        ValueError: as of the source's `load`.
    """
    key: tuple[str, str] | None = getattr(source, "key", None)
    if folder is None or key is None:
        return source.load()
    path = folder / f"{key[0][:16]}-{key[1][:32]}.pt"
    if not path.exists():
        images = source.load()
        assert isinstance(images, ImageSet)
        _save(images, path)
        for old in folder.glob(f"{key[0][:16]}-*.pt"):
            if old != path:
                old.unlink(missing_ok=True)
    saved = torch.load(path, mmap=True, weights_only=True)
    images = ImageSet(saved["image"], saved["label"], saved["classes"], saved["skipped"])
    images.sha256 = saved["sha256"]
    return images


def _save(images: ImageSet, path: Path) -> None:
    """Writes under another name and renames: a reader finds all of it or nothing."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    content = {
        "image": images.image,
        "label": images.label,
        "classes": images.classes,
        "skipped": images.skipped,
        "sha256": images.sha256,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into the latter
        raise OSError(
            f"expected to write {images.image.nbytes / 2**20:.0f} MiB of decoded images into "
            f"{path.parent}, got: {error}; make room, set data.cache_dir to another folder, or to "
            "null for none"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)

"""Compression of OOD images with the codec of the ID images."""

__all__ = ["match_codec_of"]

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from src.data.datasets import Source, spread
from src.data.decoding import Codec, undecodable
from src.data.files import ImageFiles

LOOKED_AT = 100  # ID images whose codec is compared
CHANGE_OF = 500  # images of each OOD set whose change is measured


def match_codec_of(test: Source, ood: Mapping[str, Source]) -> dict[str, float]:
    """Makes the OOD sources compress their images with the codec of the ID test images.

    Images are compressed after the resize if the ID images are stored in the size that the network
    sees, and before it otherwise.

    Returns:
        Name of each OOD set -> mean absolute change of a pixel, within 0..255.

    Raises:
        ValueError: If a source does not read image files, if the ID images are not JPEG files of
            one quality, or if an image is corrupt and is not skipped.
    """
    for name, source in {"id": test, **ood}.items():
        if not isinstance(source, ImageFiles):
            raise ValueError(
                f"expected image files to match codecs of, got {type(source).__name__} as "
                f"{name!r}; set data.match_codec=false"
            )
    assert isinstance(test, ImageFiles)
    codecs, sizes = set[Codec | None](), set[tuple[int, int]]()
    for picture in some_of(test, LOOKED_AT):
        codecs.add(Codec.of(picture))
        sizes.add(picture.size)
    if len(codecs) != 1 or None in codecs:
        raise ValueError(
            f"expected ID images in {test.path} that are JPEG files of one quality, got "
            f"{'some that are not' if None in codecs else f'{len(codecs)} qualities'}; "
            "set data.match_codec=false"
        )
    last = sizes == {(test.view.size, test.view.size)}
    change = {}
    for name, source in ood.items():
        assert isinstance(source, ImageFiles)
        plain = source.view
        source.view = replace(plain, codec=codecs.copy().pop(), codec_last=last)
        difference = [
            np.abs(plain(picture) - source.view(picture).astype(float)).mean()
            for picture in some_of(source, CHANGE_OF)
        ]
        change[name] = float(np.mean(difference)) if difference else 0.0
    return change


def some_of(source: ImageFiles, count: int) -> Iterator[Image.Image]:
    """Yields at most `count` decoded images, spread evenly, without those that are skipped.

    Raises:
        ValueError: If an image is corrupt and is not skipped.
    """
    for row in spread(len(source.names), count).tolist():
        try:
            with source.open(row) as picture:
                picture.load()
        except Exception as error:  # decoders raise many types, which all mean a broken file
            if source.on_corrupt == "refuse":
                raise undecodable(source.place(row), error) from None
            continue
        yield picture

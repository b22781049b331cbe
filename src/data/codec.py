"""Compression of OOD images with the codec of the ID images."""

__all__ = ["match_codec_of"]

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from src.data.datasets import Source, spread
from src.data.decoding import Codec
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
        ValueError: If a source does not read image files, or if the ID images are not JPEG files
            of one quality.
    """
    for name, source in {"id": test, **ood}.items():
        if not isinstance(source, ImageFiles):
            raise ValueError(
                f"expected image files to match codecs of, got {type(source).__name__} as "
                f"{name!r}; set data.match_codec=false"
            )
    assert isinstance(test, ImageFiles)
    codecs, sizes = set[Codec | None](), set[tuple[int, int]]()
    for row in spread(len(test.names), LOOKED_AT).tolist():
        with test.open(row) as picture:
            codecs.add(Codec.of(picture))
            sizes.add(picture.size)
    if len(codecs) > 1 or None in codecs:
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
        difference = []
        for row in spread(len(source.names), CHANGE_OF).tolist():
            with source.open(row) as one, source.open(row) as same:
                difference.append(np.abs(plain(one) - source.view(same).astype(float)).mean())
        change[name] = float(np.mean(difference))
    return change

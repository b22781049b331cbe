"""Opens picture files of the listed formats, within limits, and without waiting."""

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "check_method",
    "check_pixels",
    "open_bytes",
    "open_file",
    "open_member",
]

import stat
from io import BytesIO
from pathlib import Path
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from PIL import EpsImagePlugin, Image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")  # Pillow opens no others
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".gif"),
)
MAX_PIXELS = 2**27  # of one picture, 0.4 GB as RGB
BYTES_PER_PIXEL = 8  # 16 bits in four channels; no file of a picture needs more
HELD = 2**24  # bytes of an archive's member that are held in memory

EpsImagePlugin.gs_binary = False  # also where a library opens pictures: none starts Ghostscript


def open_file(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens a picture without decoding it.

    Args:
        path: Path of the file.
        max_pixels: Largest number of pixels; the file may have eight bytes for each.

    Raises:
        OSError: If the file cannot be read or has none of the formats.
        ValueError: If it is no regular file or larger than permitted.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is a device, a pipe or a folder, not a file")
    check_bytes(state.st_size, max_pixels)
    return _opened(path, max_pixels)


def open_bytes(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens the picture that a file's bytes hold as `open_file` does.

    Raises:
        OSError: If they have none of the formats.
        ValueError: If they are more than permitted.
    """
    check_bytes(len(content), max_pixels)
    return _opened(BytesIO(content), max_pixels)


def open_member(archive: ZipFile, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens a picture in an archive as `open_file` does; a large one is read while it is decoded.

    Raises:
        BadZipFile: If the member is damaged.
        OSError: If it cannot be read or has none of the formats.
        ValueError: If it is larger than permitted, or packed otherwise than by deflate.
    """
    member = archive.getinfo(name)
    check_bytes(member.file_size, max_pixels)
    check_method(member)
    with archive.open(name) as content:  # archive.read would trust the size that is told
        if member.file_size <= HELD:
            return _opened(BytesIO(content.read(member.file_size)), max_pixels)
        while content.read(HELD):  # up to its end, where its checksum is compared
            pass
    return _opened(archive.open(name), max_pixels)


def _opened(file: Path | IO[bytes], max_pixels: int) -> Image.Image:
    if Image.MAX_IMAGE_PIXELS and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow refuses more than twice as many
    try:
        picture = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error}; set max_pixels to permit it") from None
    try:
        check_pixels(picture.size, max_pixels)
    except ValueError:
        picture.close()
        raise
    return picture


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Refuses a picture of more pixels.

    Raises:
        ValueError: If width times height exceeds `max_pixels`.
    """
    if size[0] * size[1] > max_pixels:
        raise ValueError(
            f"expected at most {max_pixels} pixels, got {size[0]} x {size[1]}; set max_pixels to "
            "permit it"
        )


def check_method(member: ZipInfo) -> None:
    """Refuses a member of a ZIP archive that cannot be unpacked piece by piece.

    Raises:
        ValueError: If it is neither stored as it is nor packed by deflate.
    """
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ValueError(
            f"expected {member.filename} to be packed by deflate, got method "
            f"{member.compress_type}; pack the archive again"
        )


def check_bytes(size: int, max_pixels: int) -> None:
    """Refuses a file that is too large for a picture of so many pixels."""
    if size > BYTES_PER_PIXEL * max_pixels:
        raise ValueError(
            f"expected a file of at most {BYTES_PER_PIXEL * max_pixels / 1e9:.1f} GB, got "
            f"{size / 1e9:.1f}; set max_pixels to permit it"
        )

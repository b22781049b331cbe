"""Pictures that are none, that never end or that are too large: refused, and memory stays low."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZipFile

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from src.data import ImageFolder
from src.data.decoding import View
from src.data.opening import FORMATS, SUFFIXES, open_file, open_member
from src.data.verify import contents

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run\nshowpage\n%%EOF\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG file whose header promises so many grey pixels, of which only few are there."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(b"\0"))


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "PDF", "AVIF"])
def test_only_the_decoders_of_the_listed_formats_are_opened(kind: str, tmp_path: Path) -> None:
    try:
        data = EPS if kind == "EPS" else encoded(kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {kind}")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"a.png, which cannot be decoded \(cannot identify"):
        ImageFolder(tmp_path, 8).load()
    with ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.png", data)
    with pytest.raises(ValueError, match="cannot be decoded"):
        ImageFolder(tmp_path / "set", 8).load()


def test_no_library_starts_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = tmp_path / "called"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {called}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "a.eps").write_bytes(EPS)
    assert not EpsImagePlugin.has_ghostscript()
    with Image.open(tmp_path / "a.eps") as picture, pytest.raises(OSError, match="Ghostscript"):
        picture.load()
    assert not called.exists()


def test_every_listed_format_has_a_suffix_and_a_decoder() -> None:
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)
    assert {Image.EXTENSION[suffix] for suffix in SUFFIXES} == set(FORMATS)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="not a file"):
        open_file(path)


def test_a_picture_that_became_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    source = ImageFolder(tmp_path, 8)
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png, which cannot be decoded"):
        source.load()


@pytest.mark.parametrize("side", [20_000, 12_000])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_picture_of_too_many_pixels_is_refused_unless_permitted(
    side: int, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / "set/a.png"
    path.parent.mkdir()
    path.write_bytes(png(side, side))
    if zipped:
        with ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.write(path, "a.png")
        path.unlink()
        path.parent.rmdir()
    with pytest.raises(ValueError, match="set max_pixels to permit it"):
        ImageFolder(tmp_path / "set", 8).load()
    source = ImageFolder(tmp_path / "set", 8, max_pixels=side * side)
    with source.open(0) as picture:
        assert picture.size == (side, side)
    found = contents(ImageFolder(tmp_path / "set", 8), "set")
    assert "set max_pixels" in "".join(found.corrupt.values())


def test_the_bound_is_that_of_the_source(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert len(ImageFolder(tmp_path, 8, max_pixels=100).load()) == 1
    with pytest.raises(ValueError, match="expected at most 99 pixels, got 10 x 10"):
        ImageFolder(tmp_path, 8, max_pixels=99).load()


def test_a_thin_picture_does_not_become_a_huge_one() -> None:
    with pytest.raises(ValueError, match="pixels, got 256 x 25600000"):
        View(224, 256)(Image.new("L", (1, 100_000)))


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(png(8, 8))
        file.truncate(3 * 2**30)
    with pytest.raises(ValueError, match=r"at most 1.1 GB, got 3.2; set max_pixels"):
        ImageFolder(tmp_path, 8).load()


def test_a_large_member_of_an_archive_is_decoded_and_its_damage_is_found(tmp_path: Path) -> None:
    pixel = np.random.default_rng(0).integers(0, 256, (2400, 2400, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixel).save(file, "PNG", compress_level=0)
    with ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.png", file.getvalue())
    with ZipFile(tmp_path / "set.zip") as archive, open_member(archive, "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixel)
    whole = bytearray((tmp_path / "set.zip").read_bytes())
    whole[-1000] ^= 1
    (tmp_path / "set.zip").write_bytes(whole)
    with pytest.raises(ValueError, match=r"cannot be decoded \(Bad CRC-32"):
        ImageFolder(tmp_path / "set", 8).load()


MEMBERS = {
    "zeros behind a picture": (ZIP_DEFLATED, None),
    "bzip2": (ZIP_BZIP2, None),
    "lzma": (ZIP_LZMA, None),
    "of a size that is not told": (ZIP_DEFLATED, 1000),
}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "told"), MEMBERS.values(), ids=MEMBERS)
def test_a_bomb_in_an_archive_takes_no_memory(
    method: int, told: int | None, tmp_path: Path
) -> None:
    """Its 300 MB of zeros are below the limit for files."""
    with (
        ZipFile(tmp_path / "set.zip", "w", method) as archive,
        archive.open("a.png", "w") as member,
    ):
        member.write(png(8, 8))
        zeros = bytes(2**20)
        for _ in range(300):
            member.write(zeros)
    if told is not None:
        whole = (tmp_path / "set.zip").read_bytes()
        with ZipFile(tmp_path / "set.zip") as archive:
            real = archive.getinfo("a.png").file_size
        (tmp_path / "set.zip").write_bytes(
            whole.replace(struct.pack("<I", real), struct.pack("<I", told))
        )
    code = (
        "import sys; from src.data import ImageFolder; import resource;"
        "source = ImageFolder(sys.argv[1], 8, on_corrupt='skip');"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "source.decode([0]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "set")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100 * 1024  # KB

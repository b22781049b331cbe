"""Shards of WebDataset: the same images as in a folder, in any order, and nothing of strangers."""

import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from src.data import ImageData, ImageFolder, ImageShards, StoredImages

Member = tuple[str, bytes]


def picture(seed: int, side: int = 8, kind: str = "PNG") -> bytes:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (side, side, 3), generator=generator, dtype=torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, kind)
    return file.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info


def shard(path: Path, *members: Member, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            archive.addfile(header(name, len(content)), io.BytesIO(content))
    return path


def sample(number: int) -> Iterator[Member]:
    """An image of class number % 3, its label, and what img2dataset writes beside them."""
    yield f"part/{number:04}.png", picture(number)
    yield f"part/{number:04}.cls", f"{number % 3}\n".encode()
    yield f"part/{number:04}.json", b"{}"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Twelve images in three shards."""
    for first in (0, 4, 8):
        members = [each for number in range(first, first + 4) for each in sample(number)]
        shard(tmp_path / f"shards/train-{first // 4:06}.tar", *members)
    return tmp_path / "shards"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same images as files."""
    for number in range(12):
        file = tmp_path / f"folder/{number % 3}/{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    return tmp_path / "folder"


def test_the_images_are_those_of_a_folder(shards: Path, folder: Path) -> None:
    ours, theirs = ImageShards(shards, 8).load(), ImageFolder(folder, 8).load()
    by_class = torch.arange(12).view(4, 3).T.flatten()  # as the folder has them
    assert ours.classes == theirs.classes == ("0", "1", "2")
    assert torch.equal(ours.label[by_class], theirs.label)
    assert torch.equal(ours.image[by_class], theirs.image)


def test_images_are_read_where_they_are_used_in_any_order_and_process(shards: Path) -> None:
    whole = ImageShards(shards, 8).load()
    source = pickle.loads(pickle.dumps(ImageShards(shards, 8, in_memory=False)))
    stored = source.load()
    assert isinstance(stored, StoredImages)
    index = torch.tensor([11, 0, 5, 5, -1])
    assert torch.equal(stored[index].image, whole[index].image)
    assert stored[index].label.tolist() == [2, 0, 2, 2, -1]


def test_a_training_reads_shards_with_workers(shards: Path) -> None:
    data = ImageData(
        ImageShards(shards, 8, in_memory=False), ImageShards(shards / "train-000000.tar", 8),
        {"last": ImageShards(shards / "train-*2.tar", 8, labelled=False)},
        batch_size=2, validation_size=4, workers=1,
    )  # fmt: skip
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert sorted(torch.cat([each.index for each in batches]).tolist()) == list(range(8))
    assert [data.images(name) for name in ("id", "last")] == [4, 4]


def test_a_pattern_one_shard_and_a_sample_choose_images(shards: Path) -> None:
    assert len(ImageShards(shards / "train-00000[12].tar", 8).names) == 8
    assert len(ImageShards(shards / "train-000001.tar", 8).names) == 4
    every = ImageShards(shards, 8).load()
    few = ImageShards(shards, 8, sample=5, seed=3)
    drawn = [int(name.removesuffix(".png")[-4:]) for name in few.names]
    assert len(set(drawn)) == 5
    assert torch.equal(few.load().image, every.image[drawn])


def test_what_is_no_image_is_counted_and_what_is_hidden_ignored(tmp_path: Path) -> None:
    members = [*sample(0), ("._0000.png", b"mac"), ("dir/.hidden.png", b""), ("README", b"")]
    source = ImageShards(shard(tmp_path / "a.tar", *members), 8)
    assert source.names == ["a.tar/part/0000.png"]
    assert source.notes == ("files left out: 1 .json",)


def test_labels_may_be_names_and_are_not_needed(tmp_path: Path) -> None:
    members = [("a.jpg", picture(0, kind="JPEG")), ("a.cls", b"dog"), ("b.jpg", picture(1))]
    path = shard(tmp_path / "a.tar", *members, ("b.cls", b"cat"))
    source = ImageShards(path, 8)
    assert (source.classes, source.label.tolist()) == (("cat", "dog"), [1, 0])
    unlabelled = ImageShards(path, 8, labelled=False)
    assert (unlabelled.classes, unlabelled.label.tolist()) == ((), [-1, -1])
    assert ImageShards(shard(tmp_path / "n.tar", *sample(1)), 8, num_classes=7).classes[-1] == "6"


def test_the_cache_key_follows_a_shard_that_changes(shards: Path) -> None:
    how, state = ImageShards(shards, 8).key or ("", "")
    shard(shards / "train-000002.tar", *sample(20), *sample(21))
    assert (ImageShards(shards, 8).key or ("", ""))[0] == how
    assert (ImageShards(shards, 8).key or ("", ""))[1] != state
    assert ImageShards(shards, 8, in_memory=False).key is None


def test_a_broken_image_is_refused_or_left_out(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *sample(0), ("b.png", b"GIF89a no"), ("b.cls", b"1"))
    with pytest.raises(ValueError, match=r"got .*a.tar/b.png, which cannot be decoded"):
        ImageShards(path, 8).load()
    kept = ImageShards(path, 8, on_corrupt="skip").load()
    assert (len(kept), kept.skipped) == (1, 1)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("a.txt", b"")], "expected images .*, got none; check what they hold"),
        ([("a.png", picture(0))], "expected a .cls for each image of .*, got none for 1 of them"),
        ([*sample(0), ("part/0000.jpg", b"")], "expected one image in each sample"),
        ([("a.png", b""), ("a.cls", b"-1")], "a name or a whole number, got '-1'"),
        ([("a.png", b""), ("a.cls", b"999999")], "expected labels below 100000"),
        ([("a.png", b""), ("a.cls", b"\xff\xfe")], "expected a plain tar file, .*utf-8"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    members: list[Member], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        ImageShards(shard(tmp_path / "a.tar", *members), 8)


def test_shards_that_are_not_there_are_refused(tmp_path: Path, shards: Path) -> None:
    for path in (tmp_path, shards / "train-{000000..000002}.tar", shards / "test-*.tar"):
        with pytest.raises(FileNotFoundError, match=r"expected shards \(.tar\) in .*with \*"):
            ImageShards(path, 8)


def negative(info: tarfile.TarInfo) -> bytes:
    """A header whose size is -512, in base 256."""
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = (-512).to_bytes(12, signed=True)
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def pax(**fields: str) -> bytes:
    """An image of 0 bytes with an extended header."""
    info = header("a.png", 0)
    info.pax_headers = fields
    return info.tobuf(tarfile.PAX_FORMAT)


def extended(size: int) -> bytes:
    return header("x", size, tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT) + b"0" * 512


BROKEN = {
    "empty": lambda whole: b"",
    "no tar": lambda whole: b"<html>" * 200,
    "cut in an image": lambda whole: whole[:700],
    "a header that is overwritten": lambda whole: whole[:1024] + b"x" * 512 + whole[1536:],
    "an extended header of 2 GB": lambda whole: extended(2**31),
    "a header that leads back": lambda whole: negative(header("a.png", 0)) * 2,
    "an extended header that leads back": lambda whole: (
        negative(header("x", 0, tarfile.XHDTYPE)) + bytes(512)
    ),
    "a size that leads back": lambda whole: pax(size="-512") + bytes(1024),
    "a sparse file without its map": lambda whole: pax(
        **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    ),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_whole_tar_is_refused(make: object, tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *sample(0), *sample(1))
    path.write_bytes(make(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"expected a plain tar file, got .*a.tar, which cannot"):
        ImageShards(path, 8)


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *sample(0), mode="w:gz")
    with pytest.raises(ValueError, match=r"plain tar file.*or unpack it if it is compressed"):
        ImageShards(path, 8)


def test_links_devices_and_sparse_files_are_no_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)):
            link = header(f"{number}.png", 0, kind)
            link.linkname = "/etc/passwd"
            archive.addfile(link)
        for name, content in sample(7):
            archive.addfile(header(name, len(content)), io.BytesIO(content))
    assert ImageShards(tmp_path / "a.tar", 8).names == ["a.tar/part/0007.png"]


def test_an_image_larger_than_permitted_is_not_read(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", ("a.png", bytes(5000)), ("a.cls", b"0"))
    with pytest.raises(ValueError, match="set max_pixels to permit it"):
        ImageShards(path, 8, max_pixels=500).load()

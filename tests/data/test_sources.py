"""Lists, kinds of images, corrupt files, the cache, codecs: what becomes of a user's images."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from src.data import (
    Digits,
    HuggingFace,
    ImageData,
    ImageFolder,
    ImageList,
    ImageSet,
    Noise,
    Torchvision,
)
from src.data.cache import load_cached
from src.data.decoding import Codec, View, rgb
from src.data.verify import contents, findings


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six PNG images of 8 x 8 pixels of two classes."""
    for row in range(6):
        path = tmp_path / "pets" / ("cat" if row % 2 else "ant") / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(8, 8, 3, seed=row)).save(path)
    return tmp_path / "pets"


def decoded(folder: Path, **options: object) -> ImageSet:
    images = ImageFolder(folder, 8, **options).load()
    assert isinstance(images, ImageSet)
    return images


# --- kinds of images


def test_16_bit_grey_keeps_its_greys() -> None:
    value = np.linspace(0, 65535, 64).reshape(8, 8)
    picture = Image.fromarray(value.astype(np.uint16))
    expected = (value.astype(np.uint16) / 257).round().astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(rgb(picture))[..., 0], expected)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_becomes_rgb_as_in_torchvision(mode: str, tmp_path: Path) -> None:
    picture = (
        Image.fromarray(pixels(8, 8, 3)).convert("RGBA" if mode == "PA" else "RGB").convert(mode)
    )
    assert rgb(picture).mode == "RGB"
    np.testing.assert_array_equal(np.asarray(rgb(picture)), np.asarray(picture.convert("RGB")))


def test_floats_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(
        ValueError, match=r"a.tiff, which cannot be decoded \(expected pixels of 8"
    ):
        ImageFolder(tmp_path, 8).load()


def test_orientation_of_exif_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels(8, 8, 3)).save(tmp_path / "a.png", exif=exif)
    assert decoded(tmp_path).image[0].permute(1, 2, 0).equal(torch.from_numpy(pixels(8, 8, 3)))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (50, 1, 3)])
@pytest.mark.parametrize("short_side", [None, 10])
def test_images_of_one_pixel_are_images(
    shape: tuple[int, ...], short_side: int | None, tmp_path: Path
) -> None:
    Image.fromarray(pixels(*shape)).save(tmp_path / "a.png")
    assert decoded(tmp_path, short_side=short_side).image.shape == (1, 3, 8, 8)


# --- lists


def write_list(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_list_gives_its_images_in_its_order(folder: Path, tmp_path: Path) -> None:
    names = ["cat/3.png", "ant/0.png", "cat/1.png"]
    lines = [f"pets/{name} {label}" for name, label in zip(names, (4, 0, 4), strict=True)]
    images = ImageList(write_list(tmp_path / "some.txt", lines), tmp_path, 8, num_classes=5).load()
    assert isinstance(images, ImageSet)
    assert images.label.tolist() == [4, 0, 4]
    assert images.classes == ("0", "1", "2", "3", "4")
    for image, name in zip(images.image, names, strict=True):
        assert image.permute(1, 2, 0).equal(torch.from_numpy(np.array(Image.open(folder / name))))


def test_a_path_may_hold_spaces_and_labels_may_be_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "ant/0.png").rename(folder / "ant/an ant.png")
    path = write_list(tmp_path / "some.txt", ["ant/an ant.png -1"])
    source = ImageList(path, folder, 8, labelled=False)
    assert (source.classes, source.label.tolist()) == ((), [-1])


def test_a_csv_names_its_columns(folder: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "a.csv", ["id,file,kind", "7,cat/1.png,cat", "8,ant/0.png,ant"])
    source = ImageList(path, folder, 8, columns=("file", "kind"))
    assert (source.classes, source.label.tolist()) == (("ant", "cat"), [1, 0])
    with pytest.raises(ValueError, match=r"column 'label' in .*, got id, file, kind; set columns"):
        ImageList(path, folder, 8, columns=("file", "label"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["cat/1.png"], "a path and a label in line 1"),
        ([""], "expected images in the list .*, got none"),
        (["cat/9.png 0"], r"expected the images of .* got no cat/9.png"),
        (["../secret.png 0"], r"expected paths below .*, got '../secret.png'"),
        (["/etc/passwd 0"], "expected paths below .*, got '/etc/passwd'"),
        (["cat/1.png -1"], "expected a class for each image of .*, got '-1'; set labelled=false"),
        (["cat/1.png 7"], "expected labels below num_classes=3 in .*, got 7"),
    ],
)
def test_a_bad_list_is_refused(
    lines: list[str], message: str, folder: Path, tmp_path: Path
) -> None:
    path = write_list(tmp_path / "bad.txt", lines)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ImageList(path, folder, 8, num_classes=3)


def test_a_missing_list_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no file .*a.txt; this is image lists of OpenOOD"
    ):
        ImageList(tmp_path / "a.txt", tmp_path, 8, known="benchmark_imglist")


# --- what is wrong with a set


def test_a_protocol_has_its_number_of_images(folder: Path) -> None:
    assert len(decoded(folder, count=6, sample=2)) == 2
    with pytest.raises(
        ValueError, match=r"expected 7 images in .*, as the protocol requires, got 6"
    ):
        ImageFolder(folder, 8, count=7)


def test_a_class_without_images_is_refused(folder: Path) -> None:
    (folder / "dog").mkdir()
    with pytest.raises(ValueError, match=r"images in every class of .*, got none in 'dog'"):
        ImageFolder(folder, 8)


def damage(folder: Path) -> None:
    """Cuts one image short, and puts a text file in the place of another."""
    whole = (folder / "ant/2.png").read_bytes()
    (folder / "ant/2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat/5.png").write_text("not an image")


def test_corrupt_images_are_skipped_and_counted_if_asked(folder: Path) -> None:
    whole = decoded(folder)
    damage(folder)
    with pytest.raises(ValueError, match=r"(2|5).png, which cannot be decoded .* on_corrupt=skip"):
        ImageFolder(folder, 8).load()
    images = decoded(folder, on_corrupt="skip")
    assert (len(images), images.skipped) == (4, 2)
    rest = torch.tensor([0, 2, 3, 4])  # ant/0, ant/4, cat/1, cat/3
    assert images.image.equal(whole.image[rest])
    assert images.label.equal(whole.label[rest])


def test_corrupt_images_on_disk_become_padding(folder: Path) -> None:
    damage(folder)
    stored = ImageFolder(folder, 8, on_corrupt="skip", in_memory=False).load()
    assert stored[torch.arange(6)].index.tolist() == [0, -1, 2, 3, 4, -1]


def test_images_skipped_on_disk_are_counted_and_no_training_images(folder: Path) -> None:
    damage(folder)
    stored = ImageFolder(folder, 8, on_corrupt="skip", in_memory=False)
    data = ImageData(stored, stored, {"noise": Noise(5, 8)}, validation_size=1, batch_size=2)
    data.setup("test")
    assert data.facts({"id": 4, "noise": 5})["sets"]["id"]["skipped"] == 2
    assert data.facts()["sets"]["id"]["skipped"] == 0
    with pytest.raises(ValueError, match=r"no corrupt training images.* got on_corrupt=skip"):
        data.setup("fit")


def test_nothing_but_corrupt_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(ValueError, match="got none that can be decoded"):
        ImageFolder(tmp_path, 8, on_corrupt="skip").load()


def test_findings_name_what_is_corrupt_double_or_both_id_and_ood(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "copy.png").write_bytes((folder / "cat/1.png").read_bytes())
    Image.open(folder / "cat/3.png").save(other / "again.bmp")  # the same pixels in other bytes
    (other / "copy2.png").write_bytes((folder / "cat/1.png").read_bytes())
    damage(folder)
    sets = {"id": ImageFolder(folder, 8), "near": ImageFolder(other, 8)}
    found = findings({name: contents(source, name) for name, source in sets.items()})
    assert list(found["corrupt"]) == ["id"]
    assert [Path(name).name for name in found["corrupt"]["id"]] == ["2.png", "5.png"]
    copies = [str(other / "copy.png"), str(other / "copy2.png")]
    assert found["duplicates"] == {"near": [copies]}
    assert found["overlaps"] == {
        "id, near": [
            (str(folder / "cat/1.png"), copies[0]),
            (str(folder / "cat/3.png"), str(other / "again.bmp")),
        ]
    }  # fmt: skip


# --- the cache


def in_archive(folder: Path) -> None:
    with ZipFile(folder.with_name(folder.name + ".zip"), "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize("zipped", [False, True])
def test_the_second_load_comes_from_the_cache(
    zipped: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if zipped:
        in_archive(folder)
    first = load_cached(ImageFolder(folder, 8), tmp_path / "cache")
    monkeypatch.setattr(ImageFolder, "load", None)  # decoding again would fail
    again = load_cached(ImageFolder(folder, 8), tmp_path / "cache")
    for images in (first, again):
        assert isinstance(images, ImageSet)
        assert images.image.is_contiguous()
    assert again.image.equal(first.image)
    assert (again.label.tolist(), again.classes) == (first.label.tolist(), ("ant", "cat"))
    assert again.sha256 == ImageSet(first.image, first.label).sha256


def overwritten(folder: Path) -> None:
    """Other pixels in as many bytes, with the time of the last change set back."""
    path = folder / "ant/0.bmp"
    before = path.stat()
    Image.fromarray(pixels(8, 8, 3, seed=99)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def added(folder: Path) -> None:
    Image.fromarray(pixels(8, 8, 3, seed=99)).save(folder / "ant/7.png")


def renamed(folder: Path) -> None:
    (folder / "ant/0.bmp").rename(folder / "cat/0.bmp")


@pytest.mark.parametrize("change", [overwritten, added, renamed])
def test_nothing_stale_comes_from_the_cache(
    change: Callable[[Path], None], folder: Path, tmp_path: Path
) -> None:
    Image.open(folder / "ant/0.png").save(folder / "ant/0.bmp")
    load_cached(ImageFolder(folder, 8), tmp_path / "cache")
    change(folder)
    cached, fresh = load_cached(ImageFolder(folder, 8), tmp_path / "cache"), decoded(folder)
    assert isinstance(cached, ImageSet)
    assert cached.image.equal(fresh.image)
    assert cached.label.equal(fresh.label)
    assert len(list((tmp_path / "cache").iterdir())) == 1  # what is stale is removed


def flip(path: Path) -> None:
    """What a disk may do: one bit in the middle of the pixels."""
    content = bytearray(path.read_bytes())
    content[content.index(b"data/0") + 400] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(flip, id="a flipped bit"),
        pytest.param(lambda path: os.truncate(path, path.stat().st_size // 2), id="cut"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_text("no archive"), id="overwritten"),
        pytest.param(lambda path: torch.save([], path), id="another content"),
    ],
)
def test_a_damaged_cache_is_made_again_and_says_so(
    harm: Callable[[Path], object],
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = ImageFolder(folder, 32).load()
    load_cached(ImageFolder(folder, 32), tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    harm(file)
    left = tmp_path / "cache/.partial.killed" / file.name
    left.parent.mkdir()
    left.write_text("half of it")
    for times in (1, 1):  # the second finds the one that was made again
        again = load_cached(ImageFolder(folder, 32), tmp_path / "cache")
        assert isinstance(whole, ImageSet)
        assert isinstance(again, ImageSet)
        assert again.image.equal(whole.image)
        assert again.label.equal(whole.label)
        assert caplog.text.count(f"{file} is damaged; its images are decoded again") == times
    assert [*(tmp_path / "cache").iterdir()] == [file]


def test_other_views_and_samples_have_caches_of_their_own(folder: Path, tmp_path: Path) -> None:
    for options in ({}, {"sample": 3}, {"short_side": 9}, {"sample": 3, "seed": 1}):
        images = load_cached(ImageFolder(folder, 8, **options), tmp_path / "cache")
        assert isinstance(images, ImageSet)
        assert images.image.equal(decoded(folder, **options).image)


def test_what_is_read_from_disk_or_made_is_not_cached(folder: Path, tmp_path: Path) -> None:
    load_cached(ImageFolder(folder, 8, in_memory=False), tmp_path / "cache")
    load_cached(Digits([1, 2], "test"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match=r"expected to write 0 MiB .* set data.cache_dir to another"):
        load_cached(ImageFolder(folder, 8), tmp_path / "cache")


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_no_half_cache(folder: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path;"
        "from src.data import ImageFolder; from src.data.cache import load_cached;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14));"
        "load_cached(ImageFolder(sys.argv[1], 99), Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, str(folder), str(tmp_path / "cache")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert "expected to write 0 MiB of decoded images into" in done.stderr
    assert "make room" in done.stderr
    assert not list((tmp_path / "cache").iterdir())


def test_torchvision_sets_are_cached_too(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for part in ("labels", "images/dots"):
            (tmp_path / "dtd/dtd" / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(8, 8, 3)).save(tmp_path / f"dtd/dtd/images/dots/{split}.png")
        (tmp_path / f"dtd/dtd/labels/{split}1.txt").write_text(f"dots/{split}.png\n")
    source = Torchvision("DTD", tmp_path, 8, download=False, split=["train", "val"], count=2)
    images = [load_cached(source, tmp_path / "cache") for _ in range(2)]
    assert [len(each) for each in images] == [2, 2]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(
        ValueError, match="expected 3 images in DTD, as the protocol requires, got 2"
    ):
        Torchvision("DTD", tmp_path, 8, split=["train", "val"], count=3).load()


# --- codecs


@pytest.fixture
def jpegs(tmp_path: Path) -> Path:
    """Four JPEG images of quality 30 and 4:2:0, of two classes, and six lossless ones."""
    for row in range(4):
        path = tmp_path / "jpeg" / "ab"[row % 2] / f"{row}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(8, 8, 3, seed=row)).save(path, quality=30, subsampling=2)
    return tmp_path / "jpeg"


def test_a_codec_is_read_from_a_file_and_repeated(
    jpegs: Path, folder: Path, tmp_path: Path
) -> None:
    picture = Image.open(folder / "cat/1.png")
    picture.save(tmp_path / "same.jpg", quality=30, subsampling=2)
    with Image.open(jpegs / "a/0.jpg") as known, Image.open(tmp_path / "same.jpg") as expected:
        codec = Codec.of(known)
        assert codec is not None
        assert codec.subsampling == 2
        np.testing.assert_array_equal(np.asarray(codec(picture)), np.asarray(expected))
    assert Codec.of(picture) is None


def test_ood_images_are_compressed_as_the_id_images_are(jpegs: Path, folder: Path) -> None:
    train, test = ImageFolder(jpegs, 8), ImageFolder(jpegs, 8)
    ood = ImageFolder(folder, 8, labelled=False)
    plain = decoded(folder)
    data = ImageData(train, test, {"pets": ood}, validation_size=1, match_codec=True)
    assert test.view == View(8)
    with Image.open(jpegs / "a/0.jpg") as known:
        assert ood.view == View(8, codec=Codec.of(known))
    change = (ood.load().image.float() - plain.image.float()).abs().mean().item()  # type: ignore[union-attr]
    assert change > 10
    assert data.facts()["codec_change"] == {"pets": pytest.approx(change)}


def test_a_codec_that_id_images_do_not_share_cannot_be_matched(jpegs: Path, folder: Path) -> None:
    png, jpeg = ImageFolder(folder, 8), ImageFolder(jpegs, 8)
    with pytest.raises(ValueError, match="JPEG files of one quality, got some that are not"):
        ImageData(png, png, {"jpeg": jpeg}, match_codec=True)
    Image.fromarray(pixels(8, 8, 3)).save(jpegs / "a/0.jpg", quality=90)
    with pytest.raises(ValueError, match="JPEG files of one quality, got 2 qualities"):
        ImageData(jpeg, jpeg, {"png": png}, match_codec=True)
    with pytest.raises(ValueError, match="expected image files to match codecs of, got Noise as"):
        ImageData(jpeg, jpeg, {"noise": Noise(5)}, match_codec=True)


def test_a_corrupt_image_is_refused_or_skipped_when_codecs_are_matched(
    jpegs: Path, folder: Path
) -> None:
    damage(folder)
    source = ImageFolder(jpegs, 8)
    with pytest.raises(ValueError, match=r"(2|5).png, which cannot be decoded .* on_corrupt=skip"):
        ImageData(source, source, {"pets": ImageFolder(folder, 8)}, match_codec=True)
    ood = {"pets": ImageFolder(folder, 8, on_corrupt="skip")}
    data = ImageData(source, source, ood, match_codec=True)
    assert data.codec_change["pets"] > 10


# --- the facts of a benchmark


def test_facts_say_what_became_of_each_set(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(pixels(8, 8, 3, seed=9)).save(other / "a.png")
    source = ImageFolder(folder, 8)
    ood = {"far": ImageFolder(other, 8, short_side=9)}
    data = ImageData(
        source, source, ood, validation_size=2, protocol="mine", groups={"all_far": ["far"]}
    )
    data.setup("test")
    facts = data.facts()
    assert (facts["protocol"], facts["groups"]) == ("mine", {"all_far": ["far"]})
    assert facts["sets"]["far"] == {
        "images": 1, "skipped": 0, "sha256": decoded(other, short_side=9).sha256,
        "view": "resize the short side to 9, crop the central 8, bilinear",
    }  # fmt: skip
    assert facts["sets"]["id"]["view"] == "squash to 8, bilinear"


def test_id_images_as_ood_are_refused(folder: Path) -> None:
    data = ImageData(
        ImageFolder(folder, 8), ImageFolder(folder, 8), {"ood": ImageFolder(folder, 8)}
    )
    with pytest.raises(ValueError, match="got in 'ood' the very images of the ID test set"):
        data.setup("test")


def test_groups_are_of_ood_sets() -> None:
    digits, ood = Digits([1, 2], "test"), {"noise": Noise(5)}
    for groups, message in (
        ({"near": ["svhn"]}, r"groups of the OOD sets noise, got \['svhn'\]"),
        ({"near": []}, r"groups of the OOD sets noise, got \['near'\]"),
        ({"average": ["noise"]}, "different names"),
        ({"noise": ["noise"]}, "different names"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageData(digits, digits, ood, groups=groups)


# --- Hugging Face


def test_hugging_face_sets_are_read_like_folders(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    source = HuggingFace(
        "imagefolder", "train", 8, data_dir=str(folder), cache_dir=str(tmp_path / "hub")
    )
    expected = decoded(folder)
    for _ in range(2):
        images = load_cached(source, tmp_path / "cache")
        assert isinstance(images, ImageSet)
        assert images.classes == expected.classes
        assert images.label.equal(expected.label)
        assert images.image.equal(expected.image)
    sample = HuggingFace(
        "imagefolder", "train", 8, label=None, sample=2, data_dir=str(folder),
        cache_dir=str(tmp_path / "hub"),
    ).load()  # fmt: skip
    assert (sample.classes, sample.label.tolist()) == ((), [-1, -1])
    with pytest.raises(ValueError, match="a column 'kind' in imagefolder, got image, label"):
        HuggingFace("imagefolder", "train", 8, label="kind", data_dir=str(folder))

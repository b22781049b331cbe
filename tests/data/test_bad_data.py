"""Catalogue of bad input, data: each is refused before anything is trained or written.

The words of each case say what was expected, what was given, and what to do.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

pytestmark = pytest.mark.slow  # each case goes through all of a command
Refused = Callable[..., str]
SMALL = (
    *("data=cifar10_folder", "data.validation_size=5", "data.batch_size=5", "data.cache_dir=null"),
    *("net.net.in_channels=3", "net.net.num_classes=10", "net.image_shape=[3,32,32]"),
)


def picture(path: Path) -> None:
    Image.new("RGB", (32, 32)).save(path)


def archived(data: Path) -> bytes:
    """Moves the CIFAR-10 folders into an archive and returns its bytes."""
    with ZipFile(data / "cifar10.zip", "w") as archive:
        for path in sorted((data / "cifar10").rglob("*.png")):
            archive.write(path, path.relative_to(data / "cifar10"))
    shutil.rmtree(data / "cifar10")
    return (data / "cifar10.zip").read_bytes()


def only_folders(data: Path) -> None:
    for path in (data / "cifar10/train").rglob("*.png"):
        path.unlink()


def no_classes(data: Path) -> None:
    shutil.rmtree(data / "cifar10/train")
    (data / "cifar10/train").mkdir()
    picture(data / "cifar10/train/0.png")


def cut_archive(data: Path) -> None:
    whole = archived(data)
    (data / "cifar10.zip").write_bytes(whole[: len(whole) // 2])


def web_page(data: Path) -> None:
    archived(data)
    (data / "cifar10.zip").write_text("<html>log in to download</html>")


def damaged_archive(data: Path) -> None:
    whole = bytearray(archived(data))
    whole[whole.index(b"\x89PNG") + 20] ^= 255
    (data / "cifar10.zip").write_bytes(whole)


def inner_folder(data: Path) -> None:
    """As some unpack and pack again: everything one folder too deep."""
    shutil.move(data / "cifar10", data / "inner")
    (data / "cifar10").mkdir()
    shutil.move(data / "inner", data / "cifar10/cifar10")
    archived(data)


def file_of_a_name(name: str, text: str = "not an image") -> Callable[[Path], None]:
    def write(data: Path) -> None:
        (data / name).write_text(text)

    return write


def as_it_is(data: Path) -> None:
    """Leaves the data alone: the arguments are wrong."""


LIST = (
    "~data.train",
    "+data.train={_target_: src.data.ImageList, path: '${data_dir}/list.txt', size: 32, "
    "root: '${data_dir}/cifar10'}",
)

FOLDERS = {
    "no data_dir": (
        shutil.rmtree,
        ["expected images in", "got no such folder", "set data_dir=<folder of the image sets>"],
    ),
    "data_dir a file": (
        lambda data: (shutil.rmtree(data), data.write_text("")),
        ["expected images in", "got no such folder", "set data_dir="],
    ),
    "folders without images": (
        only_folders,
        ["expected images (.jpg", "cifar10/train, got none; add them, laid out as"],
    ),
    "a class without images": (
        lambda data: (data / "cifar10/train/bird").mkdir(),
        ["expected images in every class", "got none in 'bird'; add them or remove the folder"],
    ),
    "no class folders": (
        no_classes,
        ["images of the same classes, got 0 () and 10 ('0'", "check their sources"],
    ),
    "an image beside the class folders": (
        lambda data: picture(data / "cifar10/train/stray.png"),
        ["every image of", "in a class sub-folder, got 'stray.png' next to 0, 1, 2; move it"],
    ),
    "a class that only the test images have": (
        lambda data: shutil.copytree(data / "cifar10/test/0", data / "cifar10/test/extra"),
        ["training and test images of the same classes, got 10", "and 11", "check their sources"],
    ),
    "a corrupt training image": (
        file_of_a_name("cifar10/train/3/1.png"),
        ["expected an image, got", "train/3/1.png, which cannot be decoded", "replace or delete"],
    ),
    "a corrupt OOD image": (
        file_of_a_name("ood32/scenes_crop/0.png"),
        ["expected an image, got", "scenes_crop/0.png, which cannot", "on_corrupt=skip"],
    ),
    "an empty image file": (
        file_of_a_name("cifar10/test/3/0.png", ""),
        ["expected an image, got", "test/3/0.png, which cannot be decoded", "replace or delete"],
    ),
    "no OOD images": (
        lambda data: (data / "ood32/svhn/0.png").unlink(),
        ["expected images (.jpg", "ood32/svhn, got none; add them, laid out as"],
    ),
    "an archive cut short": (
        cut_archive,
        [
            "expected a ZIP archive, got",
            "cifar10.zip, which is truncated or of another",
        ],
    ),
    "a web page in place of an archive": (
        web_page,
        [
            "expected a ZIP archive, got",
            "cifar10.zip, which is truncated or of another",
        ],
    ),
    "a damaged archive": (
        damaged_archive,
        ["expected an image, got", "which cannot be decoded (", "replace or delete"],
    ),
    "an archive with one more folder inside": (
        inner_folder,
        ["expected images in", "none in an archive", "or the same inside <data_dir>/<set>.zip"],
    ),
}

OPTIONS = {
    "fewer images than the protocol": (
        ["+data.ood.svhn.count=26032"],
        ["expected 26032 images in", "as the protocol requires, got 1; complete them, or set"],
    ),
    "a sample larger than the set": (
        ["data.train.sample=5000"],
        ["expected a sample of 1..20 images", "got 5000; lower it"],
    ),
    "a short side below the size": (
        ["+data.train.short_side=16"],
        ["expected a short_side of at least the size 32, got 16; 256 for a size of 224"],
    ),
    "OOD images of another size": (
        ["data.ood.svhn.size=64"],
        ["expected images of shape (3, 32, 32)", "got (3, 64, 64) in 'svhn'; make the size"],
    ),
    "the ID test images as OOD": (
        ["data.ood.svhn.path=${data.test.path}"],
        ["expected OOD images, got in 'svhn' the very images of the ID test", "correct data.ood"],
    ),
    "codecs of files that are no JPEG": (
        ["data.match_codec=true"],
        [
            "that are JPEG files of one quality, got some that are not",
            "set data.match_codec=false",
        ],
    ),
    "skipping where images are decoded when used": (
        ["+data.train.on_corrupt=skip", "+data.train.in_memory=false"],
        ["expected no corrupt training images", "got on_corrupt=skip; remove the corrupt images"],
    ),
    "neither refused nor skipped": (
        ["+data.train.on_corrupt=ignore"],
        ["expected on_corrupt 'refuse' or 'skip', got 'ignore'"],
    ),
    "a cache that is a file": (
        ["data.cache_dir=${data_dir}/cifar10/train/0/0.png"],
        ["expected to write", "set data.cache_dir to another folder, or to null"],
    ),
    "no list": (LIST, ["expected a list of images, got no file"]),
    "a class of torchvision that is not there": (
        [
            "~data.ood.svhn",
            "+data.ood.svhn={_target_: src.data.Torchvision, dataset: SVNH, root: x, size: 32}",
        ],
        ["expected a class of torchvision.datasets, got 'SVNH'; set dataset"],
    ),
}


@pytest.mark.parametrize(
    ("spoil", "says"), [pytest.param(*case, id=name) for name, case in FOLDERS.items()]
)
def test_bad_folders_and_archives_are_refused(
    spoil: Callable[[Path], object], says: list[str], image_folders: Path, refused: Refused
) -> None:
    spoil(image_folders)
    seen = refused("src.train", *SMALL, f"data_dir={image_folders}")
    for words in says:
        assert words in seen


@pytest.mark.parametrize(
    ("arguments", "says"), [pytest.param(*case, id=name) for name, case in OPTIONS.items()]
)
def test_bad_options_of_data_are_refused(
    arguments: list[str], says: list[str], image_folders: Path, refused: Refused
) -> None:
    seen = refused("src.train", *SMALL, f"data_dir={image_folders}", *arguments)
    for words in says:
        assert words in seen


def test_a_list_that_names_missing_images_is_refused(
    image_folders: Path, refused: Refused
) -> None:
    (image_folders / "list.txt").write_text("train/0/0.png 0\ntrain/0/9.png 1\n")
    seen = refused("src.train", *SMALL, f"data_dir={image_folders}", *LIST)
    assert "expected the images of" in seen
    assert "got no train/0/9.png" in seen


def test_missing_images_are_said_as_a_process(
    process: Callable[..., object], tmp_path: Path
) -> None:
    done = process(
        *("src.train", "data=cifar10_folder", "net=resnet18", "data_dir=/nowhere"),
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 1
    assert "expected images in /nowhere/cifar10/train, got no such folder" in done.stderr
    assert not list(tmp_path.rglob("*.*"))


COMMAND = {
    "unknown benchmark": (
        ["data=cifar11"],
        ["data/cifar11", "paper_cifar10"],
    ),
    "misspelt key": (
        ["data=cifar10_folder", "verfy=true"],
        ["verfy"],
    ),
    "nothing to fetch": (
        ["data=cifar10_folder", "data_dir=/nowhere", "prepare=true"],
        ["train missing expected images in /nowhere/cifar10/train", "set data_dir="],
    ),
    "nothing to verify": (
        ["data=cifar10_folder", "data_dir=/nowhere", "verify=true"],
        ["train missing expected images in /nowhere/cifar10/train", "set data_dir="],
    ),
}


@pytest.mark.parametrize(
    ("arguments", "says"), [pytest.param(*case, id=name) for name, case in COMMAND.items()]
)
def test_the_data_command_refuses(arguments: list[str], says: list[str], refused: Refused) -> None:
    seen = refused("src.data", *arguments)
    for words in says:
        assert words in seen
    assert "every image can be decoded" not in seen

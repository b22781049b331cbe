"""What lies in folders: links, pipes, files of other kinds, names of any language."""

import os
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from src.data import ImageData, ImageFolder, Noise
from src.data.names import alike, natural, readable


def picture(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two images of a cat and one of a dog."""
    for shade, name in enumerate(("cat/0.png", "cat/1.png", "dog/0.png")):
        picture(tmp_path / "pets" / name, shade)
    return tmp_path / "pets"


# --- links


def link(at: Path, to: str) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(to)


LINKS = {
    "to itself": {"cat/again": "."},
    "to its parent": {"cat/again": ".."},
    "to a parent of the set": {"cat/again": "../.."},
    "to the root of the disk": {"cat/again": "/"},
    "two to one folder": {"cat/a": "../dog", "cat/b": "../dog"},
    "two folders to each other": {"cat/far/dog": "../../dog", "dog/cat": "../cat/far"},
    "sorted before the folder": {"cat/0": "../dog"},
    "several at every level": {
        f"cat/{'deep/' * depth}{name}": "../" * (depth + 1) for depth in range(4) for name in "abc"
    },
}


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
def test_each_folder_is_read_once_whatever_leads_to_it(links: dict[str, str], pets: Path) -> None:
    picture(pets.parent / "beside/0.png")
    for at, to in links.items():
        link(pets / at, to)
    source = ImageFolder(pets, 8)
    assert source.names == ["cat/0.png", "cat/1.png", "dog/0.png"]
    assert source.label.tolist() == [0, 0, 1]
    assert "to folders that are read once, left out" in "".join(source.notes)


def test_a_class_may_be_a_link_to_a_folder_elsewhere(pets: Path) -> None:
    picture(pets.parent / "elsewhere/deep/0.png")
    link(pets / "bird", str(pets.parent / "elsewhere"))
    source = ImageFolder(pets, 8)
    assert (source.classes, source.names[0]) == (("bird", "cat", "dog"), "bird/deep/0.png")
    assert source.notes == ()


@pytest.mark.parametrize("to", ["cat", ".", ".."])
def test_a_class_that_is_a_link_to_what_is_read_already_is_refused(to: str, pets: Path) -> None:
    link(pets / "kitty", to)
    with pytest.raises(ValueError, match="got none in 'kitty', a link to a folder that is read"):
        ImageFolder(pets, 8)


@pytest.mark.parametrize(
    "dangling",
    [{"cat/9.png": "9.gone"}, {"bird": "/gone"}, {"cat/9": "9"}, {"cat/8": "9", "cat/9": "8"}],
    ids=["a picture", "a class", "to itself", "to each other"],
)
def test_links_whose_targets_are_missing_are_named_and_counted(
    dangling: dict[str, str], pets: Path
) -> None:
    for at, to in dangling.items():
        link(pets / at, to)
    expected = rf"got {len(dangling)} links? \({', '.join(dangling)}\), whose targets are missing"
    with pytest.raises(ValueError, match=expected):
        ImageFolder(pets, 8)
    source = ImageFolder(pets, 8, on_corrupt="skip")
    assert len(source.names) == 3
    assert f"({', '.join(dangling)}), whose targets are missing, left out" in source.notes[0]


# --- files of other kinds


def test_pipes_and_sockets_are_counted_and_not_waited_for(pets: Path) -> None:
    os.mkfifo(pets / "cat/9.png")
    source = ImageFolder(pets, 8)
    assert len(source.load()) == 3
    assert source.notes == ("files left out: 1 pipes, sockets or devices",)


@pytest.mark.parametrize("zipped", [False, True])
def test_files_left_out_are_counted_by_suffix_and_hidden_ones_are_not(
    zipped: bool, pets: Path
) -> None:
    for name in ("cat/a.txt", "cat/b.TXT", "dog/c.json", "dog/README"):
        (pets / name).write_text("")
    for name in ("cat/.DS_Store", "cat/._0.png", ".git/HEAD", ".hidden/0.png"):
        (pets / name).parent.mkdir(exist_ok=True)
        (pets / name).write_text("")
    if zipped:
        with ZipFile(pets.with_suffix(".zip"), "w") as archive:
            for file in sorted(pets.rglob("*")):
                archive.write(file, file.relative_to(pets))
        pets.rename(pets.with_name("elsewhere"))
    source = ImageFolder(pets, 8)
    assert len(source.names) == 3
    assert source.notes == ("files left out: 2 .txt, 1 .json, 1 without a suffix",)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((".pgm", "PPM"), (".pbm", "PPM"), (".pnm", "PPM"), (".gif", "GIF"), (".jfif", "JPEG")),
        *((".jpe", "JPEG"), (".PNG", "PNG"), (".tif", "TIFF"), (".webp", "WEBP"), (".bmp", "BMP")),
    ],
)
def test_pictures_of_every_listed_kind_are_read(suffix: str, kind: str, tmp_path: Path) -> None:
    Image.new("1" if suffix == ".pbm" else "L", (8, 8), 255).save(tmp_path / f"a{suffix}", kind)
    assert ImageFolder(tmp_path, 8).decode([0])[0].min() > 250


def test_what_was_left_out_is_logged_once_for_each_set(
    pets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (pets / "cat/a.txt").write_text("")
    source = ImageFolder(pets, 8)
    ImageData(source, source, {"noise": Noise(5, 8)}, validation_size=1)
    assert caplog.messages == [
        "train: files left out: 1 .txt",
        "id: files left out: 1 .txt",
    ]


# --- names


def test_names_that_are_not_utf8_are_made_readable(tmp_path: Path) -> None:
    for name in (b"caf\xe9", "tée".encode(), b"plain"):
        folder = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118, bytes
        os.mkdir(folder)  # noqa: PTH102
        with open(os.path.join(folder, b"\xff.png"), "wb") as file:  # noqa: PTH118, PTH123
            Image.new("RGB", (8, 8)).save(file, "PNG")
    source = ImageFolder(tmp_path, 8)
    assert source.classes == ("caf\\xe9", "plain", "tée")
    assert len(source.load()) == 3
    names = "".join((*source.classes, *source.notes, *source.pictures()[0]))
    assert names.encode().decode() == names
    assert source.key
    assert source.sha256
    (tmp_path / "caf\\xe9").mkdir()
    picture(tmp_path / "caf\\xe9/0.png")
    with pytest.raises(ValueError, match="expected classes of different names in"):
        ImageFolder(tmp_path, 8)


def test_a_corrupt_image_with_a_name_that_is_not_utf8_can_be_named(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")  # noqa: PTH118
    os.close(os.open(path, os.O_CREAT))
    with pytest.raises(ValueError, match=r"caf\\xe9.png, which cannot be decoded") as error:
        ImageFolder(tmp_path, 8).load()
    assert str(error.value).encode()


def numbered(folder: Path) -> Path:
    for k in range(12):
        picture(folder / str(k) / "0.png", k)
    return folder


def test_numbers_are_sorted_as_text_unless_asked(tmp_path: Path) -> None:
    folder = numbered(tmp_path)
    assert ImageFolder(folder, 8).classes[:4] == ("0", "1", "10", "11")
    source = ImageFolder(folder, 8, natural_order=True)
    assert source.classes == tuple(map(str, range(12)))
    images = source.load()
    assert {source.names[row]: int(images.label[row]) for row in range(12)} == {
        f"{k}/0.png": k for k in range(12)
    }


def test_the_natural_order_is_that_of_timm() -> None:
    names = ["img10b", "Img2", "img2a", "10", "9", "b", "A", "a1", "a01"]
    assert sorted(names, key=natural) == [
        "9", "10", "A", "a01", "a1", "b", "Img2", "img2a", "img10b"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "names", [("Cat", "cat"), ("é", "e\u0301"), ("STRASSE", "straße")], ids=repr
)
def test_classes_that_look_the_same_are_told(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        picture(tmp_path / name / "0.png")
    source = ImageFolder(tmp_path, 8)
    assert len(source.classes) == 2
    assert "differ only in case or in how their letters are encoded" in source.notes[0]


def test_classes_of_train_and_test_that_differ_are_named(pets: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name in ("Cat", "dog"):
        picture(other / name / "0.png")
    train, ood = ImageFolder(pets, 8), {"noise": Noise(5, 8)}
    with pytest.raises(
        ValueError, match=r"of which \['cat', 'Cat'\] are in one of them and differ in case"
    ):
        ImageData(train, ImageFolder(other, 8), ood)
    picture(other / "cat/0.png")
    with pytest.raises(ValueError, match=r"of which \['Cat'\] are in one of them; check"):
        ImageData(train, ImageFolder(other, 8), ood)


def test_readable_names_stay_as_they_are() -> None:
    for name in ("cat", "猫", "a b", "[x]=1", "\n"):
        assert readable(name) == name
    assert alike(["a", "b", "A", "á"]) == [("a", "A")]

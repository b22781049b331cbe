"""What lies in lists: encodings, labels as other programs write them, limits, malformed lines."""

import codecs
import os
from pathlib import Path

import pytest
from PIL import Image

from src.data import ImageList


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three images, one of them with a name in French."""
    for name in ("a.png", "b.png", "café.png"):
        (tmp_path / "pets").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pets" / name)
    return tmp_path / "pets"


def listed(pets: Path, content: str | bytes, suffix: str = ".csv", **options: object) -> ImageList:
    path = pets.parent / f"list{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ImageList(path, pets, 8, **options)


# --- encodings

TEXT = "path,label\ncafé.png,tée\na.png,b\n"
ENCODINGS = {
    "UTF-8": TEXT.encode(),
    "with a mark": codecs.BOM_UTF8 + TEXT.encode(),
    "Latin-1": TEXT.encode("latin-1"),
    "UTF-16": TEXT.encode("utf-16"),
    "big-endian UTF-16": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "lines of Windows": TEXT.replace("\n", "\r\n").encode(),
    "lines of old Macs": TEXT.replace("\n", "\r").encode(),
    "composed otherwise": TEXT.replace("café", "cafe\u0301").encode(),
}


@pytest.mark.parametrize("content", ENCODINGS.values(), ids=ENCODINGS)
def test_a_list_is_read_in_the_encoding_of_any_program(content: bytes, pets: Path) -> None:
    source = listed(pets, content)
    assert source.names == ["café.png", "a.png"]
    assert source.classes == ("b", "tée")
    assert source.label.tolist() == [1, 0]


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_lines_may_have_a_mark_too(mark: bytes, pets: Path) -> None:
    source = listed(pets, mark + "a.png 0\ncafé.png 1\n".encode(), ".txt")
    assert (source.names, source.label.tolist()) == (["a.png", "café.png"], [0, 1])


def test_a_file_may_have_a_name_in_latin1(pets: Path) -> None:
    (pets / "café.png").rename(os.fsdecode(os.fsencode(pets) + b"/caf\xe9.png"))
    for encoding in ("latin-1", "utf-8"):
        assert len(listed(pets, "path,label\ncafé.png,0\n".encode(encoding)).load()) == 1


def test_a_name_may_hold_what_other_programs_call_the_end_of_a_line(pets: Path) -> None:
    (pets / "a.png").rename(pets / "a\u2028\x85b.png")
    assert listed(pets, "a\u2028\x85b.png 0\n", ".txt").names == ["a\u2028\x85b.png"]


# --- labels

LABELS = {
    "of pandas": (["2.0", "0.0"], [2, 0], ("0", "1", "2")),
    "padded": (["02", "1"], [2, 1], ("0", "1", "2")),
    "with spaces": ([" 2", "0 "], [2, 0], ("0", "1", "2")),
    "names": (["cat", " ant"], [1, 0], ("ant", "cat")),
    "names that begin with numbers": (["10a", "9a"], [0, 1], ("10a", "9a")),
    "numbers and names": (["1", "cat"], [0, 1], ("1", "cat")),
    "a class called nan": (["nan", "roti"], [0, 1], ("nan", "roti")),
}


@pytest.mark.parametrize(("text", "label", "classes"), LABELS.values(), ids=LABELS)
def test_labels_are_read_as_other_programs_write_them(
    text: list[str], label: list[int], classes: tuple[str, ...], pets: Path
) -> None:
    source = listed(pets, f"path,label\na.png,{text[0]}\nb.png,{text[1]}\n")
    assert (source.label.tolist(), source.classes) == (label, classes)


def test_numbers_in_names_are_sorted_as_numbers_if_asked(pets: Path) -> None:
    content = "path,label\na.png,class10\nb.png,class9\n"
    assert listed(pets, content).classes == ("class10", "class9")
    assert listed(pets, content, natural_order=True).classes == ("class9", "class10")


@pytest.mark.parametrize(
    "text", ["2.5", "nan", "NaN", "", "-1", "-1.0", "1.0000001", "9" * 19, "9" * 5000]
)
def test_a_label_that_is_no_class_is_refused(text: str, pets: Path) -> None:
    with pytest.raises(ValueError, match=r"a name or a whole number, got .*; set labelled=false"):
        listed(pets, f"path,label\na.png,{text}\nb.png,0\n")


@pytest.mark.parametrize("label", [100_000, 2_000_000_000, 10**18 - 1])
@pytest.mark.parametrize("line", ["a.png {}\n", "path,label\na.png,{}.0\n"])
def test_a_label_that_would_make_classes_without_end_is_refused(
    label: int, line: str, pets: Path
) -> None:
    suffix = ".csv" if "," in line else ".txt"
    with pytest.raises(
        ValueError, match=f"labels below 100000 in .*, got {label}; .* num_classes"
    ):
        listed(pets, line.format(label), suffix)


def test_more_classes_are_permitted_by_their_number(pets: Path) -> None:
    source = listed(pets, "a.png 100000\n", ".txt", num_classes=100_001)
    assert len(source.classes) == 100_001


# --- malformed

MALFORMED = {
    "a missing cell": ("path,label\na.png\n", "2 cells in line 2"),
    "a comma in a path": ("path,label\na,b.png,1\n", "2 cells in line 2.*into quotes"),
    "an open quote": ('path,label\n"a.png,1\nb.png,2\n', "2 cells in line 3"),
    "a cell without end": ("path,label\n" + "a" * 200_000 + ",1\n", "line 2 cannot be read"),
    "no header": ("a.png,1\n", "a column 'label' in .*, got a.png, 1; set columns"),
    "nothing": ("", "a column 'label' in .*, got none"),
    "zero bytes": (b"path,label\na.png\0,1\n", "which is no text"),
    "half of UTF-16": (codecs.BOM_UTF16_LE + b"abc", "a column 'label'"),
    "a path too long for a disk": (f"path,label\n{'a' * 5000},1\n", "got no a"),
    "an empty path": ("path,label\n,1\n", "got no ."),
}


@pytest.mark.parametrize(("content", "says"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_list_is_refused_in_a_sentence(
    content: str | bytes, says: str, pets: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=f"^expected .*{says}"):
        listed(pets, content)


def test_empty_cells_at_the_end_of_a_line_do_no_harm(pets: Path) -> None:
    assert listed(pets, "path,label\na.png,1,\n").label.tolist() == [1]


@pytest.mark.parametrize("kind", ["missing", "pipe", "folder"])
def test_listed_images_that_are_no_files_are_named_and_counted(kind: str, pets: Path) -> None:
    for name in ("8.png", "9.png"):
        if kind == "pipe":
            os.mkfifo(pets / name)
        elif kind == "folder":
            (pets / name).mkdir()
        else:
            (pets / name).symlink_to("gone")
    with pytest.raises(FileNotFoundError, match=r"got no 8.png and 1 more"):
        listed(pets, "a.png 0\n8.png 0\n9.png 0\n", ".txt")


def test_a_list_that_is_a_pipe_is_not_waited_for(pets: Path) -> None:
    os.mkfifo(pets / "list.txt")
    with pytest.raises(FileNotFoundError, match="got no file"):
        ImageList(pets / "list.txt", pets, 8)


def test_a_list_that_is_too_large_is_refused_unless_permitted(pets: Path) -> None:
    path = pets / "list.txt"
    path.write_text("a.png 0\n")
    assert len(ImageList(path, pets, 8, max_bytes=8).names) == 1
    with pytest.raises(ValueError, match=r"at most 7 bytes, got .* with 8; set max_bytes"):
        ImageList(path, pets, 8, max_bytes=7)
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="set max_bytes to permit it"):
        ImageList(path, pets, 8)

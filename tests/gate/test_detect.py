"""Deciding about many images: what is read, what is written, kills, processes, the page."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from src.detectors import FeatureNorm
from src.gate import Calibration, Gate, Picture
from src.gate.deciding import decide, missing_batches
from src.gate.detect_page import histogram
from src.gate.file import save
from src.gate.inputs import find_images
from src.gate.row_file import RowFile
from src.gate.rows import Row
from src.metrics.conformal import benjamini_hochberg
from src.metrics.watch import Watch
from src.run.rebuild import network_of
from tests import REPOSITORY
from tests.fakes import PageReader

NET = {
    "_target_": "src.network.Network",
    "net": {
        "_target_": "src.models.ResNet",
        "depth": [1, 1, 1, 1], "width": 4, "num_classes": 3,
    },
    "image_shape": [3, 16, 16],
}  # fmt: skip
DETECTOR = {"_target_": "src.detectors.FeatureNorm", "at": "layer4.0"}
CLASSES = ("cat", "=dog", "a,b")
LAST = r"(\d+) images.*, (\d+) flagged as OOD, .*(\d+) broken, [\d.]+ s, [\d.]+ images per second"


class Said(NamedTuple):
    code: int
    out: str
    err: str


Detect = Callable[..., Said]


def new_gate(alpha: float = 0.2) -> Gate:
    torch.manual_seed(0)
    network = network_of(NET, {"weight": torch.zeros(10**6)}, "test").eval()
    detector = FeatureNorm("layer4.0")
    with torch.no_grad():
        score = detector.score(
            network.observe(torch.rand(99, 3, 16, 16) * torch.rand(99, 1, 1, 1))
        )
    calibration = Calibration(score, None, alpha, CLASSES)
    picture = Picture((3, 16, 16))
    return Gate(
        network, detector, calibration, classes=CLASSES, picture=picture, name="featurenorm"
    )


@pytest.fixture(scope="session")
def gate_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gate") / "gate.pt"
    save(new_gate(), path, NET, DETECTOR)
    return path


def noise(number: int) -> Image.Image:
    generator = np.random.default_rng(number)
    pixels = generator.integers(0, 1 + number * 10 % 256, (20, 24, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eleven pictures and three broken ones, in the folder `photos` of the current one."""
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        path = Path("photos", "abc"[number % 3], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(path)
    noise(10).save("photos/=1+1,<b>.jpg")
    Path("photos/empty.png").touch()
    Path("photos/text.jpeg").write_text("no picture")
    Path("photos/gone.png").symlink_to("nowhere")
    Path("photos/.hidden.png").write_text("")
    Path("photos/notes.md").write_text("no picture by its name")
    return Path("photos")


@pytest.fixture
def detect(
    gate_file: Path,
    command: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> Detect:
    """`python -m src.detect gate=... argument...` within this process."""

    def run(*arguments: str) -> Said:
        GlobalHydra.instance().clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            command("src.detect", f"gate={gate_file}", "device=cpu", *arguments)
        code = end.value.code
        assert isinstance(code, int)
        return Said(code, *capfd.readouterr())

    return run


def table(path: Path | str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def started(gate_file: Path, folder: Path, *arguments: str, torchrun: bool = False) -> Any:
    """A process as a user would start it."""
    start = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"] * torchrun
    return subprocess.Popen(
        [sys.executable, *start, "-m", "src.detect", f"gate={gate_file}", *arguments],
        cwd=folder, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def until(condition: Callable[[], bool], process: Any) -> None:
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


# what images= means


def test_a_folder_is_read_to_its_depth_without_hidden_files_and_sorted(photos: Path) -> None:
    images = find_images("photos")
    assert images.names == sorted(images.names)
    assert {*images.names} == {
        *(f"photos/{'abc'[number % 3]}/{number}.png" for number in range(10)),
        *("photos/=1+1,<b>.jpg", "photos/empty.png", "photos/text.jpeg", "photos/gone.png"),
    }


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("photos/a/0.png", ["photos/a/0.png"]),
        ("photos/notes.md", ["photos/notes.md"]),  # named outright, whatever its name
        ("photos/a/*", [f"photos/a/{n}.png" for n in (0, 3, 6, 9)]),
        ("photos/**/[01].png", ["photos/a/0.png", "photos/b/1.png"]),
        ("list.txt", ["photos/a/0.png", "photos/b/1.png", "photos/b/4.png", "x y.png"]),
        ("list.csv", ["photos/a/0.png", "photos/a,b.png"]),
        ("archive.zip", ["archive.zip/d/0.png", "archive.zip/1.jpg"]),
    ],
)
def test_files_globs_lists_and_archives(photos: Path, asked: str, names: Sequence[str]) -> None:
    lines = ["photos/b/1.png 3", "photos/a/0.png", "photos/b/4.png a_class", "", "x y.png"]
    Path("list.txt").write_text("\n".join(lines))
    Path("list.csv").write_text('label,path\n1,photos/a/0.png\n,"photos/a,b.png"\n')
    with ZipFile("archive.zip", "w") as archive:
        for name in ("1.jpg", "d/0.png", "__MACOSX/._1.jpg", ".hidden.png", "notes.md"):
            archive.write("photos/a/0.png", name)
    images = find_images(asked)
    assert images.names == sorted(names)
    if asked == "archive.zip":
        assert images.open(0, 10**6).size == (24, 20)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF", "paths"])
def test_standard_input_is_a_picture_if_it_begins_as_one(
    kind: str, photos: Path, gate_file: Path
) -> None:
    if kind == "paths":
        Path("input").write_text("photos/b/1.png 2\nphotos/a/0.png\n")
    else:
        noise(3).save("input", kind)
    with Path("input").open() as file:
        done = subprocess.run(
            [sys.executable, "-c", "from src.gate.inputs import find_images\n"
             "images = find_images('-'); print(*images.names, images.open(0, 9999).size)"],
            stdin=file, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
    names = "photos/a/0.png photos/b/1.png" if kind == "paths" else "-"
    assert done.stdout == f"{names} (24, 20)\n", done.stderr


# the rows

HOSTILE = [
    *("plain.png", "=1+1", "'=x", "-", "a,b", 'a"b', "a\nb", "a\r\nb", "\u2028", "ü", "'", " x "),
]


def some_rows(*, discoveries: bool) -> list[Row]:
    rows = [
        Row(path, path, 0.123456, -1.5 - number, 0.05, number % 2 == 0)
        for number, path in enumerate(HOSTILE)
    ]
    rows += [Row("none"), Row("broken", error="=why, \n so")]
    return [row._replace(discovery=True) for row in rows] if discoveries else rows


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("discoveries", [False, True])
def test_rows_come_back_as_they_were_whatever_they_hold(
    suffix: str, discoveries: bool, tmp_path: Path
) -> None:
    file = RowFile(tmp_path / f"rows{suffix}", discoveries)
    rows = some_rows(discoveries=discoveries)
    file.write(rows)
    assert file.read() == rows


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_cut_anywhere_gives_its_complete_rows(suffix: str, tmp_path: Path) -> None:
    rows = some_rows(discoveries=False)
    whole = RowFile(tmp_path / f"whole{suffix}", False)
    whole.write(rows)
    data, cut = whole.path.read_bytes(), RowFile(tmp_path / f"cut{suffix}", False)
    head = len(whole.head)
    ends = [head + len(whole.text(rows[:n]).encode()) for n in range(len(rows) + 1)]
    for size in range(head, len(data) + 1):
        cut.path.write_bytes(data[:size])
        complete = sum(end <= size for end in ends) - 1
        assert cut.read() == rows[:complete], data[:size][-40:]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_damaged_row_in_the_middle_is_told(suffix: str, tmp_path: Path) -> None:
    file = RowFile(tmp_path / f"rows{suffix}", False)
    file.write([Row("a"), Row("b"), Row("c")])
    lines = file.path.read_text().splitlines()
    file.path.write_text("\n".join([*lines[:-2], "damaged", lines[-1], ""]))
    with pytest.raises(ValueError, match="got a damaged one behind row"):
        file.read()


# the command


def test_each_image_has_the_verdict_of_the_gate_and_a_broken_one_an_error(
    photos: Path, detect: Detect, gate_file: Path
) -> None:
    said = detect("images=photos", "batch_size=4")
    rows, gate = table("detections.csv"), Gate.load(gate_file)
    assert said.code == 0
    broken = {row["path"] for row in rows if row["error"]}
    assert broken == {"photos/empty.png", "photos/text.jpeg", "photos/gone.png"}
    for row in rows:
        if row["error"]:
            assert [*row.values()][1:-1] == [""] * 5
            continue
        verdict = gate(row["path"])
        assert row["label"] == {"=dog": "'=dog"}.get(str(verdict.label), verdict.label)
        assert float(row["score"]) == pytest.approx(verdict.score, rel=1e-5)
        assert float(row["p_value"]) == verdict.p_value
        assert row["is_ood"] == str(verdict.is_ood).lower()
    flagged = sum(row["is_ood"] == "true" for row in rows)
    assert 0 < flagged < 11
    last = re.fullmatch(LAST, said.err.splitlines()[-1])
    assert last
    assert last.groups() == ("14", str(flagged), "3")


def test_json_lines_say_what_csv_says(photos: Path, detect: Detect) -> None:
    detect("images=photos", "output=a.csv")
    detect("images=photos", "output=a.jsonl")
    as_csv, as_json = (RowFile(Path(name), False).read() for name in ("a.csv", "a.jsonl"))
    assert as_csv == as_json
    assert json.loads(Path("a.jsonl").read_text().splitlines()[0])["path"] == as_csv[0].path


def test_standard_output_has_the_rows_and_nothing_else(photos: Path, detect: Detect) -> None:
    detect("images=photos")
    said = detect("images=photos", "output=-")
    assert said.out == Path("detections.csv").read_text()
    assert sorted(path.name for path in Path().iterdir()) == [
        *("detections.csv", "detections.csv.json", "photos"),
    ]


def test_without_the_class_the_network_is_cut_and_the_decision_stays(
    photos: Path, detect: Detect, gate_file: Path
) -> None:
    assert Gate.load(gate_file).cut is not None
    detect("images=photos", "output=whole.csv")
    detect("images=photos", "output=cut.csv", "classify=false")
    for whole, cut in zip(table("whole.csv"), table("cut.csv"), strict=True):
        assert cut == whole | {"label": "", "probability": ""}


@pytest.mark.parametrize("output", ["found.csv", "-"])
def test_discoveries_are_those_of_benjamini_and_hochberg_over_all_images(
    output: str, photos: Path, detect: Detect
) -> None:
    said = detect("images=photos", f"output={output}", "fdr=0.4", "batch_size=2")
    if output == "-":
        Path("found.csv").write_text(said.out)
    rows = [row for row in table("found.csv") if not row["error"]]
    p = torch.tensor([float(row["p_value"]) for row in rows], dtype=torch.float64)
    expected = benjamini_hochberg(p, 0.4).tolist()
    assert [row["discovery"] == "true" for row in rows] == expected
    assert 0 < sum(expected) < len(expected)
    assert {row["discovery"] for row in table("found.csv") if row["error"]} == {""}


def test_the_stream_of_rows_is_watched_and_the_image_that_raises_the_alarm_is_named(
    photos: Path, detect: Detect
) -> None:
    for number in range(12):  # grey, at the end of the stream
        Image.new("RGB", (20, 20), (128, 128, 120 + number)).save(photos / f"z{number:02}.png")
    said = detect("images=photos", "watch=watch.csv", "delta=0.05", "output=rows.csv")
    scored = [row for row in table("rows.csv") if not row["error"]]
    watched = table("watch.csv")
    assert [row["path"] for row in watched] == [row["path"] for row in scored]
    watch = Watch(new_gate().calibration.known, delta=0.05)
    expected = watch.update(torch.tensor([float(row["score"]) for row in scored]).double())
    assert [float(row["log10_restart"]) for row in watched] == expected.restart.tolist()
    alarms = [row["path"] for row in watched if row["alarm"] == "True"]
    assert alarms
    assert f"alarm: the stream has changed, at {alarms[0]}\n" in said.err
    few = detect("images=photos/z00.png", "watch=w.csv", "output=b.csv")
    assert few.err.startswith("no alarm\n")


def test_exit_codes(photos: Path, detect: Detect) -> None:
    assert detect("images=photos", "output=a.csv", "fail_on_ood=true").code == 3
    assert detect("images=photos/empty.png", "output=b.csv", "fail_on_ood=true").code == 1


REFUSED = {
    "no images": ((), "expected images=<a text>, got None"),
    "no such file": (("images=nowhere",), "got no file or folder nowhere"),
    "no match": (("images=photos/*.xyz",), "in photos/*.xyz, got none"),
    "an empty folder": (("images=hollow",), "in hollow, got none"),
    "an empty list": (("images=list.txt",), "in list.txt, got none"),
    "no such column": (("images=list.csv",), "expected a column 'path' in list.csv, got name"),
    "no archive": (("images=a.zip",), "expected a ZIP archive, got a.zip"),
    "a pipe": (("images=fifo",), "a pipe or device"),
    "no gate": (("images=photos", "gate=photos/notes.md"), "expected a gate"),
    "another suffix": (("images=photos", "output=a.txt"), "ends in .csv or .jsonl"),
    "no folder": (("images=photos", "output=list.txt/a.csv"), "expected to write list.txt/a.csv"),
    "no rate": (("images=photos", "fdr=1.5"), "within (0, 1), got 1.5"),
    "no batch": (("images=photos", "batch_size=0"), "batch_size of at least 1, got 0"),
    "no device": (("images=photos", "device=tpu"), "device=auto, cpu or cuda, got tpu"),
    "no truth": (("images=photos", "classify=yeah"), "classify=<true or false>, got yeah"),
    "no delta": (("images=photos", "watch=w.csv", "delta=1.5"), "within (0, 1), got 1.5"),
    "watched already": (("images=photos", "watch=list.txt"), "got watch=list.txt, which is there"),
    "no page": (("images=photos", "page=a.pdf"), "ends in .html, got a.pdf"),
    "resumed output": (("images=photos", "output=-", "resume=true"), "got standard output"),
    "there already": (("images=photos", "output=mine.csv"), "set resume=true to go on"),
    "of no gate": (("images=photos", "output=mine.csv", "resume=true"), "mine.csv.json, which"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_asked_is_refused_in_a_sentence_and_changes_nothing(
    case: str,
    photos: Path,
    detect: Detect,
    content: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    Path("hollow").mkdir()
    Path("list.txt").touch()
    Path("list.csv").write_text("name\na.png\n")
    Path("mine.csv").write_text("precious")
    Path("a.zip").write_text("none")
    os.mkfifo("fifo")
    before = content(tmp_path)
    arguments, words = REFUSED[case]
    said = detect(*arguments)
    assert said.code == 2, said.err
    assert words in said.err
    assert said.err.count("\n") == 1
    assert content(tmp_path) == before


@pytest.mark.slow
def test_a_key_that_is_none_is_a_bad_argument_too(process: Callable[..., Any]) -> None:
    done = process("src.detect", "imags=photos")
    assert done.returncode == 2
    assert "Could not override 'imags'" in done.stderr


# going on


def test_an_interrupted_command_goes_on_and_leaves_the_same_bytes(
    photos: Path, detect: Detect
) -> None:
    detect("images=photos", "batch_size=4", "fdr=0.4")
    path = Path("detections.csv")
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for data in (b"", lines[0][:7], lines[0], b"".join(lines[:6]) + lines[6][:-3], whole[:-1]):
        path.write_bytes(data)
        said = detect("images=photos", "batch_size=4", "fdr=0.4", "resume=true")
        assert said.code == 0, said.err
        assert path.read_bytes() == whole
    said = detect("images=photos", "batch_size=4", "fdr=0.4", "resume=true")
    assert path.read_bytes() == whole
    assert "14 images (14 of them before)" in said.err


def test_only_missing_images_are_scored(photos: Path, detect: Detect) -> None:
    detect("images=photos")
    rows = RowFile(Path("detections.csv"), False)
    marked = [row._replace(label="mine") for row in rows.read()]
    rows.write(marked)
    noise(11).save("photos/b/new.png")
    assert detect("images=photos", "resume=true").code == 0
    kept = rows.read()
    assert [row for row in kept if row.path != "photos/b/new.png"] == marked
    assert [row.path for row in kept] == find_images("photos").names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("classify=false",), "classify=True, got classify=False"),
        (("batch_size=3",), "batch_size=64, got batch_size=3"),
        (("fdr=0.1",), "fdr=None, got fdr=0.1"),
        (("images=photos/a",), "got one of photos/=1+1,<b>.jpg"),
        (("gate=other.pt",), "with gate="),
    ],
)
def test_what_is_of_another_gate_other_options_or_images_is_not_resumed(
    arguments: Sequence[str], words: str, photos: Path, detect: Detect
) -> None:
    save(new_gate(alpha=0.1), Path("other.pt"), NET, DETECTOR)
    detect("images=photos")
    before = Path("detections.csv").read_bytes()
    said = detect("images=photos", "resume=true", *arguments)
    assert said.code == 2
    assert words in said.err
    assert Path("detections.csv").read_bytes() == before


def many_pictures(folder: Path, count: int) -> None:
    with ZipFile(folder / "many.zip", "w") as archive:
        for number in range(count):
            with archive.open(f"{number:04}.png", "w") as file:
                noise(number).save(file, "PNG")
        archive.writestr("0003_broken.png", b"no picture")


@pytest.mark.slow
def test_a_killed_process_goes_on_and_leaves_the_same_bytes(
    gate_file: Path, tmp_path: Path
) -> None:
    many_pictures(tmp_path, 600)
    asked = ("images=many.zip", "batch_size=2")
    whole, output = tmp_path / "whole.csv", tmp_path / "killed.csv"
    killed = started(gate_file, tmp_path, *asked, "output=killed.csv")
    until(lambda: output.exists() and len(output.read_bytes().splitlines()) > 20, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    count = len(output.read_bytes().splitlines())
    assert 20 < count < 600
    for arguments in (("output=killed.csv", "resume=true"), ("output=whole.csv",)):
        done = started(gate_file, tmp_path, *asked, *arguments)
        said = done.communicate()[1]
        assert done.returncode == 0, said
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_leave_the_bytes_of_one_also_after_an_interruption(
    gate_file: Path, tmp_path: Path
) -> None:
    many_pictures(tmp_path, 400)
    asked = ("images=many.zip", "batch_size=2", "fdr=0.2")
    parts = [tmp_path / f"two.part-{rank}.csv" for rank in (0, 1)]
    stopped = started(gate_file, tmp_path, *asked, "output=two.csv", torchrun=True)
    until(lambda: all(p.exists() and p.stat().st_size > 1000 for p in parts), stopped)
    stopped.terminate()
    stopped.communicate()
    assert all(part.exists() for part in parts)
    for arguments, torchrun in (
        (("output=two.csv", "resume=true"), True),
        (("output=one.csv",), False),
    ):
        done = started(gate_file, tmp_path, *asked, *arguments, torchrun=torchrun)
        said = done.communicate()[1]
        assert done.returncode == 0, said
        assert len(re.findall(LAST, said)) == 1
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {
        "many.zip", "two.csv", "two.csv.json", "one.csv", "one.csv.json"
    }  # fmt: skip


def test_batches_are_cut_from_the_whole_whatever_is_kept() -> None:
    names = [*"abcdefg"]
    assert missing_batches(names, (), 3) == [range(0, 3), range(3, 6), range(6, 7)]
    assert missing_batches(names, {*"abce"}, 3) == [range(3, 6), range(6, 7)]


def test_images_are_decoded_ahead_but_not_all(photos: Path, gate_file: Path) -> None:
    images = find_images("photos/**/?.png")
    opened: list[int] = []
    open_path = images.open_path

    def noticed(path: str, max_pixels: int) -> Image.Image:
        opened.append(1)
        return open_path(path, max_pixels)

    images.open_path = noticed
    rows = decide(Gate.load(gate_file), images, missing_batches(images.names, (), 1))
    next(rows)
    assert len(opened) <= 6
    rows.close()  # type: ignore[attr-defined]


# where nothing can be written


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_was_written_is_resumed(
    gate_file: Path, tmp_path: Path
) -> None:
    many_pictures(tmp_path, 100)
    asked = [sys.executable, "-m", "src.detect", f"gate={gate_file}", "images=many.zip"]
    options: Any = {
        "cwd": tmp_path, "text": True, "stderr": subprocess.PIPE,
        "env": os.environ | {"PYTHONPATH": str(REPOSITORY)},
    }  # fmt: skip
    full = subprocess.run(
        [*asked, "batch_size=8"], **options,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )  # fmt: skip
    assert full.returncode == 1, full.stderr
    (line,) = full.stderr.splitlines()
    assert line.startswith("expected to write detections.csv, got: File too large; make room")
    again = subprocess.run([*asked, "batch_size=8", "resume=true"], **options)
    assert again.returncode == 0, again.stderr
    assert "of them before" in again.stderr
    with Path("/dev/full").open("w") as device:
        full = subprocess.run([*asked, "output=-"], stdout=device, **options)
    assert full.returncode == 1
    (line,) = full.stderr.splitlines()
    assert line.startswith("expected to write to standard output, got: No space left on device")


# the page


@pytest.fixture
def page(photos: Path, detect: Detect) -> PageReader:
    said = detect("images=photos", "page=out/page.html", "fdr=0.4")
    assert said.code == 0, said.err
    return PageReader(Path("out/page.html").read_text(encoding="utf-8"))


def test_the_page_stands_alone_and_tells_what_was_found(page: PageReader, gate_file: Path) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe")
        assert attributes.get("src", "data:image/").startswith("data:image/")
    flagged = sum(row["is_ood"] == "true" for row in table("detections.csv"))
    assert f"{flagged} of 14 images are flagged" in page.words
    assert Gate.load(gate_file).digest[:12] in page.words
    assert "layer4.0" in page.words
    assert "Nothing was decided about 3 files" in page.words
    assert "photos/gone.png: No such file or directory" in page.words
    assert "=1+1,<b>.jpg" in page.words  # escaped
    photos = [each for tag, each in page.elements if tag == "img" and each["class"] == "pixels"]
    heats = [each for tag, each in page.elements if tag == "img" and each["class"] == "heat"]
    assert len(photos) == len(heats) == 2 * 11


def test_the_page_begins_with_the_least_typical_image(page: PageReader) -> None:
    decided = [row for row in table("detections.csv") if not row["error"]]
    ranked = sorted(decided, key=lambda row: (float(row["p_value"]), float(row["score"])))
    shown = [each["title"] for tag, each in page.elements if each.get("class") == "soft name"]
    assert shown[:11] == [row["path"].removeprefix("'") for row in ranked]
    assert shown[11:] == shown[:11][::-1]


def test_the_page_is_one_if_nothing_could_be_decided(photos: Path, detect: Detect) -> None:
    assert detect("images=photos/empty.png", "page=page.html").code == 1
    page = PageReader(Path("page.html").read_text(encoding="utf-8"))
    assert "0 of 1 image is flagged" in page.words


def test_the_histogram_counts_flagged_values_left_of_alpha() -> None:
    p = [k / 100 for k in range(1, 101)]
    assert histogram(p) == [5] * 20
    assert histogram([0.15, 3 * 0.05, 1.0]) == [0, 0, 2, *[0] * 16, 1]


@pytest.mark.slow
@pytest.mark.skipif("BSOOD_DATA_DIR" not in os.environ, reason="needs real images")
def test_real_photos_in_an_archive(detect: Detect, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(os.environ["BSOOD_DATA_DIR"], "photos256.zip"), "photos.zip")
    said = detect("images=photos.zip", "page=page.html")
    assert said.code == 0, said.err
    assert "2200 images" in said.err

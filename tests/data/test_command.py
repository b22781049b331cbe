"""`python -m src.data`: what a user of a benchmark is shown, fetched and told."""

import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from src.data import Torchvision, registry

Command = Callable[..., None]
Process = Callable[..., "subprocess.CompletedProcess[str]"]
Capture = pytest.CaptureFixture[str]
FOLDERS = ("svhn", "textures", "tiny_imagenet", "scenes_resize", "scenes_crop")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Two images of each class and set, all different."""
    folders = [f"cifar10/{part}/{k}" for part in ("train", "test") for k in range(10)]
    for seed, folder in enumerate(folders + [f"ood32/{name}" for name in FOLDERS]):
        path = tmp_path / "data" / folder
        path.mkdir(parents=True)
        for row in range(2):
            pixel = np.random.default_rng([seed, row]).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixel).save(path / f"{row}.png")
    return tmp_path / "data"


def run(command: Command, capsys: Capture, *arguments: str) -> str:
    command("src.data", *arguments)
    return " ".join(capsys.readouterr().out.split())


def test_what_is_missing_is_said_with_where_to_get_it(
    command: Command, capsys: Capture, tmp_path: Path
) -> None:
    text = run(command, capsys, "data=paper_cifar10", f"data_dir={tmp_path}")
    assert "lsun_crop missing LSUN (crop): prepare=true fetches it from www.dropbox.com" in text
    assert "train missing CIFAR-10: prepare=true fetches it" in text
    assert "id missing as train" in text
    text = run(command, capsys, "data=openood_imagenet", f"data_dir={tmp_path}")
    assert (
        "train missing image lists of OpenOOD v1.5: OpenOOD provides them only on Google Drive"
        in text
    )
    assert not list(tmp_path.iterdir())


def test_the_former_spelling_is_accepted_with_a_note(process: Process, tmp_path: Path) -> None:
    asked = (f"data_dir={tmp_path}", "prepare=false")
    former = process("src.data", "benchmark=paper_cifar10", *asked)
    assert former.returncode == 0
    assert former.stdout == process("src.data", "data=paper_cifar10", *asked).stdout
    assert former.stderr.splitlines() == ["benchmark= is now data=, as in the other commands"]
    refused = process("src.data", "benchmark=cifar11")
    assert refused.returncode == 1
    assert "cifar11" in refused.stderr


def test_what_has_the_wrong_number_of_images_is_said(
    command: Command, capsys: Capture, data_dir: Path
) -> None:
    text = run(command, capsys, "data=local", f"data_dir={data_dir}")
    assert "svhn wrong expected 10000 images in" in text
    text = run(command, capsys, "data=cifar10_folder", f"data_dir={data_dir}")
    assert "svhn present 2 squash to 32, bilinear" in text


def test_verified_images_stay_verified_until_they_change(
    command: Command, capsys: Capture, data_dir: Path, tmp_path: Path
) -> None:
    asked = ["data=cifar10_folder", f"data_dir={data_dir}", f"out={tmp_path / 'out'}"]
    text = run(command, capsys, *asked, "verify=true", "figures=true")
    assert "every image can be decoded, none occurs twice, none is both ID and OOD" in text
    assert "svhn verified 2" in run(command, capsys, *asked)
    with Image.open(tmp_path / "out/images.png") as figure:
        assert (np.asarray(figure.convert("L")) < 200).mean() > 0.05
    (data_dir / "ood32/svhn/0.png").write_bytes((data_dir / "ood32/svhn/1.png").read_bytes())
    text = run(command, capsys, *asked)
    assert "svhn present 2" in text
    assert "textures verified 2" in text


def test_three_damaged_files_and_an_overlap_are_found(
    command: Command, capsys: Capture, data_dir: Path, tmp_path: Path
) -> None:
    whole = (data_dir / "ood32/svhn/0.png").read_bytes()
    (data_dir / "ood32/svhn/0.png").write_bytes(whole[:200])
    (data_dir / "ood32/textures/1.png").write_text("not an image")
    (data_dir / "cifar10/test/3/0.png").write_bytes(b"")
    Image.open(data_dir / "cifar10/train/4/0.png").save(data_dir / "ood32/scenes_crop/9.bmp")
    asked = ["data=cifar10_folder", f"data_dir={data_dir}", f"out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as stopped:
        command("src.data", *asked, "verify=true")
    assert stopped.value.code == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "svhn 1 corrupt 2" in text
    assert "train, scenes_crop: 1 images in both" in text
    found = json.loads((tmp_path / "out/verify.json").read_text())
    names = {name: [Path(image).name for image in each] for name, each in found["corrupt"].items()}
    assert names == {"id": ["0.png"], "svhn": ["0.png"], "textures": ["1.png"]}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Serves one archive that the registry knows as the set "isun"; all other sets are by hand."""
    served = tmp_path / "served"
    served.mkdir()
    with ZipFile(served / "isun.zip", "w") as archive:
        for row in range(3):
            Image.new("RGB", (32, 32), (row, 0, 0)).save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"iSUN/{row}.png")
    md5 = hashlib.md5((served / "isun.zip").read_bytes()).hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        entry = {"title": "t", "homepage": "h", "images": 3, "licence": "l", "terms": "t"}
        url = f"http://127.0.0.1:{server.server_port}/isun.zip"
        file = {"name": "isun.zip", "urls": [url], "md5": md5, "extract": True}
        entries = {
            name: entry | {"citation": "c", "manual": "m"} for name in registry.known_names()
        }
        entries["isun"] = entry | {"citation": "c", "files": [file]}
        with tarfile.open(served / "dtd.tar.gz", "w:gz") as textures:
            (tmp_path / "train1.txt").write_text("dots/a.jpg\n")
            textures.add(tmp_path / "train1.txt", "dtd/labels/train1.txt")
            textures.add(tmp_path / "one.png", "dtd/images/dots/a.jpg")
        md5 = hashlib.md5((served / "dtd.tar.gz").read_bytes()).hexdigest()
        file = file | {"name": "dtd/dtd.tar.gz", "urls": [url.replace("isun.zip", "dtd.tar.gz")]}
        entries["textures"] = entry | {"citation": "c", "files": [file | {"md5": md5}]}
        (tmp_path / "registry.yaml").write_text(json.dumps(entries))
        monkeypatch.setattr(registry, "REGISTRY", tmp_path / "registry.yaml")
        registry._registry.cache_clear()
        yield server
        server.shutdown()
    registry._registry.cache_clear()


@pytest.mark.usefixtures("server")
def test_prepare_fetches_what_may_be_fetched(
    command: Command, capsys: Capture, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    asked = ["data=paper_cifar10", f"data_dir={data_dir}", "~data.ood.places365"]
    offline = ["train", "test", "ood.svhn", "ood.textures"]
    asked += ["data.ood.isun.count=3", *(f"+data.{name}.download=false" for name in offline)]
    with pytest.raises(SystemExit):
        command("src.data", *asked, "prepare=true")
    text = " ".join(capsys.readouterr().out.split())
    assert "isun present 3" in text
    assert "lsun_crop missing" in text
    assert sorted(path.name for path in (data_dir / "isun/iSUN").iterdir()) == [
        "0.png", "1.png", "2.png"
    ]  # fmt: skip


@pytest.mark.usefixtures("server")
def test_a_set_of_torchvision_is_fetched_from_where_the_registry_says(tmp_path: Path) -> None:
    source = Torchvision("DTD", tmp_path / "mine", 32, known="textures", split="train")
    source.prepare()
    assert source.load().image[0, 0].unique().tolist() == [2]
    assert sorted(path.name for path in (tmp_path / "mine/dtd").iterdir()) == ["dtd"]
    assert not list(tmp_path.glob(".mine*"))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"state": 1, "corrupt": {}}', "[" * 9999]
)
def test_a_damaged_report_is_no_report(
    content: str, command: Command, capsys: Capture, data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/verify.json").write_text(content)
    asked = ["data=cifar10_folder", f"data_dir={data_dir}", f"out={tmp_path / 'out'}"]
    assert "svhn present 2" in run(command, capsys, *asked)


def test_names_of_files_are_shown_literally(
    process: Process, data_dir: Path, tmp_path: Path
) -> None:
    folder = data_dir / "ood32/svhn"
    (folder / "[red]a.png").write_text("")
    (folder / "b.[bold]").write_text("")
    os.close(os.open(os.fsencode(folder) + b"/caf\xe9.png", os.O_CREAT))
    asked = ("data=cifar10_folder", f"data_dir={data_dir}", f"out={tmp_path / 'out'}")
    done = process("src.data", *asked, "verify=true")
    assert done.returncode == 1
    said = "".join(done.stdout.split())
    assert "[red]a.png" in said
    assert "caf\\xe9.png" in said
    assert "filesleftout:1.[bold]" in said

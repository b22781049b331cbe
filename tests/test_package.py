"""What `pip install .` puts into another environment."""

from pathlib import Path
from zipfile import ZipFile

import pytest

from tests import REPOSITORY


def test_the_wheel_has_configurations_templates_and_commands(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel")
    (built,) = wheel.WheelBuilder(str(REPOSITORY)).build(
        directory=str(tmp_path), versions=["standard"]
    )
    with ZipFile(built) as archive:
        names = set(archive.namelist())
        (listed,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        commands = archive.read(listed).decode()
    needed = {
        *(Path("src") / path.relative_to(REPOSITORY) for path in files("conf")),
        *(path.relative_to(REPOSITORY) for path in files("src")),
    }
    assert {str(path) for path in needed} <= names
    assert all(name.startswith(("src/", "block_selection-")) for name in names)
    assert not [name for name in names if name.endswith((".pt", ".pyc"))]
    for command in ("bs-train", "bs-evaluate", "bs-data", "bs-compare"):
        assert f"{command} = src." in commands


def files(folder: str) -> list[Path]:
    return [
        path
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml", ".html", ".j2")
    ]

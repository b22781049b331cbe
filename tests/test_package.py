"""What `pip install .` puts into another environment."""

import re
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

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


def pinned(name: str) -> dict[str, Version]:
    """The versions in a file of constraints."""
    lines = (REPOSITORY / name).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {plain(package): Version(version) for package, version in pairs}


def plain(package: str) -> str:
    return re.sub("[-_.]+", "-", package).lower()


def test_every_dependency_has_a_lower_bound_which_is_tested_as_the_oldest() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    bounds = {}
    for text in project["dependencies"]:
        asked = Requirement(text)
        lowest = [Version(each.version) for each in asked.specifier if each.operator == ">="]
        assert len(lowest) == 1, text
        bounds[plain(asked.name)] = lowest[0]
        assert asked.specifier.contains(pinned("constraints.txt")[plain(asked.name)])
    assert pinned("constraints-oldest.txt") == bounds

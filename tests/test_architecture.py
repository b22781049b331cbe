"""The rooms of src/, the arrows between them, and what every module has.

python -m tests.test_architecture    prints rooms and arrows, from the door down
"""

import ast
import importlib
import inspect
import pkgutil
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import src
from tests import REPOSITORY

FRAMEWORKS = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb"}
# room -> the rooms that it may import, from the door down: no arrow runs up
ROOMS = {
    "train": ("deploy", "run", "records"),
    "evaluate": ("run", "report", "records"),
    "release": ("run", "report", "records"),
    "deploy": ("gate", "run", "metrics", "records"),
    "detect": ("gate", "run", "records"),
    "serve": ("service", "run", "records"),
    "service": ("gate", "metrics", "records"),
    "gate": ("run", "benchmark", "detectors", "network", "data", "metrics", "records"),
    "page": ("report",),
    "run": (
        *("report", "benchmark", "block_selection", "callbacks", "classifier", "detectors"),
        *("loggers", "network", "data", "records"),
    ),
    "search": ("records",),
    "compare": ("records",),
    "report": ("loggers", "network", "data", "metrics", "records"),
    "benchmark": ("detectors", "network", "data", "metrics", "records"),
    "block_selection": ("network", "data", "metrics", "records"),
    "callbacks": ("detectors", "network", "data"),
    "classifier": ("objectives", "network", "data", "records"),
    "objectives": ("network", "data"),
    "detectors": ("network", "metrics", "records", "counter_random"),
    "loggers": ("records",),
    "network": ("metrics", "records"),
    "data": ("records", "counter_random"),
    "models": (),
    "metrics": ("records", "counter_random"),
    "records": (),
    "counter_random": (),
}
FRAMEWORK_FREE = (
    *("counter_random", "models", "metrics", "network", "detectors", "gate", "records", "service"),
)
# the only places that know Hydra: entry points, the life of a run, and the end of a sweep
HYDRA = (
    *("src.train", "src.evaluate", "src.deploy", "src.detect", "src.serve"),
    *("src.run", "src.data.__main__"),
    *("src.search.__main__", "src.search.space", "src.compare.sweep"),
)
MODULES = sorted(
    {module.name for module in pkgutil.walk_packages(src.__path__, "src.")} - {"src.__main__"}
)


def file_of(module: str) -> Path:
    path = REPOSITORY.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def is_within(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def statements(node: ast.AST, *, nested: bool) -> Iterator[ast.stmt]:
    """Import statements, without those for the type checker; `nested`: also within functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif nested or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(child, nested=nested)


def imports(module: str, *, nested: bool = True) -> set[str]:
    """Full names of the modules that a module imports; `from src.data import x` is src.data."""
    names: set[str] = set()
    for statement in statements(ast.parse(file_of(module).read_text()), nested=nested):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            package = module.split(".")
            if file_of(module).name != "__init__.py":
                package.pop()
            kept = len(package) - statement.level + 1
            parts = [*package[:kept], statement.module] if statement.level else [statement.module]
            names.add(".".join(part for part in parts if part))
    return names


def arrows() -> dict[str, set[str]]:
    """room -> the rooms that its modules import."""
    found: dict[str, set[str]] = {}
    for module in MODULES:
        room = module.split(".")[1]
        ours = {name.split(".")[1] for name in imports(module) if name.startswith("src.")}
        found[room] = found.get(room, set()) | (ours - {room})
    return found


def test_no_run_left_a_file_at_the_top() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a clone")
    of_runs = {".csv", ".json", ".npz", ".pt", ".ckpt", ".html", ".png"}
    top = [Path(name) for name in listed.stdout.split("\n") if "/" not in name]
    assert top
    assert not [name for name in top if name.suffix in of_runs]


def test_every_module_is_looked_at() -> None:
    files = set((REPOSITORY / "src").rglob("*.py")) - {REPOSITORY / "src/__init__.py"}
    assert {file_of(module) for module in MODULES} == files


def test_the_house_has_these_rooms_and_arrows_and_no_others() -> None:
    assert {room: sorted(to) for room, to in arrows().items()} == {
        room: sorted(to) for room, to in ROOMS.items()
    }


def test_no_arrow_runs_up() -> None:
    floor = list(ROOMS)
    assert not [
        (room, to) for room in ROOMS for to in ROOMS[room] if floor.index(to) < floor.index(room)
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_modules_of_a_room_do_not_import_each_other_in_circles(room: str) -> None:
    inside = [module for module in MODULES if is_within(module, (f"src.{room}",))]
    tuple(TopologicalSorter({m: imports(m) & set(inside) for m in inside}).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_frameworks_stay_where_they_belong(module: str) -> None:
    roots = {name.split(".")[0] for name in imports(module)}
    if module.split(".")[1] in FRAMEWORK_FREE:
        assert not roots & FRAMEWORKS
    if module.split(".")[1] == "records":
        assert "torch" not in roots
    if not is_within(module, HYDRA):
        assert not roots & {"hydra", "omegaconf"}
    assert "wandb" not in {name.split(".")[0] for name in imports(module, nested=False)}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_and_says_what_is_public_and_what_it_is(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__doc__
    assert len(loaded.__all__) == len(set(loaded.__all__)) > 0
    for name in loaded.__all__:
        value = getattr(loaded, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{module}.{name}"


if __name__ == "__main__":
    found = arrows()
    for room in ROOMS:
        print(f"{room} -> {', '.join(to for to in ROOMS if to in found[room]) or 'nothing'}")  # noqa: T201
    print(f"{len(found)} rooms, {sum(map(len, found.values()))} arrows")  # noqa: T201

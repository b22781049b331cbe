"""The arrows of DESIGN section 3: who may import whom, and what every module has."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import src

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb"}
# (the longest prefix of a module's name counts) -> modules of ours that it may import
MAY_IMPORT = {
    "src.counter_random": (),
    "src.models": ("src.models",),
    "src.metrics": ("src.metrics", "src.counter_random"),
    "src.tracing": (),
    "src.blocks": ("src.tracing",),
    "src.weights": (),
    "src.network": ("src.blocks", "src.metrics", "src.tracing", "src.weights"),
    "src.detectors": ("src.detectors", "src.network", "src.metrics", "src.counter_random"),
    "src.data": ("src.data", "src.counter_random"),
    "src.data.registry": (),
    "src.data.download": ("src.data.registry",),
    "src.data.pseudo_ood": ("src.counter_random",),
    "src.palette": (),
    "src.columns": (),
    "src.history": (),
    "src.compare": ("src.compare", "src.columns", "src.palette"),
    "src.search": ("src.search", "src.compare"),
}
FRAMEWORK_FREE = (
    "src.counter_random",
    "src.models",
    "src.metrics",
    "src.blocks",
    "src.tracing",
    "src.weights",
    "src.network",
    "src.detectors",
)
ENTRY_POINTS = (
    "src.train",
    "src.evaluate",
    "src.run",
    "src.run_directory",
    "src.pretrained",
    "src.data.__main__",
    "src.compare.__main__",
    "src.search.__main__",
    "src.search.space",
    "src.sweep",
)

MODULES = sorted(
    {module.name for module in pkgutil.walk_packages(src.__path__, "src.")} - {"src.__main__"}
)


def file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
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


def test_every_module_is_looked_at() -> None:
    files = set((ROOT / "src").rglob("*.py")) - {ROOT / "src/__init__.py"}
    assert {file_of(module) for module in MODULES} == files


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    ours = {name for name in imports(module) if is_within(name, ("src",))}
    rules = [prefix for prefix in MAY_IMPORT if is_within(module, (prefix,))]
    if rules:
        allowed = MAY_IMPORT[max(rules, key=len)]
        assert not {name for name in ours if not is_within(name, allowed)}
    if not is_within(module, ENTRY_POINTS):
        assert not {name for name in ours if is_within(name, ENTRY_POINTS)}


@pytest.mark.parametrize("module", MODULES)
def test_frameworks_stay_where_they_belong(module: str) -> None:
    roots = {name.split(".")[0] for name in imports(module)}
    if is_within(module, FRAMEWORK_FREE):
        assert not roots & FRAMEWORKS
    if not is_within(module, ENTRY_POINTS):
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

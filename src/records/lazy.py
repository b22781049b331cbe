"""Packages whose names are imported when they are first used."""

__all__ = ["exports"]

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def exports(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package that imports a module when a name of it is used.

    A command line that only asks for help need not wait for torch.

    Args:
        package: Name of the package.
        modules: Module of the package -> the names that it exports.
    """
    home = {name: module for module, names in modules.items() for name in names}

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home[name]}"), name)

    return find

"""The gate in service: HTTP, its page and its meters, on LitServe."""

from typing import TYPE_CHECKING

from src.records.lazy import exports

if TYPE_CHECKING:
    from src.service.limits import Limits
    from src.service.server import serve

__all__ = ["Limits", "serve"]

MODULES = {"limits": ("Limits",), "server": ("serve",)}

__getattr__ = exports(__name__, MODULES)

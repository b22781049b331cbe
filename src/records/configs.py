"""The folder of the configurations."""

__all__ = ["CONF"]

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# an installed package holds its configurations, a checkout has them next to the package
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"

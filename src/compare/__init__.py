"""Compares finished runs. It reads files and imports no torch until a figure is drawn."""

__all__ = ["Rows", "Run", "compare", "find_runs"]

from src.compare.rows import Rows, compare
from src.compare.runs import Run, find_runs

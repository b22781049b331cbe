"""Compares finished runs in tables, figures and one page.

It only reads files of runs and never imports torch.
"""

__all__ = ["Rows", "Run", "compare", "find_runs"]

from src.compare.rows import Rows, compare
from src.compare.runs import Run, find_runs

"""The report of a finished run: results, tables, figures, a page and a model card.

A name is imported when it is first used, so that a command that only prints help stays fast.
"""

from typing import TYPE_CHECKING

from src.records.lazy import exports

if TYPE_CHECKING:
    from src.report.evidence import Evidence, evidence_of
    from src.report.model_card import card
    from src.report.page import write_page
    from src.report.results import FinishedRun, ood_results, write_report
    from src.report.tables import block_table, result_table, selection_table

__all__ = [
    "Evidence",
    "FinishedRun",
    "block_table",
    "card",
    "evidence_of",
    "ood_results",
    "result_table",
    "selection_table",
    "write_page",
    "write_report",
]

MODULES = {
    "evidence": (
        "Evidence",
        "evidence_of",
    ),
    "model_card": ("card",),
    "page": ("write_page",),
    "results": (
        "FinishedRun",
        "ood_results",
        "write_report",
    ),
    "tables": (
        "block_table",
        "result_table",
        "selection_table",
    ),
}

__getattr__ = exports(__name__, MODULES)

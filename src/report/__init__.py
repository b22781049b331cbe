"""What a finished run leaves behind: results, tables, figures, a page and a model card.

Names are imported when they are first used, so that a command that only prints help stays fast.
"""

from typing import TYPE_CHECKING

from src.records.lazy import exports

if TYPE_CHECKING:
    from src.report.model_card import card
    from src.report.page import write_page
    from src.report.results import ood_results, write_report
    from src.report.tables import block_table, result_table, selection_table

__all__ = [
    "block_table",
    "card",
    "ood_results",
    "result_table",
    "selection_table",
    "write_page",
    "write_report",
]

MODULES = {
    "model_card": ("card",),
    "page": ("write_page",),
    "results": (
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

"""Colors and style of all figures."""

__all__ = ["COLORS", "GREY", "PALE", "SELECTED", "STYLE"]

from typing import Any

# The palette of Okabe and Ito is safe for color-blind readers; red marks the selected block alone.
SELECTED, GREY, PALE = "#D55E00", "#8C8C8C", "#B0BEC5"
COLORS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B")
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "legend.frameon": False,
    "legend.fontsize": 6.5,
    "figure.constrained_layout.use": True,
}

"""Colors and style of all figures."""

__all__ = ["COLORS", "GREY", "PALE", "SELECTED", "STYLE", "png_of"]

import warnings
from io import BytesIO
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names

# The palette of Okabe and Ito is safe for color-blind readers; red marks the selected block alone.
SELECTED, GREY, PALE = "#D55E00", "#8C8C8C", "#B0BEC5"
COLORS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B")
# fonts with the letters that DejaVu Sans does not have
OTHER_SCRIPTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Micro Hei"),
    *("Hiragino Sans", "PingFang SC", "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Nirmala UI"),
)
INSTALLED = {*get_font_names()}
STYLE: Any = {
    "text.parse_math": False,  # a name may hold dollar signs
    "font.family": ["DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in INSTALLED)],
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


def png_of(figure: Figure) -> BytesIO:
    """Returns a figure as a PNG file; a letter that no font has is drawn as a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(picture := BytesIO(), dpi=130)
    return picture

"""Finish the HTML of a page: formulas and the sections of docstrings.

Formulas in LaTeX become MathML, which browsers draw without any script. Sections that a docstring
has on one line, such as `Differs: It is ...`, look like those that are indented below their title.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

LATEX = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
SECTION = re.compile(r"<p>(Source|Differs|Fitted on|Needs|Year): (.*?)</p>", re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Returns the finished content of a page; MkDocs calls this for each page."""
    content = LATEX.sub(lambda formula: mathml(html.unescape(formula[2]), formula[1]), content)
    return SECTION.sub(r"<details open><summary>\1</summary><p>\2</p></details>", content)


def mathml(latex: str, tag: str) -> str:
    """Returns a formula, within the line or (in a div) on a line of its own."""
    return convert(latex, display="block" if tag == "div" else "inline")

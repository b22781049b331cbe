r"""Help MkDocs to render docstrings and formulas.

MkDocs calls `on_page_content`, which turns LaTeX, \(...\), into MathML: browsers draw that without
any script. Griffe, which reads the docstrings, calls `Sections`.
"""

import html
import re
from typing import Any

from griffe import Extension, Module, Object
from latex2mathml.converter import convert

LATEX = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
SECTION = re.compile(
    r"^(Source|Differs|Fitted on|Needs|Year|Extra passes):(?: (.*))?$", re.MULTILINE
)


def on_page_content(content: str, **_: Any) -> str:
    """Returns the content of a page with its formulas in MathML."""
    return LATEX.sub(lambda formula: mathml(html.unescape(formula[2]), formula[1]), content)


def mathml(latex: str, tag: str) -> str:
    """Returns a formula, within the line or (in a div) on a line of its own."""
    return convert(latex, display="block" if tag == "div" else "inline")


class Sections(Extension):
    """Prepares what Griffe does not know: sections of our own, and rooms without `__all__`."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Sets each section of our own apart, with its title on a line of its own."""
        if obj.docstring:
            obj.docstring.value = SECTION.sub(apart, obj.docstring.value)

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Makes the names public that the `__init__` of a room imports."""
        for room in pkg.modules.values():
            if room.is_init_module and not room.exports:
                room.exports = [name for name, each in room.members.items() if each.is_alias]


def apart(section: re.Match[str]) -> str:
    """Returns the title of a section between line breaks, and any text behind it indented."""
    title, text = section.groups()
    return f"\n{title}:" + (f"\n    {text}" if text else "")

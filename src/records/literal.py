"""Names of users and their files, written so that they are taken literally where they land."""

__all__ = [
    "csv_cell",
    "file_name",
    "from_csv_cell",
    "literal_word",
    "markdown_code",
    "markdown_text",
    "one_line",
    "override",
    "quoted",
    "shell_word",
]

import re
import shlex
from collections.abc import Callable

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
MARKS = re.compile(r"[\\`*\[\]<|&~$]|(?<!\w)_|_(?!\w)")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute
PLAIN = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_/.@%+-]*")  # a value that Hydra reads as it stands
NO_TEXT = re.compile(r"(null|true|false|[-+]?(inf|nan)|[-+0-9._eE]+)", re.IGNORECASE)
WORD = re.compile(r"([+~]*[A-Za-z_][\w./@-]*)=(.*)", re.DOTALL | re.ASCII)
BEGUN = ("[", "{", "(", "'", '"')  # a list, dictionary or text of Hydra's own grammar
LONGEST = 160  # bytes of a file's name, without its suffix


def one_line(text: object) -> str:
    """Returns a text without line breaks and other control characters."""
    return CONTROL.sub(" ", str(text)).strip()


def markdown_text(text: object) -> str:
    """Returns a text in one line with the special characters of Markdown escaped."""
    return MARKS.sub(r"\\\g<0>", one_line(text))


def markdown_code(text: object) -> str:
    """Returns a text in one line as code of Markdown, also within a table."""
    line = one_line(text).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def csv_cell(text: object) -> str:
    """Returns a text that a spreadsheet shows and does not compute: `=1+1` becomes `'=1+1`."""
    cell = str(text)
    return f"'{cell}" if cell.lstrip("'").startswith(FORMULA) else cell


def from_csv_cell(cell: str) -> str:
    """Returns the text of which `csv_cell` made a cell."""
    return cell[1:] if cell.startswith("'") and csv_cell(cell[1:]) == cell else cell


def file_name(name: object) -> str:
    """Returns a name as the stem of a file: letters, digits, dots, `_` and `-`, in no folder."""
    stem = re.sub(r"[^\w.-]+", "_", str(name)).strip("._-")
    return stem.encode()[:LONGEST].decode(errors="ignore") or "unnamed"


def quoted(text: str) -> str:
    """Returns a text as a value that Hydra reads as this very text."""
    if PLAIN.fullmatch(text) and not NO_TEXT.fullmatch(text):
        return text
    text = text.replace("${", "\\${")
    if "\\" not in text and '"' not in text:
        return f'"{text}"'
    text = re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + (end[2] and "\\'"), text)
    return f"'{text}'"


def shell_word(word: str) -> str:
    """Returns a word to be pasted into a shell, in one line."""
    if not CONTROL.search(word):
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + CONTROL.sub(lambda found: ascii(found[0])[1:-1], escaped) + "'"


def override(key: str, value: object) -> str:
    """Returns `key=value` to be pasted into a shell, for our commands to read as this very text.

    An equals sign alone needs no quotes: `literal_word` sees to it.
    """
    text = str(value)
    is_literal = PLAIN.fullmatch(text.replace("=", "")) and not NO_TEXT.fullmatch(text)
    return shell_word(f"{key}={text if is_literal and '=' in text else quoted(text)}")


def literal_word(word: str, parse: Callable[[str], object]) -> str:
    """Returns a word of the command line with its value quoted if Hydra has no reading for it.

    A path or a name may hold an equals sign, letters beyond ASCII or brackets, at which Hydra
    fails: `resume=logs/lr=0.1`. Lists, dictionaries and sweeps stay as they are.

    Args:
        word: An override, or anything else, which is returned as it is.
        parse: Hydra's parser of one override.
    """
    assigned = WORD.fullmatch(word)
    if not assigned or assigned[2].startswith(BEGUN) or "," in assigned[2]:
        return word
    try:
        parse(word)
    except Exception:  # this room does not know Hydra's own
        return f"{assigned[1]}={quoted(assigned[2])}"
    return word

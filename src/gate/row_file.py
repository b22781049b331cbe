"""Rows as text: in a CSV file or JSON lines, which may end in the middle of a row."""

__all__ = ["STANDARD_OUTPUT", "RowFile", "Write", "write_text"]

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from src.gate.rows import Row
from src.records.atomic import write_whole
from src.records.literal import csv_cell, from_csv_cell

STANDARD_OUTPUT = 1  # its file descriptor
Write = Callable[[Iterable[Row]], None]


def _truth(cell: str) -> bool:
    return {"true": True, "false": False}[cell]


KINDS: dict[str, Callable[[str], Any]] = {  # column -> what is in its cell
    **dict.fromkeys(("path", "label", "error"), str),
    **dict.fromkeys(("probability", "score", "p_value"), float),
    **dict.fromkeys(("is_ood", "discovery"), _truth),
}


@dataclass(frozen=True)
class RowFile:
    """Rows in a file, which may end in the middle of one.

    Args:
        path: CSV file or JSON lines, by its suffix.
        discoveries: Whether rows have the column `discovery`.
    """

    path: Path
    discoveries: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return Row._fields if self.discoveries else Row._fields[:-1]

    @property
    def head(self) -> str:
        """What the file begins with."""
        return "" if self._is_json else ",".join(self.columns) + "\n"

    @property
    def _is_json(self) -> bool:
        return self.path.suffix.lower() == ".jsonl"

    def text(self, rows: Iterable[Row]) -> str:
        """Returns rows as they are in the file."""
        if self._is_json:
            cut = (dict(zip(self.columns, row, strict=False)) for row in rows)
            return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in cut)
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([_cell(value) for value in row[: len(self.columns)]] for row in rows)
        return text.getvalue()

    def read(self) -> list[Row]:
        """Returns the complete rows.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it has other columns, or is damaged elsewhere than at its end.
        """
        text = self.path.read_bytes().decode(errors="replace")
        text = text[: text.rfind("\n") + 1]
        if not self._is_json:
            if text and not text.startswith(self.head):
                raise ValueError(
                    f"expected the columns {self.head.strip()} in {self.path}, got "
                    f"{text.partition(chr(10))[0][:200]!r}; name another output"
                )
            text = text[len(self.head) :]
        lines = text.split("\n")[:-1] if self._is_json else csv.reader(StringIO(text, newline=""))
        rows: list[Row | None] = []
        try:
            rows += map(self._parsed, lines)
        except csv.Error:
            rows += [None, None]
        if None in rows[:-1]:
            raise ValueError(
                f"expected rows in {self.path}, got a damaged one behind row {rows.index(None)}; "
                "restore the file, or name another output"
            )
        complete = [row for row in rows if row is not None]
        if rows[-1:] == complete[-1:] and not text.endswith(self.text(complete[-1:])):
            complete.pop()  # it was cut behind a line break in its last cell
        return complete

    def _parsed(self, record: Any) -> Row | None:
        """Returns a row; None if it is incomplete."""
        try:
            if self._is_json:
                named = json.loads(record)
            else:
                cells = zip(self.columns, map(from_csv_cell, record), strict=True)
                named = {key: KINDS[key](cell) if cell else None for key, cell in cells}
            if [*named] != [*self.columns] or not isinstance(named["path"], str):
                return None
            return Row(**named)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def write(self, rows: Iterable[Row]) -> None:
        """Writes the file whole."""
        content = (self.head + self.text(rows)).encode()
        write_whole(self.path, lambda partial: partial.write_bytes(content))

    @contextmanager
    def appending(self) -> Iterator[Write]:
        """Inside, rows that are written are in the file at once, behind those that were there."""
        is_new = not self.path.exists()
        with self.path.open("ab", buffering=0) as file:
            if is_new:
                write_text(file.fileno(), self.head)
            yield lambda rows: write_text(file.fileno(), self.text(rows))

    @contextmanager
    def printing(self) -> Iterator[Write]:
        """Inside, rows that are written are on standard output at once."""
        write_text(STANDARD_OUTPUT, self.head)
        yield lambda rows: write_text(STANDARD_OUTPUT, self.text(rows))


def _cell(value: str | float | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return csv_cell(value)
    return "" if value is None else repr(value)


def write_text(descriptor: int, text: str) -> None:
    """Writes all of a text, past Python's buffers, which would try again when they are closed."""
    data = memoryview(text.encode())
    while data:
        data = data[os.write(descriptor, data) :]

"""The output of a detection: resumed after a kill, merged and completed."""

__all__ = ["Detections"]

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from src.gate.row_file import STANDARD_OUTPUT, RowFile, Write, write_text
from src.gate.rows import Row, discovered
from src.records.atomic import held, write_whole

SUFFIXES = (".csv", ".jsonl")


@contextmanager
def _tells(where: object, remedy: str) -> Iterator[None]:
    """Says in a sentence what the system says of a file that cannot be written."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # it is a sentence of ours
            raise
        raise type(error)(f"expected to write {where}, got: {error.strerror}; {remedy}") from None


class Detections:
    """The output of a detection: a file of rows, or standard output, and how it came about.

    Beside the file lies `<file>.json`, which tells gate and options, so that other ones cannot go
    on with it. While several processes work, each has a part `<stem>.part-<rank>.<suffix>`.

    Args:
        output: Path of a .csv or .jsonl file, or "-" for standard output, as CSV.
        facts: Gate and options, as plain values.
        names: Paths of the images, in the order of the rows.
        rate: False discovery rate; None for no discoveries.

    Raises:
        ValueError: If the file has another suffix, or the rate is not within (0, 1).
    """

    def __init__(
        self,
        output: str,
        facts: Mapping[str, Any],
        names: Sequence[str],
        *,
        rate: float | None = None,
    ) -> None:
        self.path = None if output == "-" else Path(output)
        if self.path and self.path.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"expected an output that ends in {' or '.join(SUFFIXES)}, or - for standard "
                f"output, got {output}; correct output="
            )
        if rate is not None and not 0 < rate < 1:
            raise ValueError(
                f"expected fdr, a false discovery rate, within (0, 1), got {rate}; 0.1 is usual"
            )
        self.facts, self.names, self.rate = {**facts, "fdr": rate}, names, rate
        self.file = RowFile(self.path or Path("-.csv"), rate is not None)
        self.story = self.file.path.with_name(f"{self.file.path.name}.json")
        self.printed: list[Row] = []
        self.claim = ExitStack()

    def begin(self, *, resume: bool, shared: bool = False) -> None:
        """Claims the output; gathers what an earlier process wrote.

        Args:
            resume: Whether to go on where another process ended; if there is none, it begins.
            shared: Whether several processes will write.

        Raises:
            FileExistsError: If the output is there and not to be resumed.
            OSError: If it cannot be written.
            ValueError: If it is of another gate, other options or other images, if another
                process writes it, or if standard output is to be resumed or shared.
        """
        with _tells(self.path, "choose another output, or permit it and make room"):
            self._begin(resume=resume, shared=shared)

    def _begin(self, *, resume: bool, shared: bool) -> None:
        if self.path is None:
            if resume or shared:
                raise ValueError(
                    "expected a file as output, which can be "
                    f"{'resumed' if resume else 'shared by processes'}, got standard output; set "
                    "output=<file>"
                )
            return
        begun = [each for each in (self.path, self.story, *self._parts()) if os.path.lexists(each)]
        if begun and not resume:
            raise FileExistsError(
                f"expected a new output, got {begun[0]}, which is there; set resume=true to go on "
                "with it, or name another output"
            )
        if not begun:
            text = json.dumps(self.facts, indent=2) + "\n"
            write_whole(self.story, lambda partial: partial.write_text(text), may_replace=False)
        self._check_story()
        try:
            self.claim.enter_context(held(self.story))
        except BlockingIOError:
            raise ValueError(
                f"expected {self.path} to be free, got one that another process writes; wait for "
                "it, or name another output"
            ) from None
        self.file.write(self._gathered())

    def kept(self) -> set[str]:
        """Returns the paths of the images whose rows are written."""
        return {row.path for row in self.file.read()} if self.path else set()

    @contextmanager
    def writing(self, part: int | None = None) -> Iterator[Write]:
        """Inside, rows can be written; those that are there already are left out.

        Args:
            part: Number of this process; None if it is the only one.
        """
        kept = self.kept()
        if self.path is None:
            with _tells("to standard output", "correct output="), self.file.printing() as write:

                def tell(rows: Iterable[Row]) -> None:
                    self.printed += (rows := list(rows))
                    if self.rate is None:  # else they are written together
                        write(rows)

                yield tell
            return
        file = self.file if part is None else RowFile(self._part(part), self.rate is not None)
        remedy = "make room, and set resume=true to go on"
        with _tells(file.path, remedy), file.appending() as write:
            yield lambda rows: write(row for row in rows if row.path not in kept)

    def complete(self) -> list[Row]:
        """Returns all rows in order; merges the parts and adds the discoveries.

        Raises:
            OSError: If they cannot be written; then nothing is lost.
        """
        if self.path is None:
            if self.rate is not None:
                self.printed = discovered(self.printed, self.rate)
                with _tells("to standard output", "correct output="):
                    write_text(STANDARD_OUTPUT, self.file.text(self.printed))
            return self.printed
        rows = self._gathered()
        if self.rate is not None:
            rows = discovered(rows, self.rate)
        with _tells(self.path, "make room, and set resume=true to go on"):
            if rows != self.file.read():
                self.file.write(rows)
            for part in self._parts():
                part.unlink()
        self.claim.close()
        return rows

    def _part(self, number: int) -> Path:
        path = self.file.path
        return path.with_name(f"{path.stem}.part-{number}{path.suffix}")

    def _parts(self) -> list[Path]:
        path = self.file.path
        name = re.compile(rf"{re.escape(path.stem)}\.part-\d+{re.escape(path.suffix)}")
        if not path.parent.is_dir():
            return []
        return sorted(each for each in path.parent.iterdir() if name.fullmatch(each.name))

    def _check_story(self) -> None:
        """Refuses what another gate or other options wrote."""
        try:
            found = json.loads(self.story.read_text())
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(
                f"expected {self.story}, which tells what gate wrote {self.path}, got none that "
                "can be read; restore it, or name another output"
            )
        other = [key for key in self.facts if found.get(key) != self.facts[key]]
        if other:
            key = other[0]
            raise ValueError(
                f"expected to go on with {self.path} as it was begun, with {key}={found.get(key)}"
                f", got {key}={self.facts[key]}; use the same gate and options, or name another "
                "output"
            )

    def _gathered(self) -> list[Row]:
        """Returns the rows of file and parts, in the order of the images."""
        files = [self.file, *(RowFile(each, self.file.discoveries) for each in self._parts())]
        found = {row.path: row for each in files if each.path.exists() for row in each.read()}
        rows = [found.pop(name) for name in self.names if name in found]
        if found:
            raise ValueError(
                f"expected rows of the same images in {self.path}, got one of {next(iter(found))}"
                ", which images= does not have now; name the same images, or another output"
            )
        return rows

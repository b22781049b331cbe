"""Prints a comparison and writes it as CSV, Markdown, LaTeX and HTML."""

__all__ = ["show", "write"]

import csv
import re
from collections.abc import Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Literal

from src.compare.paper import Paper
from src.compare.rows import MISSING, Row, Rows, Sample
from src.compare.runs import METRICS
from src.compare.tables import UNIT, Table, best_detectors, notes_of, tables
from src.records.atomic import write_whole
from src.records.console import console, say
from src.records.literal import csv_cell, markdown_text, one_line

SHOWN = 6  # more detectors do not fit in a terminal
LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{char: f"{{{char}}}" for char in "[*"},  # behind \\\\ they would be an option
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"±": r"$\pm$", "×": r"$\times$", MISSING: "--", "…": r"\ldots{}"},  # noqa: RUF001
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
}


def show(
    found: Rows,
    *,
    detectors: Sequence[str] | None = None,
    sets: bool = False,
    blocks: bool = False,
    paper: Paper | None = None,
) -> None:
    """Prints the tables and the notes."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Printed
    from rich.text import Text

    screen = console(160)
    shown = detectors or best_detectors(found, SHOWN)
    say(UNIT)
    for table in tables(found, detectors=shown, sets=sets, blocks=blocks, paper=paper):
        printed = Printed(box=SIMPLE_HEAD, title=table.title, title_justify="left")
        for at, name in enumerate(table.header):
            is_text = at in table.left
            side: Literal["left", "right"] = "left" if is_text else "right"
            whole = at == 0 and not table.names  # names of blocks and detectors stay on one line
            printed.add_column(name, justify=side, overflow="fold", no_wrap=whole)
        for at, line in enumerate(table.body):
            marked = [(text, (at, column) in table.best) for column, text in enumerate(line)]
            printed.add_row(*(Text(text, style="bold" if best else "") for text, best in marked))
        screen.print(printed)
    for note in notes_of(found, shown, paper):
        say(note)


def write(
    folder: Path,
    found: Rows,
    *,
    sets: bool = False,
    blocks: bool = False,
    paper: Paper | None = None,
) -> None:
    """Writes `comparison.csv`, `.md`, `.tex` and `.html` with all detectors."""
    from src.compare.page import page

    every = found.detectors
    content = tables(found, detectors=every, sets=sets, blocks=blocks, paper=paper)
    notes = notes_of(found, every, paper)
    for name, text in (
        ("comparison.csv", csv_text(found, sets=sets, paper=paper)),
        ("comparison.md", markdown(content, notes)),
        ("comparison.tex", latex(content, notes)),
        ("comparison.html", page(found, content, notes)),
    ):
        write_whole(folder / name, partial(Path.write_bytes, data=text.encode()))


def csv_text(found: Rows, *, sets: bool, paper: Paper | None) -> str:
    """Returns a CSV file: one line per row, fractions, and empty cells for missing numbers."""
    lines = [csv_line(row, found, sets=sets, paper=paper) for row in found.rows]
    header = dict.fromkeys(key for line in lines for key in line)
    file = StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(map(csv_cell, header))
    for line in lines:
        cells = [line.get(key, "") for key in header]
        writer.writerow([csv_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return file.getvalue()


def csv_line(row: Row, found: Rows, *, sets: bool, paper: Paper | None) -> dict[str, object]:
    """Returns the cells of a row: column -> value."""
    line: dict[str, object] = {
        "experiment": row.experiment,
        "network": row.network,
        "setting": "; ".join(f"{key}={value}" for key, value in row.variant.items()),
        "images": row.images,
        "n": len(row.runs),
        "seeds": " ".join(str(run.seeds.get("seed", "")) for run in row.runs).strip(),
        "selected_block": "; ".join(f"{block} {count}" for block, count in row.selected.items()),
    }
    samples = {
        "accuracy": row.sample(lambda run: run.accuracy),
        "norm_ratio": row.sample(lambda run: run.norm_ratio),
        "gap": row.sample(lambda run: run.gap),
        "spearman": row.sample(lambda run: run.spearman()),
    }
    for detector in found.detectors:
        for source in ("average", *(found.sources if sets else [])):
            for metric in METRICS:
                samples[f"{detector}.{source}.{metric}"] = row.score(detector, metric, source)
    for key, sample in samples.items():
        values = ("", "", 0) if sample is None else sample
        line |= {
            f"{key}.{part}": value for part, value in zip(Sample._fields, values, strict=True)
        }
        line[f"{key}.std"] = "" if sample is None or sample.std is None else sample.std
    for detector in found.detectors if paper else []:
        for source in found.sources:
            published = paper.score(row, detector, source) if paper else None
            for metric, value in zip(METRICS, published or (), strict=False):
                line[f"{detector}.{source}.{metric}.paper"] = value / 100
    line["runs"] = "; ".join(str(run.path) for run in row.runs)
    return line


def markdown(content: Sequence[Table], notes: Sequence[str]) -> str:
    """Returns the tables in Markdown. The best number of a row is bold."""
    parts = [f"# Comparison\n\n{UNIT}\n"]
    for table in content:
        rule = ["---" if at in table.left else "--:" for at in range(len(table.header))]
        lines = [[markdown_text(text) for text in table.header], rule]
        for at, line in enumerate(table.body):
            cells = [markdown_text(text) for text in line]
            lines.append(
                [f"**{text}**" if (at, c) in table.best else text for c, text in enumerate(cells)]
            )
        parts.append(f"## {markdown_text(table.title)}\n")
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    if notes:
        parts.append("\n".join(f"* {markdown_text(note)}" for note in notes) + "\n")
    return "\n".join(parts)


def latex(content: Sequence[Table], notes: Sequence[str]) -> str:
    """Returns the tables in LaTeX (booktabs). The best number of a row is bold."""
    parts = [rf"% needs \usepackage{{booktabs}}. {UNIT}"]
    for table in content:
        lines = [
            " & ".join(
                rf"\textbf{{{escaped(text)}}}" if (at, c) in table.best else escaped(text)
                for c, text in enumerate(line)
            )
            for at, line in enumerate(table.body)
        ]
        columns = "".join("lr"[at not in table.left] for at in range(len(table.header)))
        parts += [
            r"\begin{table}", r"\centering", rf"\caption{{{escaped(table.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
            " & ".join(map(escaped, table.header)) + r" \\", r"\midrule",
            *(line + r" \\" for line in lines),
            r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
        ]  # fmt: skip
    return "\n".join([*parts, *(f"% {one_line(note)}" for note in notes), ""])


def escaped(text: str) -> str:
    """Returns the text with the special characters of LaTeX escaped."""
    return re.sub(".", lambda char: LATEX.get(char[0], char[0]), one_line(text))

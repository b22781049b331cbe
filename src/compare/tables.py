"""Turns a comparison into tables of text."""

__all__ = [
    "UNIT",
    "Table",
    "best_detectors",
    "labels",
    "notes_of",
    "short_names",
    "tables",
    "variant",
]

from collections import Counter
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import NamedTuple

from src.compare.paper import Paper
from src.compare.rows import MISSING, Row, Rows, Sample
from src.compare.runs import METRICS, Run
from src.records.columns import FEATURE_NORM, Column

WIDE = 8  # a table with more detectors has them in rows instead of columns
LONGEST = 3  # most settings in a label
NAMES = {
    "auroc": "AUROC",
    "fpr95_id_pos": "fpr95_id_pos (OOD accepted at 95 % of ID)",
    "fpr95_ood_pos": "fpr95_ood_pos (ID rejected at 95 % of OOD)",
}
UNIT = "Percent; mean ± sample standard deviation over n runs."


class Table(NamedTuple):
    """A table of text."""

    title: str
    header: list[str]
    body: list[list[str]]
    names: int  # number of columns on the left that name the row
    left: set[int]  # left-aligned columns, which hold text
    best: set[tuple[int, int]]  # (row, column) of the best numbers, printed bold

    def name(self, line: list[str]) -> tuple[str, str]:
        """Returns the network of a line, and the rest of its name."""
        named = dict(zip(self.header[: self.names], line, strict=False))
        network = named.pop("network")
        if named.get("images"):
            named["images"] = f"images {named['images']}"
        return network, " · ".join(filter(None, named.values()))


def percent(sample: Sample | None, row: Row) -> str:
    """Returns a fraction in percent with its spread, and n if some runs lack it."""
    if sample is None:
        return MISSING
    spread = "" if sample.std is None else f" ± {100 * sample.std:.1f}"
    some = f" (n={sample.n})" if sample.n < len(row.runs) else ""
    return f"{100 * sample.mean:.1f}{spread}{some}"


def labels(found: Rows) -> tuple[list[str], list[list[str]]]:
    """Returns header and cells of the columns that name the rows, without constant columns."""
    columns = {"run": [row.runs[0].name if found.each else "" for row in found.rows]}
    columns["experiment"] = [row.experiment for row in found.rows]
    columns["network"] = [row.network for row in found.rows]
    columns["setting"] = [variant(row) for row in found.rows]
    columns["images"] = [row.images for row in found.rows]
    kept = [name for name, cells in columns.items() if name == "network" or len({*cells}) > 1]
    return kept, [[columns[name][at] for name in kept] for at in range(len(found.rows))]


def short_names(found: Rows) -> list[str]:
    """Returns a short, unique name of each row."""
    names = [row.runs[0].name if found.each else row.network for row in found.rows]
    for more in (variant, lambda row: row.experiment, lambda row: row.images):
        count = Counter(names)
        names = [
            f"{name} {more(row)}".strip() if count[name] > 1 else name
            for name, row in zip(names, found.rows, strict=True)
        ]
    return names


def variant(row: Row) -> str:
    """Returns the first few settings that distinguish a row from similar rows."""
    items = [f"{key}={value}" for key, value in row.variant.items()]
    more = f", … {len(items) - LONGEST} more" if len(items) > LONGEST else ""
    return ", ".join(items[:LONGEST]) + more


def tables(
    found: Rows,
    *,
    detectors: Sequence[str],
    sets: bool = False,
    blocks: bool = False,
    paper: Paper | None = None,
) -> list[Table]:
    """Returns a table of the networks, one table per metric, and the optional tables.

    Args:
        found: The comparison.
        detectors: Detectors to show.
        sets: Whether to add tables per OOD set to those of the average.
        blocks: Whether to add a table of blocks per row.
        paper: Numbers of the paper, which add a table beside ours.
    """
    result = [network_table(found)]
    for source in ("average", *(found.sources if sets else [])):
        result += [metric_table(found, detectors, metric, source) for metric in METRICS]
    if blocks:
        result += [
            block_table(name, row, found.sources, paper)
            for name, row in zip(short_names(found), found.rows, strict=True)
            if row.runs[0].auroc_by_block
        ]
    if paper and any(paper.network(row) for row in found.rows):
        result.append(paper_table(found, paper))
    return result


def network_table(found: Rows) -> Table:
    """Returns the table of networks: accuracy, selected block, gap and rank correlation."""
    header, body = labels(found)
    for cells, row in zip(body, found.rows, strict=True):
        runs = row.runs
        count = row.selected
        blocks = [f"{block} ×{n}" if len(runs) > 1 else block for block, n in count.items()]  # noqa: RUF001
        known = runs[0].blocks
        depths = [str(known.index(block) + 1) for block in count if block in known]
        cells += [
            str(runs[0].seeds.get("seed", MISSING)) if found.each else str(len(runs)),
            percent(row.sample(lambda run: run.accuracy), row),
            ", ".join(blocks) or MISSING,
            f"{', '.join(depths)} of {len(known)}" if depths else MISSING,
            plain(row.sample(lambda run: run.norm_ratio)),
            percent(row.sample(lambda run: run.gap), row),
            plain(row.sample(lambda run: run.spearman()), digits=2),
        ]
    more = ["seed" if found.each else "n", "accuracy", "selected block", "depth", "NormRatio"]
    names = len(header)
    left = {*range(names), names + more.index("selected block")}
    return Table("Networks", [*header, *more, "gap", "Spearman"], body, names, left, set())


def block_table(name: str, row: Row, sources: Sequence[str], paper: Paper | None) -> Table:
    """Returns NormRatio and AUROC of FeatureNorm at each block, and their rank correlation."""
    shown = ["average", *sources]
    known = row.runs[0].blocks
    digitised = paper.blocks(row) if paper else {}
    lines: list[list[Sample | None]] = []
    body = []
    for at, block in enumerate(known):
        count, runs = row.selected.get(block, 0), len(row.runs)
        mark = (" (selected)" if runs == 1 else f" (selected ×{count})") if count else ""  # noqa: RUF001
        norm_ratio = row.sample(partial(norm_ratio_of, block=block))
        aurocs = [row.score(Column(FEATURE_NORM, block).name, "auroc", source) for source in shown]
        lines.append([norm_ratio, *aurocs])
        cells = [plain(norm_ratio, digits=4), *(percent(auroc, row) for auroc in aurocs)]
        published = [f"{column[at]:g}" for column in digitised.values()]
        body.append([f"{block}{mark}", *cells, *published])
    best = {
        (at, column + 1)
        for column, samples in enumerate(zip(*lines, strict=True))
        for at, sample in enumerate(samples)
        if sample and sample.mean == max(each.mean for each in samples if each)
    }
    order = [row.sample(partial(Run.spearman, source=source)) for source in shown]
    correlations = [plain(sample, digits=2) for sample in order]
    body.append(["Spearman", "", *correlations, *("" for _ in digitised)])
    header = ["block", "NormRatio", *shown, *digitised]
    return Table(f"{name}: NormRatio and AUROC of FeatureNorm", header, body, 0, {0}, best)


def norm_ratio_of(run: Run, block: str) -> float | None:
    """Returns the NormRatio of a block, or None if the run does not have the block."""
    norm_ratio: float | None = run.metrics["norm_ratio"].get(block)
    return norm_ratio


def plain(sample: Sample | None, digits: int = 3) -> str:
    """Returns a number with its spread, not in percent."""
    if sample is None:
        return MISSING
    spread = "" if sample.std is None else f" ± {sample.std:.{digits}f}"
    return f"{sample.mean:.{digits}f}{spread}"


def metric_table(found: Rows, detectors: Sequence[str], metric: str, source: str) -> Table:
    """Returns a metric on an OOD set. More than `WIDE` detectors become rows, not columns."""
    header, names = labels(found)
    scores = [[row.score(name, metric, source) for name in detectors] for row in found.rows]
    cells = [
        [percent(score, row) for score in line]
        for line, row in zip(scores, found.rows, strict=True)
    ]
    best = {
        (at, column)
        for at, line in enumerate(scores)
        if len(known := [score.mean for score in line if score]) > 1
        for column, score in enumerate(line)
        if score and score.mean == (max(known) if metric == "auroc" else min(known))
    }
    title = f"{'Average' if source == 'average' else source}: {NAMES[metric]}"
    if len(detectors) <= WIDE:
        body = [[*name, *line] for name, line in zip(names, cells, strict=True)]
        moved = {(at, len(header) + column) for at, column in best}
        left = {*range(len(header))}
        return Table(title, [*header, *detectors], body, len(header), left, moved)
    turned = [
        [name, *column] for name, column in zip(detectors, zip(*cells, strict=True), strict=True)
    ]
    runs = short_names(found)
    moved = {(column, at + 1) for at, column in best}
    return Table(title, ["detector", *runs], turned, 0, {0}, moved)


def paper_table(found: Rows, paper: Paper) -> Table:
    """Returns our AUROC and fpr95_id_pos beside the published numbers."""
    header, names = labels(found)
    body = []
    for name, row in zip(names, found.rows, strict=True):
        for detector in found.detectors:
            for source in found.sources:
                published = paper.score(row, detector, source)
                if published and row.score(detector, "auroc", source):
                    ours = [percent(row.score(detector, m, source), row) for m in METRICS[:2]]
                    theirs = [f"{value:.1f}" for value in published]
                    body.append([*name, detector, source, ours[0], theirs[0], ours[1], theirs[1]])
    more = ["detector", "set", "AUROC", "paper", "fpr95_id_pos", "paper"]
    left = {*range(len(header) + 2)}
    return Table("Beside the paper", [*header, *more], body, len(header), left, set())


def best_detectors(found: Rows, most: int) -> list[str]:
    """Returns the first detector and the best of the others, in their original order.

    A detector that more rows have is better; among equals, the one with the larger average AUROC.
    """

    def rank(name: str) -> tuple[int, float]:
        scores = [row.score(name, "auroc") for row in found.rows]
        known = [score.mean for score in scores if score]
        return len(known), fmean(known)

    ranked = sorted(found.detectors[1:], key=rank, reverse=True)
    shown = {*found.detectors[:1], *ranked[: most - 1]}
    return [name for name in found.detectors if name in shown]


def notes_of(found: Rows, shown: Sequence[str], paper: Paper | None) -> list[str]:
    """Returns the notes of the comparison, of the paper and of the detectors left out."""
    notes = [*found.notes, *(paper.notes(found) if paper else [])]
    if len(shown) < len(found.detectors):
        notes.append(
            f"showing {len(shown)} of {len(found.detectors)} detectors; for all: "
            "--detectors all or --output"
        )
    return notes

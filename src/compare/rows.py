"""Groups runs into rows. The runs of a row differ only in their seeds."""

__all__ = ["MISSING", "Row", "Rows", "Sample", "compare"]

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from statistics import fmean, stdev
from typing import Any, NamedTuple

from src.compare.runs import METRICS, Run

MISSING = "–"  # noqa: RUF001 (an en dash, as in any printed table)
Read = Callable[[Run], float | None]


class Sample(NamedTuple):
    """Mean over n runs, and their sample standard deviation if n is at least 2."""

    mean: float
    std: float | None
    n: int


class Row:
    """Runs of one experiment and one network.

    Args:
        runs: Runs that differ only in their seeds.

    Attributes:
        variant: Settings that differ from rows of the same experiment and network: key -> value.
        images: Letter of the test images if rows have different ones, else an empty string.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self.experiment: str = runs[0].metrics["experiment"]
        self.network: str = runs[0].metrics["network"]
        self.variant: dict[str, str] = {}
        self.images = ""

    def sample(self, read: Read) -> Sample | None:
        """Returns the sample of a number over the runs that have it, or None if no run has it."""
        values = [value for value in map(read, self.runs) if value is not None]
        if not values:
            return None
        return Sample(fmean(values), stdev(values) if len(values) > 1 else None, len(values))

    def score(self, detector: str, metric: str, source: str = "average") -> Sample | None:
        """Returns the sample of a metric of a detector."""
        return self.sample(lambda run: run.score(detector, metric, source))

    @property
    def selected(self) -> dict[str, int]:
        """Number of runs that selected each block, the most frequent block first."""
        blocks = Counter(run.metrics["selected_block"] for run in self.runs)
        return {block: count for block, count in blocks.most_common() if block is not None}


class Rows(NamedTuple):
    """A comparison: sorted rows, the detectors and OOD sets they have, and notes."""

    rows: list[Row]
    detectors: list[str]
    sources: list[str]  # OOD sets and groups of OOD sets
    notes: list[str]
    each: bool  # whether each run has its own row


def compare(
    runs: Sequence[Run],
    left_out: Sequence[str] = (),
    *,
    each: bool = False,
    sort: str | None = None,
) -> Rows:
    """Returns a comparison with one row per experiment and network.

    Args:
        runs: At least one run.
        left_out: Messages about what was left out, for the notes.
        each: Whether each run gets its own row.
        sort: Sort key, see `ordered`. None sorts by the average AUROC of FeatureNorm.

    Raises:
        ValueError: If the sort key is unknown.
    """
    groups: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        name = run.metrics["experiment"], run.metrics["network"], run.images, tuple(run.blocks)
        groups[(*name, *sorted(run.setting.items()), run.path if each else None)].append(run)
    notes = [f"left out: {message}" for message in left_out]
    rows = []
    for group in groups.values():
        kept = list({repr(run.seeds) if run.seeds else run.path: run for run in group}.values())
        rows.append(Row(kept))
        notes += [
            f"left out: {run.path}: same configuration and seed as a later run"
            for run in group
            if run not in kept
        ]
    tell_apart(rows)
    notes += [*name_images(rows), *mixed_versions([run for row in rows for run in row.runs])]
    detectors = list(dict.fromkeys(name for run in runs for name in run.detectors))
    sources = [
        source
        for run in runs
        for name in run.detectors
        for source in run.results[name]
        if source != "average"
    ]
    found = Rows(rows, detectors, list(dict.fromkeys(sources)), notes, each)
    return found._replace(rows=ordered(found, sort))


def tell_apart(rows: Sequence[Row]) -> None:
    """Sets the variant of rows that share experiment and network."""
    same: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        same[row.experiment, row.network].append(row)
    for alike in same.values():
        settings = [row.runs[0].setting for row in alike if row.runs[0].setting]
        keys = list(dict.fromkeys(key for setting in settings for key in setting))
        differ = [key for key in keys if len({setting.get(key) for setting in settings}) > 1]
        common = {*alike[0].runs[0].detectors}.intersection(*(r.runs[0].detectors for r in alike))
        for row in alike if len(alike) > 1 else []:
            row.variant = telling(row.runs[0], differ, common)


def telling(run: Run, differ: Sequence[str], common: set[str]) -> dict[str, str]:
    """Returns the differing settings of a run.

    If only some runs have a detector, the number of detectors stands for its settings.
    """
    if not run.setting:
        return {"config.yaml": "none"}
    last = Counter(key.rpartition(".")[2] for key in differ)
    found: dict[str, str] = {}
    for key in differ:
        group, _, rest = key.partition(".")
        if group == "detectors" and rest.partition(".")[0] not in common:
            found["detectors"] = str(len(run.detectors))
        else:
            name = key.rpartition(".")[2]
            found[name if last[name] == 1 else key] = run.setting.get(key, MISSING)
    return found


def name_images(rows: Sequence[Row]) -> list[str]:
    """Gives rows with different test images different letters; returns notes that explain them."""
    kinds = list(dict.fromkeys(row.runs[0].images for row in rows))
    if len(kinds) == 1:
        return []
    letters = {kind: chr(ord("A") + at % 26) + "'" * (at // 26) for at, kind in enumerate(kinds)}
    for row in rows:
        row.images = letters[row.runs[0].images]
    notes = ["rows with different letters were measured on different images:"]
    for (protocol, sets), letter in letters.items():
        counts = ", ".join(f"{name} {count:,}" for name, count, _ in sets)
        digest = next((digest[:8] for _, _, digest in sets if digest), "")
        facts = [f"protocol {protocol}"] * bool(protocol) + [f"SHA-256 {digest}…"] * bool(digest)
        notes.append(f"{letter}: {counts}" + f" ({', '.join(facts)})" * bool(facts))
    return notes


def mixed_versions(runs: Sequence[Run]) -> list[str]:
    """Returns a note about each package whose version differs between runs."""
    versions = [run.metrics.get("versions") or {} for run in runs]
    notes = []
    for package in dict.fromkeys(name for each in versions for name in each):
        found = Counter(each.get(package, "unknown") for each in versions)
        if len(found) > 1:
            counts = ", ".join(f"{version} ({n})" for version, n in found.items())
            notes.append(f"different versions of {package} (number of runs): {counts}")
    return notes


def ordered(found: Rows, sort: str | None) -> list[Row]:
    """Returns the rows sorted by a key, best first. Rows without a value come last.

    Args:
        found: The comparison.
        sort: "experiment", "network", "seed", or a key of `reader`.

    Raises:
        ValueError: If the key is unknown.
    """
    if sort in ("experiment", "network", "seed"):
        return sorted(found.rows, key=partial(name_of, key=sort))
    if sort is None:
        if not found.detectors:
            return found.rows
        sort = "featurenorm" if "featurenorm" in found.detectors else (found.detectors[0])
    read, best_is_large = reader(found, sort)
    sign = -1 if best_is_large else 1
    sample = [(row, row.sample(read)) for row in found.rows]
    present = [(sign * value.mean, at) for at, (_, value) in enumerate(sample) if value]
    missing = [row for row, value in sample if value is None]
    return [sample[at][0] for _, at in sorted(present)] + missing


def name_of(row: Row, key: str) -> tuple[int, str]:
    """Returns the sort key of a row: its experiment, network or seed."""
    if key == "seed":
        seed = row.runs[0].seeds.get("seed", -1)
        return (seed, "") if isinstance(seed, int) else (-1, str(seed))
    return 0, row.experiment if key == "experiment" else row.network


def reader(found: Rows, key: str) -> tuple[Read, bool]:
    """Returns a function that reads a number from a run, and whether larger is better.

    Args:
        found: Comparison with the known detectors and OOD sets.
        key: "accuracy", "norm_ratio", "gap", or DETECTOR[.SET][.METRIC]. The default set is the
            average, the default metric is AUROC.

    Raises:
        ValueError: If the key is unknown.
    """
    if key in ("accuracy", "norm_ratio", "gap"):
        return attrgetter(key), key != "gap"
    detector, *rest = key.split(".")
    metric = rest.pop() if rest and rest[-1] in METRICS else METRICS[0]
    source = ".".join(rest) or "average"
    if detector not in found.detectors or source not in ("average", *found.sources):
        raise ValueError(
            f"expected a sort key, got {key!r}; choose experiment, network, seed, "
            "accuracy, norm_ratio, gap, or DETECTOR[.SET][.METRIC] of detectors "
            f"{', '.join(found.detectors)}, sets {', '.join(found.sources)}, and metrics "
            f"{', '.join(METRICS)}"
        )
    return partial(Run.score, detector=detector, metric=metric, source=source), metric == "auroc"

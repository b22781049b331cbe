"""The report of a finished run: its files first, then the loggers."""

__all__ = ["METRICS", "FinishedRun", "ood_results", "write_report"]

import csv
import json
import logging
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning.pytorch.loggers import Logger

from src.metrics.matching import matching
from src.metrics.ood import ood_metrics
from src.metrics.score_table import Scores
from src.records.atomic import try_to_write
from src.records.git_state import git_state
from src.records.history import read_history, read_selection, read_stability
from src.records.literal import csv_cell
from src.report.blocks import BlockWeights, Results
from src.report.drawing import drawn
from src.report.evidence import evidence_of
from src.report.figures import figures_of, save_figures
from src.report.media import log_report
from src.report.page import write_page
from src.report.samples import Pictures, sample_figures

METRICS = ("auroc", "fpr95_id_pos", "fpr95_ood_pos", "aupr_in", "aupr_out", "detection_error")
log = logging.getLogger(__name__)
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics")


@dataclass(frozen=True)
class FinishedRun:
    """A run that has scored all of its images.

    Attributes:
        run_dir: Directory of the run; its `norm_ratio.csv` is drawn and logged if it exists.
        scores: The score table.
        experiment: Name of the experiment.
        network: Name of the network.
        selected_block: The selected block; None if no block was selected.
        norm_ratio: NormRatio of each block, by depth; may be empty.
        forward_passes: Number of forward passes of the benchmark.
        seconds: Wall time of each stage.
        data: Facts about the images, see `ImageData.facts`: protocol, groups, classes, sets.
        block_weights: Detector -> block -> input -> weight; see `Detector.block_weights`.
        pictures: Returns the images of a source; without it no image is shown.
        step: Number of training steps, at which the results are logged.
        is_complete: Whether the disk holds all earlier files of the run.
        criterion: Criterion that selected the block.
        value: Its value of each block, by depth; None if it is NormRatio.
    """

    run_dir: Path
    scores: Scores
    experiment: str
    network: str
    selected_block: str | None
    norm_ratio: Mapping[str, float]
    forward_passes: int
    seconds: Mapping[str, float]
    data: Mapping[str, Any] = field(default_factory=dict)
    block_weights: BlockWeights = field(default_factory=dict)
    pictures: Pictures | None = None
    step: int = 0
    is_complete: bool = True
    criterion: str = "norm_ratio"
    value: Mapping[str, float] | None = None


def write_report(run: FinishedRun, loggers: Sequence[Logger] = ()) -> dict[str, Any]:
    """Writes `scores.npz`, `ood.csv`, `metrics.json`, then figures and page; then logs them.

    One process calls it. `metrics.json` marks a finished run: what is drawn later from the same
    numbers can cost nothing but itself. It exists if and only if all files before it do. A file
    that does not fit on a full disk is left out with a warning; `report.html` is the last one.

    Args:
        run: The run.
        loggers: Receive the results; those of `src.loggers` also figures, charts and images.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: If a score is NaN or infinite; `scores.npz` is written all the same.
    """
    run.run_dir.mkdir(parents=True, exist_ok=True)
    has_scores = try_to_write(run.run_dir / "scores.npz", run.scores.save)
    results = ood_results(run.scores, run.data.get("groups", {}))
    has_table = try_to_write(run.run_dir / "ood.csv", lambda path: save_results(path, results))
    metrics = metrics_of(run, results)
    tell_order(run.scores, run.data.get("classes", ()))
    text = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    has_metrics = (
        run.is_complete
        and has_scores
        and has_table
        and try_to_write(run.run_dir / "metrics.json", lambda path: path.write_text(text))
    )
    history = read_history(run.run_dir)
    evidence = drawn("what the scores show", lambda: evidence_of(run.scores, metrics, history))
    figures: list[Path] = []
    if evidence is not None:
        figures = save_figures(run.run_dir, figures_of(evidence))
        figures += save_figures(run.run_dir, sample_figures(evidence, run.pictures), colors=256)
    if has_metrics and all(path.exists() for path in figures):
        page = run.run_dir / "report.html"
        if drawn(page.name, lambda: write_page(run.run_dir)) is None:
            text = "This page could not be drawn; the numbers are in metrics.json."
            try_to_write(page, lambda path: path.write_text(text))
    log_report(
        run.run_dir, metrics, evidence, figures, loggers, step=run.step, pictures=run.pictures
    )
    return metrics


def metrics_of(run: FinishedRun, results: Results) -> dict[str, Any]:
    """Returns the content of `metrics.json`."""
    accuracy = run.scores.id_accuracy
    return {
        "experiment": run.experiment,
        "network": run.network,
        "selected_block": run.selected_block,
        "norm_ratio": dict(run.norm_ratio),
        "selection": how_selected(run),
        "block_weights": dict(run.block_weights),
        "selection_stability": read_stability(run.run_dir),
        "id_accuracy": None if math.isnan(accuracy) else accuracy,
        "counts": run.scores.counts,
        "data": dict(run.data),
        "detectors": results,
        "forward_passes": run.forward_passes,
        "seconds": dict(run.seconds),
        "versions": versions(),
    }


def how_selected(run: FinishedRun) -> dict[str, Any]:
    """Returns criterion and values, and standard errors and ties if this run measured them."""
    value = run.norm_ratio if run.value is None else run.value
    if not value:
        return {}
    facts = {"criterion": run.criterion, "value": dict(value)}
    written = read_selection(run.run_dir)
    written.pop("epoch", None)
    is_of_this = facts.items() <= written.items()  # not of older weights, if the disk was full
    return written if is_of_this else facts


def tell_order(scores: Scores, classes: Sequence[str]) -> None:
    """Warns if the network seems to know the ID classes in another order than the data."""
    is_id = scores.source == 0
    found = matching(scores.label[is_id], scores.prediction[is_id])
    if found is None or not found.is_suspicious:
        return
    label, called = (
        classes[k] if k < len(classes) else str(k) for k in (found.label, found.called)
    )
    log.warning(
        "expected labels in the order of the network, got an ID accuracy of %.1f %%, which would "
        "be %.1f %% in another order: the network means %r where it says %r; check the order of "
        "the classes (natural_order=true sorts numbers as numbers, as timm does)",
        *(100 * found.accuracy, 100 * found.matched, label, called),
    )


def versions() -> dict[str, str]:
    """Returns the versions of Python, of the main packages and, if known, of this project."""
    found = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    if state := git_state():
        found["commit"] = state["commit"] + ("-dirty" if state["dirty"] else "")
    return found


def ood_results(
    scores: Scores, groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns the OOD metrics of each detector on each OOD set, and their unweighted means.

    Without an OOD set there are none.

    Args:
        scores: The score table.
        groups: Name -> OOD sets to average; "average" is the mean over all of them.

    Raises:
        ValueError: If a score is NaN or infinite.
    """
    results: dict[str, dict[str, dict[str, float]]] = {}
    for column, detector in enumerate(scores.detectors):
        of = {source: scores.of(source)[:, column] for source in scores.sources}
        for source, score in of.items():
            if not score.isfinite().all():
                raise ValueError(
                    f"expected finite scores, got NaN or infinity from {detector!r} on "
                    f"{source!r}; scores.npz was kept: inspect it, then fix or remove the detector"
                )
        each = {source: ood_metrics(of["id"], of[source]) for source in scores.sources[1:]}
        averaged = {**(groups or {}), "average": tuple(each)} if each else {}
        means = {
            group: {key: fmean(each[source][key] for source in members) for key in METRICS}
            for group, members in averaged.items()
        }
        results[detector] = each | means
    return results


def save_results(path: Path, results: Results) -> None:
    """Writes a CSV file with one row per detector and OOD set, group or average."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("detector", "source", *METRICS))
        writer.writeheader()
        for detector, each in results.items():
            for source, row in each.items():
                named = {"detector": csv_cell(detector), "source": csv_cell(source)}
                writer.writerow(named | dict(row))

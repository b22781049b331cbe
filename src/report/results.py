"""What a finished run leaves behind: files first, then the loggers. One process calls it."""

__all__ = ["METRICS", "ood_results", "write_report"]

import csv
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning.pytorch.loggers import Logger

from src.metrics.ood import ood_metrics
from src.metrics.score_table import Scores
from src.records.atomic import try_to_write
from src.records.git_state import git_state
from src.records.history import read_stability
from src.report.figures import save_figures
from src.report.media import log_report
from src.report.page import write_page
from src.report.samples import Pictures, save_sample_figures

Results = dict[str, dict[str, dict[str, float]]]
METRICS = ("auroc", "fpr95_id_pos", "fpr95_ood_pos", "aupr_in", "aupr_out", "detection_error")
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics")


def write_report(
    run_dir: Path,
    scores: Scores,
    *,
    experiment: str,
    network: str,
    selected_block: str | None,
    norm_ratio: Mapping[str, float],
    forward_passes: int,
    seconds: Mapping[str, float],
    data: Mapping[str, Any] | None = None,
    loggers: Sequence[Logger] = (),
    step: int = 0,
    complete: bool = True,
    pictures: Pictures | None = None,
) -> dict[str, Any]:
    """Writes `scores.npz`, `ood.csv`, `figures/`, `metrics.json`, `report.html`; then logs them.

    `metrics.json` marks a finished run: what cannot be made again of the files comes before it.

    What a full disk does not take is left out, with a warning; `metrics.json` is there if and only
    if everything is.

    Args:
        run_dir: directory of the run; its `norm_ratio.csv` is drawn and logged if it is there.
        scores: the score table.
        experiment: name of the experiment.
        network: name of the network.
        selected_block: the block that the method uses, if one was selected.
        norm_ratio: NormRatio of each block, by depth; may be empty.
        forward_passes: forward passes of the benchmark.
        seconds: wall time of each stage.
        data: `facts` of the images: protocol, groups, classes, what became of each set.
        loggers: receive the scalars; those of `src.loggers` also what there is to see.
        step: steps of the training, at which the results are logged.
        complete: whether all that came before is on the disk.
        pictures: gives the images of a set, to show those that confuse.

    Returns:
        The content of `metrics.json`.

    Raises:
        ValueError: if a score is NaN or infinite; `scores.npz` is written nevertheless.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    complete &= try_to_write(run_dir / "scores.npz", scores.save)
    data = data or {}
    results = ood_results(scores, data.get("groups", {}))
    complete &= try_to_write(run_dir / "ood.csv", lambda path: save_results(path, results))
    figures = save_figures(
        run_dir, scores, results, norm_ratio=norm_ratio, selected_block=selected_block
    )
    figures += save_sample_figures(
        run_dir,
        scores,
        selected_block=selected_block,
        classes=data.get("classes", ()),
        pictures=pictures,
    )
    metrics = {
        "experiment": experiment,
        "network": network,
        "selected_block": selected_block,
        "norm_ratio": dict(norm_ratio),
        "selection_stability": read_stability(run_dir),
        "id_accuracy": None if math.isnan(scores.id_accuracy) else scores.id_accuracy,
        "counts": scores.counts,
        "data": dict(data),
        "detectors": results,
        "forward_passes": forward_passes,
        "seconds": dict(seconds),
        "versions": versions(),
    }
    text = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    if complete and all(path.exists() for path in figures):
        try_to_write(run_dir / "metrics.json", lambda path: path.write_text(text))
        write_page(run_dir)
    log_report(run_dir, metrics, scores, figures, loggers, step=step, pictures=pictures)
    return metrics


def versions() -> dict[str, str]:
    """Returns what the run was made with; the commit of this project, if git knows it."""
    found = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    if state := git_state():
        found["commit"] = state["commit"] + ("-dirty" if state["dirty"] else "")
    return found


def ood_results(scores: Scores, groups: Mapping[str, Sequence[str]] | None = None) -> Results:
    """Returns the OOD metrics of each detector on each OOD set, and their unweighted means.

    Args:
        scores: the score table.
        groups: name -> OOD sets to average; "average" is that of all.

    Raises:
        ValueError: if a score is NaN or infinite.
    """
    results: Results = {}
    for column, detector in enumerate(scores.detectors):
        of = {source: scores.of(source)[:, column] for source in scores.sources}
        for source, score in of.items():
            if not score.isfinite().all():
                raise ValueError(
                    f"expected finite scores, got NaN or infinity from {detector!r} on "
                    f"{source!r}; scores.npz was kept: look there, then mend or drop the detector"
                )
        each = {source: ood_metrics(of["id"], of[source]) for source in scores.sources[1:]}
        means = {
            group: {key: fmean(each[source][key] for source in members) for key in METRICS}
            for group, members in {**(groups or {}), "average": tuple(each)}.items()
        }
        results[detector] = each | means
    return results


def save_results(path: Path, results: Results) -> None:
    """Writes one CSV row per detector and source."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("detector", "source", *METRICS))
        writer.writeheader()
        for detector, each in results.items():
            for source, row in each.items():
                writer.writerow({"detector": detector, "source": source} | row)

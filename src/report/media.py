"""What the loggers receive from a run: numbers to sort runs by, charts and images.

Its size does not grow with the number of detectors: charts, histograms and images show FeatureNorm
of the selected block and MSP; the summary, tables and figures hold all detectors.
"""

__all__ = ["log_report", "log_selection"]

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from src.loggers import Dispensable, Lines, Media
from src.records.columns import detector_columns
from src.records.history import read_history
from src.report.drawing import drawn
from src.report.evidence import Evidence, Roc
from src.report.samples import MOST_CLASSES, Pictures, images_of

MOST_LINES = 20  # epochs in the chart of NormRatio over depth
MOST_EPOCHS = 100  # in the chart of NormRatio over epochs
POINTS = 101  # of a ROC curve
SIDE = 96  # pixels of the longer side of an image


@rank_zero_only
def log_selection(run_dir: Path, loggers: Sequence[Logger], step: int) -> None:
    """Sends what the selection of the block measured; it needs no benchmark.

    Args:
        run_dir: Directory of the run; nothing is sent if it selected no block.
        loggers: Loggers of the trainer.
        step: Number of training steps so far.
    """
    history = read_history(run_dir)
    if history is None:
        return
    depth = range(1, len(history.block) + 1)
    norms = {"ID": history.norm_id[-1], "pseudo-OOD": history.norm_pseudo_ood[-1]}
    few, many = (evenly(len(history.epoch), most) for most in (MOST_LINES, MOST_EPOCHS))
    lines = {
        "norm_ratio_by_depth": Lines(
            "NormRatio over depth", "depth", depth,
            {f"epoch {history.epoch[row]}": history.ratio[row].tolist() for row in few},
        ),
        "norm_ratio_by_epoch": Lines(
            "NormRatio over epochs", "epoch", [history.epoch[row] for row in many],
            dict(zip(history.block, history.ratio[many].T.tolist(), strict=True)),
        ),
        "norm_by_depth": Lines(
            f"FeatureNorm over depth, epoch {history.epoch[-1]}", "depth", depth,
            {name: norm.tolist() for name, norm in norms.items()},
        ),
    }  # fmt: skip
    media = Media(tables={"tables/norm_ratio": history.file}, lines=lines)
    for logger in loggers:
        if isinstance(logger, Dispensable):
            logger.log_media(media, step)


def evenly(count: int, most: int) -> list[int]:
    """Returns at most `most` evenly spaced positions, with the first and the last."""
    picked: list[int] = np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    return picked


def log_report(
    run_dir: Path,
    metrics: Mapping[str, Any],
    evidence: Evidence | None,
    figures: Sequence[Path],
    loggers: Sequence[Logger],
    *,
    step: int,
    pictures: Pictures | None = None,
) -> None:
    """Sends `ood/<source>/<detector>/<metric>` to every logger, and charts and images to ours.

    Results of single blocks are only in the tables: hundreds of charts with one point each would
    hide the others. Charts and images are sent once the run is complete.

    Args:
        run_dir: Directory of the run.
        metrics: The content of `metrics.json`.
        evidence: What the scores of the run show; without it, no chart or image is sent.
        figures: PNG files.
        loggers: Loggers of the trainer.
        step: Number of training steps, at which the results are logged.
        pictures: Returns the images of a source; without it no image is sent.
    """
    results = metrics["detectors"]
    detectors = detector_columns(results)
    named = keys_of(detectors)
    sources = keys_of(source for name in detectors for source in results[name])
    scalars = {
        f"ood/{sources[source]}/{named[detector]}/{key}": value
        for detector in detectors
        for source, row in results[detector].items()
        for key, value in row.items()
    }
    facts = {key: metrics[key] for key in ("selected_block", "id_accuracy")}
    ours = [logger for logger in loggers if isinstance(logger, Dispensable)]
    media = None
    if ours and evidence is not None and (run_dir / "metrics.json").exists():
        media = drawn("charts", lambda: media_of(run_dir, evidence, figures, pictures))
    for logger in loggers:
        if isinstance(logger, Dispensable):
            logger.log_results(scalars, facts, step)
            if media is not None:
                logger.log_media(media, step)
        else:
            logger.log_metrics(scalars, step)
        logger.save()


def keys_of(names: Iterable[str]) -> dict[str, str]:
    """Returns each name as a part of a key, for backends that make a path of it, and unique."""
    keys: dict[str, str] = {}
    for name in dict.fromkeys(names):
        key = plain = re.sub(r"\W", "_", name)
        count = 1
        while key in keys.values():
            count += 1
            key = f"{plain}_{count}"
        keys[name] = key
    return keys


def media_of(
    run_dir: Path, evidence: Evidence, figures: Sequence[Path], pictures: Pictures | None
) -> Media:
    """Returns the figures, tables, charts and images of a finished run."""
    shown, confusion = evidence.featured, evidence.confusion
    sources, detectors = keys_of(evidence.roc), keys_of(shown)
    weighed = keys_of(evidence.weights)
    return Media(
        figures={f"figures/{path.stem}": path for path in figures},
        tables={"tables/ood": run_dir / "ood.csv"},
        lines={
            f"roc/{sources[source]}": roc_lines(source, {name: curves[name] for name in shown})
            for source, curves in evidence.roc.items()
            if shown
        }
        | {
            f"block_weights/{weighed[name]}": weight_lines(name, weights)
            for name, weights in evidence.weights.items()
            if {*weights} - {"logits"}
        },
        histograms={f"scores/{detectors[name]}": evidence.histograms[name] for name in shown},
        images=samples(evidence, pictures) if pictures else {},
        confusion=confusion if confusion and len(confusion.names) <= MOST_CLASSES else None,
    )


def roc_lines(source: str, curves: Mapping[str, Roc]) -> Lines:
    """Returns the ROC curves of an OOD set at evenly spaced shares of accepted OOD images."""
    share = np.linspace(0, 1, POINTS)
    y = {name: curve.at(share).tolist() for name, curve in curves.items()}
    title = f"ROC: share of ID accepted, against {source}"
    return Lines(title, "share of OOD accepted", share.tolist(), y)


def weight_lines(name: str, weights: Mapping[str, Mapping[str, float | None]]) -> Lines:
    """Returns the weights of a detector over depth, one line for each input of the blocks."""
    blocks = [each for block, each in weights.items() if block != "logits"]
    inputs = dict.fromkeys(key for each in blocks for key in each)
    y = {key: [each.get(key) or 0.0 for each in blocks] for key in inputs}
    return Lines(f"weights of {name} over depth", "depth", range(1, len(blocks) + 1), y)


def samples(evidence: Evidence, pictures: Pictures) -> dict[str, list[tuple[Image.Image, str]]]:
    """Returns the images at both ends of the scores of each source, with score and class."""
    sources = keys_of(evidence.extremes)
    return {
        f"samples/{sources[source]}/{end}": [
            (to_size(image), f"{score} {name}")
            for image, (score, name) in zip(
                images_of(pictures, source, extremes), extremes.captions, strict=True
            )
        ]
        for source, ends in evidence.extremes.items()
        for end, extremes in ends.items()
    }


def to_size(pixels: Any) -> Image.Image:
    """Returns (H, W, C) uint8 pixels as a small image; a tiny one is enlarged by whole pixels."""
    enlarged = pixels.repeat(times := max(1, SIDE // max(pixels.shape[:2])), 0).repeat(times, 1)
    image = Image.fromarray(enlarged.repeat(3, 2) if pixels.shape[2] == 1 else enlarged)
    image.thumbnail((SIDE, SIDE))
    return image

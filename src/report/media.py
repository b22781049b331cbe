"""What the loggers are told of a finished run: numbers to sort by, and a few things to look at.

How much there is to see does not grow with the detectors: charts, histograms and images are of
FeatureNorm of the selected block and of MSP; all detectors are in summary, tables and figures.
"""

__all__ = ["log_report", "log_selection"]

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from src.loggers import Dispensable, Histograms, Lines, Media
from src.metrics.ood import accepted
from src.metrics.score_table import Scores
from src.records.columns import chosen_column, detector_columns
from src.records.history import read_history
from src.report.samples import MOST_CLASSES, Pictures, confusions

BASELINE = "msp"
MOST_LINES = 20  # epochs in the chart of NormRatio over depth
MOST_EPOCHS = 100  # in that over epochs
BINS = 40
POINTS = 101  # of a ROC curve
SHOWN = 8  # images at either end of the scores of a set
SIDE = 96  # pixels of the longer side of an image


@rank_zero_only
def log_selection(run_dir: Path, loggers: Sequence[Logger], step: int) -> None:
    """Sends what the selection measured, once it is through: before the benchmark, or without one.

    Args:
        run_dir: directory of the run; without a `norm_ratio.csv` nothing is sent.
        loggers: of the trainer.
        step: steps of the training.
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
    """Returns at most so many positions of a sequence, the first and the last among them."""
    picked: list[int] = np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    return picked


def log_report(
    run_dir: Path,
    metrics: Mapping[str, Any],
    scores: Scores,
    figures: Sequence[Path],
    loggers: Sequence[Logger],
    *,
    step: int,
    pictures: Pictures | None = None,
) -> None:
    """Sends `ood/<source>/<detector>/<metric>` to every logger, and what there is to see.

    Columns of single blocks stay in the tables: hundreds of one-point charts hide the rest. What
    there is to see is sent once: when the run is complete.

    Args:
        run_dir: directory of the run.
        metrics: the content of `metrics.json`.
        scores: the score table.
        figures: PNG files.
        loggers: of the trainer.
        step: steps of the training, at which the results are logged.
        pictures: gives the images of a set.
    """
    scalars = {
        "/".join(("ood", *(re.sub(r"\W", "_", part) for part in (source, detector, key)))): value
        for detector in detector_columns(metrics["detectors"])
        for source, row in metrics["detectors"][detector].items()
        for key, value in row.items()
    }
    facts = {key: metrics[key] for key in ("selected_block", "id_accuracy")}
    media = None
    for logger in loggers:
        if isinstance(logger, Dispensable):
            logger.log_results(scalars, facts, step)
            if (run_dir / "metrics.json").exists():
                media = media or media_of(run_dir, metrics, scores, figures, pictures)
                logger.log_media(media, step)
        else:
            logger.log_metrics(scalars, step)
        logger.save()


def media_of(
    run_dir: Path,
    metrics: Mapping[str, Any],
    scores: Scores,
    figures: Sequence[Path],
    pictures: Pictures | None,
) -> Media:
    """Returns what there is to see of a finished run."""
    classes = metrics["data"].get("classes", ())
    chosen = chosen_column(scores.detectors, metrics["selected_block"])
    shown = [name for name in scores.detectors if name in (chosen, BASELINE)]
    lines = {f"roc/{source}": roc_lines(scores, source, shown) for source in scores.sources[1:]}
    images = {}
    if pictures is not None and chosen is not None:
        images = dict(samples(scores, chosen, pictures, classes))
    count, names = confusions(scores, classes)
    return Media(
        figures={f"figures/{path.stem}": path for path in figures},
        tables={"tables/ood": run_dir / "ood.csv"},
        lines=lines if shown else {},
        histograms={f"scores/{name}": score_histograms(scores, name) for name in shown},
        images=images,
        confusion=(count.numpy(), names) if 0 < len(names) <= MOST_CLASSES else None,
    )


def roc_lines(scores: Scores, source: str, detectors: Sequence[str]) -> Lines:
    """Returns the ROC curve (ID positive) of each detector on an OOD set, at even places."""
    grid = np.linspace(0, 1, POINTS)
    y = {}
    for name in detectors:
        column = scores.column(name)
        count = accepted(scores.of("id")[:, column], scores.of(source)[:, column])
        accepted_id, accepted_ood = (count / count[:, -1:]).numpy()
        y[name] = np.interp(grid, accepted_ood, accepted_id).tolist()
    title = f"ROC: share of ID accepted, against {source}"
    return Lines(title, "share of OOD accepted", grid.tolist(), y)


def score_histograms(scores: Scores, detector: str) -> Histograms:
    """Returns the scores of each source in common bins; what lies outside is in the outermost."""
    column = scores.column(detector)
    of = {source: scores.of(source)[:, column].numpy() for source in scores.sources}
    low, high = np.quantile(np.concatenate(list(of.values())), (0.002, 0.998))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    clipped = {source: np.clip(score, edges[0], edges[-1]) for source, score in of.items()}
    return Histograms(edges, {name: np.histogram(x, edges)[0] for name, x in clipped.items()})


def samples(
    scores: Scores, detector: str, pictures: Pictures, classes: Sequence[str]
) -> Iterator[tuple[str, list[tuple[Image.Image, str]]]]:
    """Yields the images of each source at either end of the scores, with score and class."""
    for number, source in enumerate(scores.sources):
        here = (scores.source == number).nonzero()[:, 0]
        score = scores.score[here, scores.column(detector)]
        order = score.argsort(stable=True)
        ends = {"lowest": order[:SHOWN], "highest": order.flip(0)[:SHOWN]}
        for end, place in ends.items():
            images = pictures(source, scores.index[here[place]]).permute(0, 2, 3, 1).numpy()
            said = [int(scores.prediction[row]) for row in here[place]]
            names = [str(classes[k]) if k < len(classes) else str(k) for k in said]
            values = score[place].tolist()
            captions = [f"{v:#.4g} {name}" for v, name in zip(values, names, strict=True)]
            yield f"samples/{source}/{end}", [*zip(map(to_size, images), captions, strict=True)]


def to_size(pixels: Any) -> Image.Image:
    """Returns (H, W, C) uint8 pixels as an image to look at: small ones enlarged, pixels whole."""
    enlarged = pixels.repeat(times := max(1, SIDE // max(pixels.shape[:2])), 0).repeat(times, 1)
    image = Image.fromarray(enlarged.repeat(3, 2) if pixels.shape[2] == 1 else enlarged)
    image.thumbnail((SIDE, SIDE))
    return image

"""What the scores of a finished run show: computed once, then drawn as figures, charts, images."""

__all__ = [
    "Confusion",
    "Evidence",
    "Extremes",
    "Roc",
    "best_of",
    "confusion_of",
    "evidence_of",
    "extremes_of",
    "histograms_of",
    "roc_of",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.loggers import Histograms
from src.metrics.ood import accepted
from src.metrics.score_table import Scores
from src.records.columns import block_columns, detector_columns
from src.records.history import Array, History
from src.report.blocks import (
    Block,
    BlockWeights,
    Results,
    blocks_of,
    chosen_of,
    criterion_of,
    weights_of,
)

BASELINE = "msp"
BINS = 40
OUTER = 0.002  # share of the scores that lies beyond either end of the bins
MOST_COMPARED = 8  # detectors in a figure: more lines cannot be told apart
MOST_IMAGES = 8  # at either end of the scores of a source
PSEUDO_OOD = "pseudo-OOD"


class Roc(NamedTuple):
    """ROC curve of a detector on an OOD set, from accepting no image to accepting every image."""

    accepted_ood: Array  # (V + 1,) share of the OOD images at or above each threshold
    accepted_id: Array  # (V + 1,) share of the ID images, which are the positive class

    def at(self, accepted_ood: Array) -> Array:
        """Returns the share of ID images accepted at given shares of OOD images.

        Values between two thresholds are interpolated; a vertical step counts with its upper end.
        """
        return np.interp(accepted_ood, self.accepted_ood, self.accepted_id)


class Extremes(NamedTuple):
    """The n images of a source at one end of a detector's scores, the most extreme first."""

    position: NDArray[np.int64]  # (n,) positions in the source
    score: Array  # (n,)
    predicted: list[str]  # n names of classes

    @property
    def captions(self) -> list[tuple[str, str]]:
        """Score and predicted class of each image, as text."""
        return [(f"{s:#.4g}", name) for s, name in zip(self.score, self.predicted, strict=True)]


class Confusion(NamedTuple):
    """How often the labelled ID images of each class are predicted as each of K classes."""

    counts: NDArray[np.int64]  # (K, K), classes as rows and predictions as columns
    names: list[str]  # K names of classes


@dataclass(frozen=True)
class Evidence:
    """What the scores of a finished run show.

    Attributes:
        results: OOD metrics of each detector.
        chosen: The detector that the report is about; None if there is no detector.
        compared: The first detector and the best others: at most eight, none of a single block;
            empty without an OOD set.
        featured: The chosen detector and MSP, as far as they were scored.
        roc: OOD set -> compared or featured detector -> ROC curve.
        histograms: Compared or featured detector -> its scores on every source.
        extremes: Source -> "lowest" or "highest" -> images by the score of the chosen detector.
        confusion: Confusion of the ID classes; None if no ID image is labelled.
        norms: Source, or "pseudo-OOD" -> (L,) mean FeatureNorm of each scored block, divided by
            that of ID images; empty if no block was scored.
        blocks: The table of blocks, by depth.
        weights: Weights of the first detectors that weigh blocks.
        history: NormRatio over the epochs; None if the run selected no block.
        criterion: How the criterion that selected is written.
    """

    results: Results
    chosen: str | None
    compared: list[str]
    featured: list[str]
    roc: Mapping[str, Mapping[str, Roc]]
    histograms: Mapping[str, Histograms]
    extremes: Mapping[str, Mapping[str, Extremes]]
    confusion: Confusion | None
    norms: Mapping[str, Array]
    blocks: list[Block]
    weights: BlockWeights
    history: History | None
    criterion: str


def evidence_of(
    scores: Scores, metrics: Mapping[str, Any], history: History | None = None
) -> Evidence:
    """Returns the evidence of a finished run.

    Args:
        scores: The score table.
        metrics: The content of `metrics.json`.
        history: NormRatio over the epochs, if it was measured; see `read_history`.
    """
    results, classes = metrics["detectors"], metrics["data"].get("classes", ())
    chosen = chosen_of(metrics)
    compared = best_of(results, detector_columns(results)) if scores.sources[1:] else []
    featured = [name for name in results if name in (chosen, BASELINE)]
    drawn = [name for name in results if name in {*compared, *featured}]
    return Evidence(
        results=results,
        chosen=chosen,
        compared=compared,
        featured=featured,
        roc={s: {name: roc_of(scores, s, name) for name in drawn} for s in scores.sources[1:]},
        histograms={name: histograms_of(scores, name) for name in drawn},
        extremes=extremes_of(scores, chosen, classes) if chosen else {},
        confusion=confusion_of(scores, classes),
        norms=norms_of(scores, history),
        blocks=blocks_of(metrics),
        weights=weights_of(metrics),
        history=history,
        criterion=criterion_of(metrics)[0],
    )


def best_of(results: Results, detectors: Sequence[str]) -> list[str]:
    """Returns the first detector and the others of largest average AUROC, in the order given."""
    ranked = sorted(detectors[1:], key=lambda name: -results[name]["average"]["auroc"])
    kept = {*detectors[:1], *ranked[: MOST_COMPARED - 1]}
    return [name for name in detectors if name in kept]


def column_of(scores: Scores, source: str, detector: str) -> Array:
    """Returns the (n,) scores of a detector on a source."""
    column: Array = scores.of(source)[:, scores.column(detector)].numpy()
    return column


def roc_of(scores: Scores, source: str, detector: str) -> Roc:
    """Returns the ROC curve of a detector on an OOD set, with a point for each distinct score."""
    column = scores.column(detector)
    count = accepted(scores.of("id")[:, column], scores.of(source)[:, column]).double()
    accepted_id, accepted_ood = (count / count[:, -1:]).numpy()
    return Roc(accepted_ood, accepted_id)


def histograms_of(scores: Scores, detector: str) -> Histograms:
    """Returns the scores on each source in the same bins; the outer bins hold what lies beyond."""
    of = {source: column_of(scores, source, detector) for source in scores.sources}
    low, high = np.quantile(np.concatenate(list(of.values())), (OUTER, 1 - OUTER))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    clipped = {source: np.clip(score, edges[0], edges[-1]) for source, score in of.items()}
    return Histograms(edges, {name: np.histogram(x, edges)[0] for name, x in clipped.items()})


def extremes_of(
    scores: Scores, detector: str, classes: Sequence[str]
) -> dict[str, dict[str, Extremes]]:
    """Returns the images of each source at both ends; of equal scores, the earlier image first.

    Args:
        scores: The score table.
        detector: Name of the detector.
        classes: Names of the ID classes; a class without a name is shown by its number.
    """
    found: dict[str, dict[str, Extremes]] = {}
    for number, source in enumerate(scores.sources):
        here = (scores.source == number).numpy()
        position, predicted = (x.numpy()[here] for x in (scores.index, scores.prediction))
        score = column_of(scores, source, detector)
        found[source] = {}
        for end, key in (("lowest", score), ("highest", -score)):
            rows = key.argsort(kind="stable")[:MOST_IMAGES]
            names = [str(classes[k]) if k < len(classes) else str(k) for k in predicted[rows]]
            found[source][end] = Extremes(position[rows], score[rows], names)
    return found


def confusion_of(scores: Scores, classes: Sequence[str]) -> Confusion | None:
    """Returns the confusion of the ID classes; None if no ID image is labelled.

    Args:
        scores: The score table.
        classes: Names of the ID classes; a class without a name is shown by its number.
    """
    labelled = (scores.source == 0) & (scores.label >= 0)
    label, prediction = scores.label[labelled].numpy(), scores.prediction[labelled].numpy()
    if not len(label):
        return None
    known = 1 + int(max(label.max(), prediction.max()))
    names = [*map(str, classes), *map(str, range(len(classes), known))]
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (label, prediction), 1)
    return Confusion(counts, names)


def norms_of(scores: Scores, history: History | None) -> dict[str, Array]:
    """Returns the mean FeatureNorm of each source at each block, divided by that of ID images.

    Args:
        scores: The score table.
        history: Gives the norm of the pseudo-OOD images if it is of the same blocks.
    """
    blocks = block_columns(scores.detectors)
    if not blocks:
        return {}
    column = [scores.column(name) for name in blocks.values()]
    mean = {source: scores.of(source)[:, column].mean(0).numpy() for source in scores.sources}
    norms: dict[str, Array] = {source: mean[source] / mean["id"] for source in scores.sources}
    if history and history.block == list(blocks):
        norms[PSEUDO_OOD] = history.norm_pseudo_ood[-1] / history.norm_id[-1]
    return norms

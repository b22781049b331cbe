"""What the scores of a run show is computed once, and each part of it obeys its own law."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from src.metrics import ood_metrics
from src.metrics.score_table import Scores
from src.records.history import read_history
from src.report.blocks import blocks_of
from src.report.evidence import (
    Confusion,
    best_of,
    confusion_of,
    evidence_of,
    extremes_of,
    histograms_of,
    norms_of,
    roc_of,
)
from src.report.results import ood_results
from tests import REPOSITORY
from tests.report.test_results import BLOCKS, NORM_RATIO, SOURCES, some_scores, write_history


def table(score: NDArray[np.float64], *, classes: int = 2) -> Scores:
    """One detector; the first half of the rows is ID, the second half "svhn"."""
    half = len(score) // 2
    row = [[s, i, -1 if s else i % classes, 1] for s in (0, 1) for i in range(half)]
    column = torch.from_numpy(score)[:, None]
    return Scores(("msp",), ("id", "svhn"), column, torch.tensor(row))


def test_only_the_evidence_reads_scores() -> None:
    for path in (REPOSITORY / "src/report").glob("*.py"):
        reads = "Scores" in path.read_text()
        assert reads == (path.stem in ("evidence", "results")), path.stem


@pytest.mark.parametrize("places", [1, 15])  # of a score: with ties, and without
def test_the_area_under_a_roc_curve_is_the_auroc(places: int) -> None:
    score = np.random.default_rng(0).normal(size=1000).round(places)
    curve = roc_of(table(score), "svhn", "msp")
    exact = ood_metrics(torch.from_numpy(score[:500]), torch.from_numpy(score[500:]))["auroc"]
    assert np.trapezoid(curve.accepted_id, curve.accepted_ood) == pytest.approx(exact, abs=1e-12)
    assert (curve.accepted_ood[0], curve.accepted_id[0]) == (0, 0)
    assert (curve.accepted_ood[-1], curve.accepted_id[-1]) == (1, 1)


def test_a_thinned_roc_curve_lies_on_the_curve() -> None:
    curve = roc_of(table(np.array([0.9, 0.6, 0.5, 0.2, 0.7, 0.4, 0.3, 0.1])), "svhn", "msp")
    # one ID image before any OOD image, two more between the first and the second, one before last
    assert curve.at(np.array([0, 0.125, 0.25, 0.75, 1])).tolist() == [0.25, 0.25, 0.75, 1, 1]


def test_histograms_hold_every_score() -> None:
    score = np.random.default_rng(0).normal(size=1000)
    score[0] = 1e9  # far out: in the outermost bin
    histograms = histograms_of(table(score), "msp")
    assert [count.sum() for count in histograms.counts.values()] == [500, 500]
    for density in histograms.density().y.values():
        assert np.dot(density, np.diff(histograms.edges)) == pytest.approx(1)


def test_a_constant_score_has_a_histogram() -> None:
    histograms = histograms_of(table(np.ones(10)), "msp")
    assert [count.sum() for count in histograms.counts.values()] == [5, 5]


def test_extremes_are_the_images_at_both_ends() -> None:
    scores = table(np.arange(40.0))
    ends = extremes_of(scores, "msp", ("cat", "dog"))["svhn"]
    assert ends["lowest"].position.tolist() == [*range(8)]
    assert ends["highest"].position.tolist() == [*range(19, 11, -1)]
    assert ends["highest"].score.tolist() == [*range(39, 31, -1)]
    assert ends["highest"].captions[:2] == [("39.00", "dog"), ("38.00", "dog")]


def test_of_equal_scores_the_earlier_image_comes_first_at_both_ends() -> None:
    ends = extremes_of(table(np.ones(40)), "msp", ())["id"]
    for end in ("lowest", "highest"):
        assert ends[end].position.tolist() == [*range(8)]
        assert ends[end].predicted == ["1"] * 8


def test_confusions_count_labelled_id_images_alone() -> None:
    scores = some_scores()
    found = confusion_of(scores, ["a", "b"])
    assert isinstance(found, Confusion)
    assert found.names == ["a", "b", *map(str, range(2, 10))]
    is_id = scores.source == 0
    for row in range(10):
        for column in range(10):
            both = (scores.label[is_id] == row) & (scores.prediction[is_id] == column)
            assert found.counts[row, column] == int(both.sum())
    scores.label = torch.full_like(scores.label, -1)
    assert confusion_of(scores, ["a", "b"]) is None


def test_norms_are_in_units_of_id_images(tmp_path: Path) -> None:
    write_history(tmp_path)
    scores = some_scores()
    norms = norms_of(scores, read_history(tmp_path / "norm_ratio.csv"))
    assert list(norms) == [*SOURCES, "pseudo-OOD"]
    assert norms["id"].tolist() == [1, 1, 1]
    mean = [float(scores.of(source)[:, 2].mean()) for source in ("svhn", "id")]
    assert norms["svhn"][0] == pytest.approx(mean[0] / mean[1])
    ratio = np.array(list(NORM_RATIO.values())) + 0.02
    np.testing.assert_allclose(norms["pseudo-OOD"], 1 / ratio)


def test_a_block_is_selected_by_norm_ratio_and_the_best_by_auroc() -> None:
    scores = some_scores()
    results = ood_results(scores)
    metrics = {
        "detectors": results, "norm_ratio": NORM_RATIO, "selected_block": "layer2.0", "data": {}
    }  # fmt: skip
    blocks = evidence_of(scores, metrics).blocks
    assert blocks == blocks_of(metrics)
    assert [block.name for block in blocks] == list(BLOCKS)
    assert [block.is_selected for block in blocks] == [False, True, False]
    auroc = [results[f"featurenorm@{block}"]["average"]["auroc"] for block in BLOCKS]
    assert [block.auroc for block in blocks] == auroc
    assert [block.is_best for block in blocks] == [each == max(auroc) for each in auroc]


def test_figures_compare_the_first_detector_and_the_best_others() -> None:
    auroc = [0.5, 0.9, 0.6, 0.8, 0.7, 0.95, 0.65, 0.85, 0.55, 0.75]
    results = {f"d{row}": {"average": {"auroc": value}} for row, value in enumerate(auroc)}
    assert best_of(results, list(results)) == [f"d{row}" for row in (0, 1, 3, 4, 5, 6, 7, 9)]
    assert best_of(results, ["d8", "d2"]) == ["d8", "d2"]
    assert best_of(results, []) == []

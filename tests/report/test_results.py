"""A finished run leaves complete, equal and readable files behind, or no metrics.json at all."""

import csv
import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from rich.console import Console

from src.loggers import wandb_logger
from src.metrics.ood import ood_metrics
from src.metrics.score_table import Scores
from src.records.history import read_history
from src.report.media import log_selection
from src.report.results import METRICS, FinishedRun, write_report
from src.report.tables import block_table, result_table
from tests.loggers.wandb_records import inspect

BLOCKS = ("layer1.0", "layer2.0", "layer3.0")
DETECTORS = ("featurenorm", "msp", *(f"featurenorm@{block}" for block in BLOCKS))
SOURCES = ("id", "svhn", "textures")
NORM_RATIO = {"layer1.0": 0.97, "layer2.0": 1.3, "layer3.0": 1.1}
WEIGHTS = {
    "norm_profile": {
        "layer1.0": {"norm": 0.5, "mean": -0.5},
        "layer2.0": {"norm": None, "mean": 2.0},
        "layer3.0": {"norm": -1.0, "mean": 0.0},
        "logits": {"energy": 1.5},
    }
}
FIGURES = (
    "norm_ratio_curves",
    "norm_ratio_by_depth",
    "block_weights",
    "norm_by_depth",
    "score_histograms",
    "roc",
    "confusion",
)
FACTS: dict[str, Any] = {
    "experiment": "resnet18_cifar10",
    "network": "resnet18",
    "selected_block": "layer2.0",
    "norm_ratio": NORM_RATIO,
    "block_weights": WEIGHTS,
    "forward_passes": 131,
    "seconds": {"train": 1.5, "benchmark": 0.5},
}


def some_scores() -> Scores:
    """60 images of each source; OOD scores are one lower on average."""
    generator = torch.Generator().manual_seed(0)
    source = torch.arange(len(SOURCES)).repeat_interleave(60)
    score = torch.randn(len(source), len(DETECTORS), generator=generator, dtype=torch.float64)
    score += 5 - (source > 0).double()[:, None]
    index = torch.arange(60).repeat(len(SOURCES))
    label = torch.where(source == 0, index % 10, -1)
    prediction = torch.where(index < 6, (index + 1) % 10, index % 10)
    row = torch.stack([source, index, label, prediction], dim=1)
    return Scores(DETECTORS, SOURCES, score, row)


def write_history(run_dir: Path, epochs: int = 3) -> None:
    """NormRatio that grows with the epoch, as `BlockSelection` writes it."""
    with (run_dir / "norm_ratio.csv").open("w", newline="") as file:
        file.write("epoch,block,depth,norm_id,norm_pseudo_ood,ratio,selected\n")
        writer = csv.writer(file, lineterminator="\n")
        for epoch in range(epochs):
            for depth, (block, ratio) in enumerate(NORM_RATIO.items(), start=1):
                ratio += 0.01 * epoch
                row = (block, depth, 2.0, 2.0 / ratio, ratio, int(block == "layer2.0"))
                writer.writerow((epoch, *row))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_history(folder)
    write_report(FinishedRun(folder, some_scores(), **FACTS), [CSVLogger(folder, name="csv")])
    return folder


@pytest.fixture(scope="module")
def metrics(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text())
    return content


def test_metrics_json_has_the_promised_keys_and_facts(metrics: dict[str, Any]) -> None:
    keys = "experiment network selected_block norm_ratio selection block_weights"
    keys += " selection_stability"
    keys += " id_accuracy counts data detectors"
    assert list(metrics) == [*keys.split(), "forward_passes", "seconds", "versions"]
    assert {key: metrics[key] for key in FACTS} == FACTS
    assert metrics["id_accuracy"] == pytest.approx(0.9)
    assert metrics["counts"] == dict.fromkeys(SOURCES, 60)
    packages = {"python", "torch", "torchvision", "lightning", "torchmetrics"}
    assert set(metrics["versions"]) - {"commit"} == packages
    assert metrics["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_every_detector_is_measured_on_every_ood_set(metrics: dict[str, Any]) -> None:
    scores = some_scores()
    assert list(metrics["detectors"]) == list(DETECTORS)
    for column, detector in enumerate(DETECTORS):
        each = metrics["detectors"][detector]
        assert list(each) == [*SOURCES[1:], "average"]
        for source in SOURCES[1:]:
            id_score, ood_score = scores.of("id")[:, column], scores.of(source)[:, column]
            assert each[source] == ood_metrics(id_score, ood_score)


def test_average_is_the_unweighted_mean_over_ood_sets(metrics: dict[str, Any]) -> None:
    for each in metrics["detectors"].values():
        for key in METRICS:
            mean = (each["svhn"][key] + each["textures"][key]) / 2
            assert each["average"][key] == pytest.approx(mean, abs=1e-15)


def test_ood_csv_holds_the_same_numbers_as_metrics_json(
    run_dir: Path, metrics: dict[str, Any]
) -> None:
    with (run_dir / "ood.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["detector", "source", *METRICS]
    assert len(rows) == len(DETECTORS) * len(SOURCES)
    for row in rows:
        expected = metrics["detectors"][row["detector"]][row["source"]]
        assert {key: float(row[key]) for key in METRICS} == expected


def test_scores_npz_gives_back_the_table_without_pickle(run_dir: Path) -> None:
    scores = some_scores()
    with np.load(run_dir / "scores.npz", allow_pickle=False) as saved:
        for key in ("score", "source", "index", "label", "prediction"):
            np.testing.assert_array_equal(saved[key], getattr(scores, key).numpy())
        assert tuple(saved["detectors"]) == DETECTORS
        assert tuple(saved["sources"]) == SOURCES


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_small_images_with_something_on_them(run_dir: Path, name: str) -> None:
    path = run_dir / "figures" / f"{name}.png"
    assert path.stat().st_size < 120_000
    with Image.open(path) as image:
        ink = np.asarray(image.convert("L")) < 200
    assert min(image.size) > 200
    assert 0.005 < ink.mean() < 0.5


def weights_of_blocks(*values: float | None) -> dict[str, dict[str, float | None]]:
    return {f"layer{depth}": {"norm": value} for depth, value in enumerate(values)}


@pytest.mark.parametrize(("ratio", "weights"), [
    ({"a": 1.1}, {"p": {"a": {"norm": 1.0}}}),
    ({}, {"p": weights_of_blocks(*(0.1 * row - 2 for row in range(50)))}),
    (NORM_RATIO, {"p": weights_of_blocks(1, -1), "q": {"layer3.0": {"mean": 1.0}}}),
    ({}, {"p": {"logits": {"energy": 1.0}}}),
    ({}, {"p": weights_of_blocks(None, None)}),
])  # fmt: skip
def test_weights_of_any_blocks_are_drawn(
    ratio: dict[str, float], weights: dict[str, Any], tmp_path: Path
) -> None:
    facts = FACTS | {"selected_block": None, "norm_ratio": ratio, "block_weights": weights}
    write_report(FinishedRun(tmp_path, some_scores(), **facts))
    with Image.open(tmp_path / "figures/block_weights.png") as image:
        assert 0.005 < (np.asarray(image.convert("L")) < 200).mean() < 0.5


def test_a_run_without_block_selection_draws_only_the_scores(tmp_path: Path) -> None:
    facts = FACTS | {"selected_block": None, "norm_ratio": {}, "block_weights": {}}
    scores = some_scores()
    row = torch.stack([scores.source, scores.index, scores.label, scores.prediction], dim=1)
    only_msp = Scores(("msp",), SOURCES, scores.score[:, 1:2], row)
    metrics = write_report(FinishedRun(tmp_path, only_msp, **facts))
    assert metrics["selected_block"] is None
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"score_histograms", "roc", "confusion"}


def test_an_unlabelled_id_set_has_no_accuracy(tmp_path: Path) -> None:
    scores = some_scores()
    scores.label = torch.full_like(scores.label, -1)
    write_report(FinishedRun(tmp_path, scores, **FACTS))
    assert json.loads((tmp_path / "metrics.json").read_text())["id_accuracy"] is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_raises_after_the_scores_are_kept(
    tmp_path: Path, bad: float
) -> None:
    scores = some_scores()
    scores.score[scores.source == 2, 1] = bad
    with pytest.raises(ValueError, match=r"'msp' on 'textures'; scores\.npz was kept"):
        write_report(FinishedRun(tmp_path, scores, **FACTS))
    assert [path.name for path in tmp_path.iterdir()] == ["scores.npz"]
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["score"], scores.score.numpy())


def test_metrics_json_is_whole_or_absent(tmp_path: Path) -> None:
    facts = FACTS | {"norm_ratio": {**NORM_RATIO, "layer3.0": math.nan}}  # no JSON number
    with pytest.raises(ValueError):  # noqa: PT011 (in the words of Python)
        write_report(FinishedRun(tmp_path, some_scores(), **facts))
    assert not (tmp_path / "metrics.json").exists()


def test_metrics_json_comes_after_all_numbers_and_before_what_is_drawn(run_dir: Path) -> None:
    order = ["scores.npz", "ood.csv", "metrics.json", "figures", "report.html"]
    changed = [(run_dir / name).stat().st_mtime_ns for name in order]
    assert changed == sorted(changed)


def with_names(names: tuple[str, ...]) -> Scores:
    scores = some_scores()
    scores.sources = names
    return scores


def with_scores(value: float) -> Scores:
    scores = some_scores()
    scores.score = torch.full_like(scores.score, value)
    scores.score[::2] *= -1
    return scores


@pytest.mark.parametrize(
    "scores",
    [
        pytest.param(with_scores(0.0), id="a dead network"),
        pytest.param(with_scores(1e308), id="scores too far apart to be binned"),
        pytest.param(with_scores(5e-324), id="scores too close to be binned"),
        pytest.param(with_names(("id", r"$\frac$", "b")), id="a name that is no formula"),
        pytest.param(with_names(("id", "a\nb", "[bold] ${x} <b>")), id="a name of many lines"),
    ],
)
def test_a_figure_that_cannot_be_drawn_costs_nothing_else(
    scores: Scores, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_history(tmp_path)
    metrics = write_report(FinishedRun(tmp_path, scores, **FACTS))
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert Scores.load(tmp_path / "scores.npz").score.equal(scores.score)
    assert (tmp_path / "report.html").exists()
    missing = {*FIGURES} - {path.stem for path in tmp_path.glob("figures/*")}
    said = caplog.text.count("cannot be drawn: ")
    assert said == len(missing) or "what the scores show cannot be drawn" in caplog.text


def test_the_page_is_made_of_the_finished_files(run_dir: Path) -> None:
    page = run_dir / "report.html"
    assert page.stat().st_mtime_ns >= (run_dir / "metrics.json").stat().st_mtime_ns
    assert not list(run_dir.glob("*.tmp"))


def test_every_logger_gets_the_scalars_of_every_ood_set(
    run_dir: Path, metrics: dict[str, Any]
) -> None:
    with next(run_dir.glob("csv/*/metrics.csv")).open(newline="") as file:
        (row,) = csv.DictReader(file)
    for detector in ("featurenorm", "msp"):
        for source in (*SOURCES[1:], "average"):
            for key, value in metrics["detectors"][detector][source].items():
                assert float(row[f"ood/{source}/{detector}/{key}"]) == value


@pytest.mark.parametrize("shift", [0, 1])
def test_labels_in_another_order_than_the_network_knows_are_told(
    shift: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = some_scores()
    scores.prediction = (scores.prediction + shift) % 10
    names = list("abcdefghij")
    write_report(FinishedRun(tmp_path, scores, **FACTS, data={"classes": names}))
    told = [
        text for text in caplog.messages if "expected labels in the order of the network" in text
    ]
    assert len(told) == shift
    if shift:
        assert "accuracy of 0.0 %, which would be 90.0 % in another order" in told[0]
        assert "natural_order=true" in told[0]


@pytest.mark.slow
def test_a_report_can_be_read_back_from_an_offline_wandb_run(tmp_path: Path) -> None:
    write_history(tmp_path, epochs=30)
    logger = wandb_logger(project="p", save_dir=str(tmp_path), mode="offline")
    log_selection(tmp_path, [logger], 0)
    metrics = write_report(FinishedRun(tmp_path, some_scores(), **FACTS), [logger])
    folder = Path(logger.experiment.dir).parent
    logger.experiment.finish()
    summary: dict[str, Any] = json.loads(inspect(folder, "--summary"))["summary"]

    assert summary["selected_block"] == "layer2.0"
    average = metrics["detectors"]["featurenorm"]["average"]["auroc"]
    assert summary["ood/average/featurenorm/auroc"] == pytest.approx(average)
    logged = {key.partition("/")[2] for key in summary if key.startswith("figures/")}
    assert logged == set(FIGURES)
    assert summary["tables/norm_ratio"]["nrows"] == 30 * len(BLOCKS)
    assert summary["tables/ood"]["nrows"] == len(DETECTORS) * len(SOURCES)
    assert summary["norm_ratio_by_depth_table"]["nrows"] == 20 * len(BLOCKS)
    assert summary["block_weights/norm_profile_table"]["nrows"] == 2 * len(BLOCKS)


def rendered(table: Any) -> str:
    console = Console(width=100, record=True, file=StringIO())
    console.print(table)
    return console.export_text()


def test_tables_of_six_ood_sets_fit_a_hundred_characters(metrics: dict[str, Any]) -> None:
    sets = ("svhn", "textures", "lsun_crop", "lsun_resize", "isun", "places365")
    row = dict.fromkeys(METRICS, 0.375)
    detectors = {"mahalanobis": dict.fromkeys((*sets, "average"), row)}
    text = rendered(result_table({"counts": dict.fromkeys(("id", *sets)), "detectors": detectors}))
    assert max(map(len, text.splitlines())) <= 100
    assert all(name in text for name in (*sets, "average", "mahalanobis"))
    assert text.count("37.5/37.5") == len(sets) + 1


def test_a_narrow_terminal_shows_the_groups_and_no_broken_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets = ("digits_7_to_9", "letters", "photographs", "noise")
    columns = (*sets, "near", "far", "average")
    row = dict.fromkeys(METRICS, 0.5)
    metrics = {
        "counts": dict.fromkeys(("id", *sets)),
        "detectors": {"norm_profile": dict.fromkeys(columns, row)},
        "data": {"groups": {"near": sets[:2], "far": sets[2:]}},
    }
    for width, seen in ((100, columns), (80, columns[4:]), (20, columns[4:])):
        Console(width=width).print(result_table(metrics))
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= width
        if width > 20:
            assert [name for name in columns if name in said.split()] == list(seen)


def test_tables_show_detectors_and_blocks_apart(metrics: dict[str, Any]) -> None:
    detectors, blocks = rendered(result_table(metrics)), rendered(block_table(metrics))
    assert "msp" in detectors
    assert "layer" not in detectors
    assert f"{100 * metrics['detectors']['msp']['svhn']['auroc']:.1f}" in detectors
    assert blocks.count("(selected)") == 1
    assert "layer2.0 (selected)" in blocks
    assert "1.3000" in blocks


def test_an_epoch_repeated_by_a_resumed_run_counts_once(tmp_path: Path) -> None:
    write_history(tmp_path)
    path = tmp_path / "norm_ratio.csv"
    again = path.read_text().splitlines()[-3:]
    path.write_text(path.read_text() + "\n".join(again).replace("1.3", "1.4") + "\n")
    history = read_history(path)
    assert history.epoch == [0, 1, 2]
    assert history.block == list(BLOCKS)
    assert history.ratio.shape == (3, 3)
    assert history.ratio[2, 1] == pytest.approx(1.42)
    assert history.selected.tolist() == [1, 1, 1]

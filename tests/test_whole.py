"""One real run, from the command line to the last file, and what can be made of it later."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from src.metrics import ood_metrics
from tests.loggers.wandb_records import inspect

BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
COUNTS = {"id": 251, "digits_7_to_9": 533, "photographs": 500, "noise": 500}
DETECTORS = {
    *("featurenorm", "norm_profile", "msp", "maxlogit", "energy"),
    *(f"featurenorm@{block}" for block in BLOCKS),
}
METRICS = {"auroc", "fpr95_id_pos", "fpr95_ood_pos", "aupr_in", "aupr_out", "detection_error"}
FIGURES = (
    "norm_ratio_curves",
    "norm_ratio_by_depth",
    "norm_by_depth",
    "block_weights",
    "score_histograms",
    "roc",
    "most_confusing",
    "confusion",
)
PLAIN = (type(None), bool, int, float, str, bytes, torch.Tensor)
Content = Callable[[Path], dict[str, str]]


def metrics_of(run_dir: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text())
    return metrics


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def selected_by(norm_ratio: dict[str, float]) -> str:
    return max(norm_ratio, key=norm_ratio.__getitem__)


def test_a_run_leaves_every_promised_file_and_no_other(finished_run: Path) -> None:
    files = {path.relative_to(finished_run).as_posix() for path in finished_run.rglob("*.*")}
    assert {file for file in files if not file.startswith("wandb/")} == {
        "config.yaml",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "metrics.csv",
        "norm_ratio.csv",
        "selection.json",
        "selection_stability.json",
        "scores.npz",
        "metrics.json",
        "ood.csv",
        "report.html",
        *(f"figures/{name}.png" for name in FIGURES),
    }


def test_the_kept_configuration_is_resolved(finished_run: Path) -> None:
    text = (finished_run / "config.yaml").read_text()
    config = OmegaConf.create(text)
    assert "${" not in text
    assert config.trainer.max_epochs == 2
    assert config.run_dir == str(finished_run)


@pytest.mark.parametrize("name", ["last", "best"])
def test_checkpoints_are_plain_containers(finished_run: Path, name: str) -> None:
    def check(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                check(inner, f"{path}.{key}")
        elif isinstance(value, list | tuple):
            for inner in value:
                check(inner, f"{path}[]")
        else:
            assert isinstance(value, PLAIN), path

    checkpoint = torch.load(finished_run / f"checkpoints/{name}.ckpt", weights_only=True)
    check(checkpoint, name)
    assert checkpoint["config"]["net"]["_target_"] == "src.network.Network"


def test_the_selection_travels_in_the_state_of_the_network(finished_run: Path) -> None:
    checkpoint = torch.load(finished_run / "checkpoints/last.ckpt", weights_only=True)
    norm_ratio = checkpoint["state_dict"]["network._extra_state"]
    metrics = metrics_of(finished_run)
    assert norm_ratio == metrics["norm_ratio"]
    assert list(norm_ratio) == BLOCKS
    assert metrics["selected_block"] == selected_by(norm_ratio)


def test_norm_ratio_has_a_row_per_epoch_and_block(finished_run: Path) -> None:
    rows = rows_of(finished_run / "norm_ratio.csv")
    expected = [(epoch, block) for epoch in (0, 1) for block in BLOCKS]
    assert [(int(row["epoch"]), row["block"]) for row in rows] == expected
    assert [int(row["depth"]) for row in rows] == [*range(1, 9)] * 2
    for epoch in ("0", "1"):
        ratio = {row["block"]: float(row["ratio"]) for row in rows if row["epoch"] == epoch}
        chosen = [row["block"] for row in rows if row["epoch"] == epoch and row["selected"] == "1"]
        assert chosen == [selected_by(ratio)]
    assert ratio == metrics_of(finished_run)["norm_ratio"]  # of the last epoch


def test_metrics_json_holds_what_it_promises(finished_run: Path) -> None:
    metrics = metrics_of(finished_run)
    assert (metrics["experiment"], metrics["network"]) == ("quickstart", "ResNet")
    assert metrics["counts"] == COUNTS
    held_out = 200
    passes = sum(-(-count // 100) for count in (*COUNTS.values(), held_out))
    assert metrics["forward_passes"] == passes
    assert metrics["seconds"].keys() == {"train", "benchmark"}
    assert torch.__version__.startswith(metrics["versions"]["torch"])
    assert metrics["detectors"].keys() == DETECTORS
    for each in metrics["detectors"].values():
        assert list(each) == [*list(COUNTS)[1:], "average"]
        assert all(row.keys() == METRICS for row in each.values())
        assert all(0 <= value <= 1 for row in each.values() for value in row.values())


def test_the_selected_block_is_what_featurenorm_scores(finished_run: Path) -> None:
    metrics = metrics_of(finished_run)
    of_block = metrics["detectors"][f"featurenorm@{metrics['selected_block']}"]
    assert metrics["detectors"]["featurenorm"] == of_block


def test_ood_csv_holds_the_numbers_of_metrics_json(finished_run: Path) -> None:
    results: dict[str, Any] = {}
    for row in rows_of(finished_run / "ood.csv"):
        numbers = {key: float(row[key]) for key in METRICS}
        results.setdefault(row["detector"], {})[row["source"]] = numbers
    assert results == metrics_of(finished_run)["detectors"]


def test_metrics_json_follows_from_the_scores_alone(finished_run: Path) -> None:
    metrics = metrics_of(finished_run)
    with np.load(finished_run / "scores.npz", allow_pickle=False) as table:
        assert list(table["sources"]) == list(COUNTS)
        for column, detector in enumerate(table["detectors"]):
            of = [
                torch.from_numpy(table["score"][table["source"] == source, column])
                for source in range(len(COUNTS))
            ]
            each = dict(
                zip(list(COUNTS)[1:], (ood_metrics(of[0], s) for s in of[1:]), strict=True)
            )
            mean = {key: fmean(row[key] for row in each.values()) for key in METRICS}
            assert metrics["detectors"][detector] == each | {"average": mean}
        is_id = table["source"] == 0
        right = (table["prediction"] == table["label"])[is_id]
        assert metrics["id_accuracy"] == right.mean()
        assert (table["label"][~is_id] == -1).all()


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_pictures_of_something(finished_run: Path, name: str) -> None:
    with Image.open(finished_run / f"figures/{name}.png") as picture:
        lowest, highest = picture.convert("L").getextrema()
        assert min(picture.size) > 200
        assert highest - lowest > 128


def test_an_offline_wandb_run_holds_the_selection_curves(finished_run: Path) -> None:
    (folder,) = finished_run.glob("wandb/offline-run-*")
    records = [json.loads(line) for line in inspect(folder).splitlines()]
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    curves = {item["epoch"]: item for item in items if "selected_block" in item}
    assert list(curves) == [0, 1]
    for row in rows_of(finished_run / "norm_ratio.csv"):
        logged = curves[int(row["epoch"])]
        assert logged[f"norm_ratio/{row['block'].replace('.', '_')}"] == pytest.approx(
            float(row["ratio"])
        )
        if row["selected"] == "1":
            assert logged["selected_block"] == int(row["depth"])
    record = json.loads(inspect(folder, "--summary"))
    assert record["config"]["trainer"]["max_epochs"] == 2
    summary = record["summary"]
    metrics = metrics_of(finished_run)
    assert summary["selected_block"] == metrics["selected_block"]
    assert summary["id_accuracy"] == metrics["id_accuracy"]


def test_evaluate_repeats_the_benchmark_and_leaves_the_run_alone(
    finished_run: Path,
    tmp_path: Path,
    command: Callable[..., None],
    content: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = content(finished_run)
    monkeypatch.chdir(tmp_path)
    checkpoint = finished_run / "checkpoints/last.ckpt"
    command("src.evaluate", f"checkpoint={checkpoint}", "hydra.run.dir=again")
    ours, theirs = metrics_of(tmp_path / "again"), metrics_of(finished_run)
    for key in ("network", "selected_block", "norm_ratio", "detectors", "counts", "id_accuracy"):
        assert ours[key] == theirs[key]
    with np.load("again/scores.npz") as again, np.load(finished_run / "scores.npz") as first:
        for key in first.files:
            np.testing.assert_array_equal(again[key], first[key])
    assert content(finished_run) == before


def test_evaluate_takes_other_detectors_and_selects_anew(
    finished_run: Path, tmp_path: Path, command: Callable[..., None]
) -> None:
    command(
        "src.evaluate",
        f"checkpoint={finished_run / 'checkpoints/last.ckpt'}",
        f"hydra.run.dir={tmp_path / 'other'}",
        "selection=official",
        "detectors=quick",
        "~detectors.msp",
        "+detectors.hot._target_=src.detectors.Energy",
        "+detectors.hot.temperature=10",
    )
    other, first = metrics_of(tmp_path / "other"), metrics_of(finished_run)
    assert other["detectors"].keys() == (DETECTORS | {"hot"}) - {"msp"}
    assert other["detectors"]["energy"] == first["detectors"]["energy"]
    assert other["detectors"]["hot"] != first["detectors"]["energy"]
    assert list(other["norm_ratio"]) == BLOCKS
    assert other["norm_ratio"] != first["norm_ratio"]
    assert other["selected_block"] == selected_by(other["norm_ratio"])
    assert len(rows_of(tmp_path / "other/norm_ratio.csv")) == len(BLOCKS)

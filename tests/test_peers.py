"""The comparison with other libraries: its tasks, its tables, its figure."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import peer_tables, peers
from bench.runners import authors, openood, ours
from src.metrics import ood_metrics

TOOK = {"seconds": 2.0, "range": [1.0, 3.0], "repeats": 3, "images": 900, "GiB": 0.5}
DIFFERS = {
    "score": 3.0, "rank": 0.5, "auroc": 0.1, "fpr95": 0.2, "auroc_metric": 0.0,
    "fpr95_metric": 0.0,
}  # fmt: skip
SAME = {**DIFFERS, "rank": 1.0, "auroc": 1e-7}
CONTENT: dict[str, Any] = {
    "command": "python -m bench.peers",
    "images": {"drawn": True, "id": 40, "ood": 20, "train": 60, "fit": 80, "batch": 20},
    "hardware": {"processor": "one", "cores": 2, "threads": 1},
    "versions": {"python": "3.11"},
    "environments": {
        "oodeel": {
            "attempts": [
                {"requirements": ["oodeel"], "seconds": 3.0, "error": "no module"},
                {"requirements": ["faiss-cpu"], "seconds": 4.0, "error": None},
            ],
            "versions": {},
        }
    },
    "first_result": {"oodeel": 9.0},
    "errors": {"oodeel": None},
    "runs": [
        {"runner": "oodeel", "detectors": ["MSP"], "sets": 5, "fit_images": 60, "theirs": TOOK,
         "ours": TOOK | {"seconds": 0.5}},
        {"runner": "oodeel", "detectors": ["KNN", "Mahalanobis"], "sets": 0, "fit_images": 80,
         "theirs": TOOK, "ours": {}},
    ],
    "equality": {"oodeel": {"MSP": SAME, "SHE": DIFFERS}, "detectors": {}},
    "metrics": {"oodeel": {"sizes": {"100000": {"seconds": 7.0}}, "error": "stopped after 20 s"}},
}  # fmt: skip


@pytest.fixture
def _measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(peer_tables, "RESULT", tmp_path / "peers.json")
    peer_tables.RESULT.write_text(json.dumps(CONTENT))
    peer_tables.content.cache_clear()
    yield
    peer_tables.content.cache_clear()


@pytest.mark.usefixtures("_measured")
def test_the_tables_tell_what_was_measured() -> None:
    text = {name: make() for name, make in peer_tables.TABLES.items()}
    assert "| oodeel | 1 | 5 | 900 / 900 | 2.0 / 0.5 | **4.0** |" in text["peers-loops"]
    assert "1 of 2 | SHE: rank correlation 0.5" in text["peers-scores"]
    assert "1.0e-07" in text["peers-metrics-equal"]
    assert "`oodeel`: no module; `faiss-cpu` | 7 s | 9 s" in text["peers-installs"]
    assert "7.00 s | stopped after 20 s" in text["peers-metrics"]


def test_the_figure_shows_each_peer(tmp_path: Path) -> None:
    peers.draw(CONTENT, tmp_path / "peers.png")
    assert 0 < (tmp_path / "peers.png").stat().st_size < 60_000


def test_ours_does_every_task_of_every_peer() -> None:
    tasks = peers.all_tasks(argparse.Namespace(train=60, fit_images=80))
    keys = {peers.key_of(task) for task in tasks["ours"]}
    assert len(keys) == len(tasks["ours"])
    for runner, each in tasks.items():
        assert {peers.key_of(task) for task in each} <= keys
        assert sum(task["keep_scores"] for task in each) == 1, runner


def test_the_metrics_of_the_loops_are_ours_up_to_their_conventions() -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(200, generator=generator, dtype=torch.float64) + 1
    unknown = torch.randn(100, generator=generator, dtype=torch.float64)
    figures = ood_metrics(known, unknown)
    expected = figures["auroc"], figures["fpr95_ood_pos"]
    assert ours.metrics(known, unknown) == expected
    assert openood.metrics(known, unknown) == pytest.approx(expected)
    expected = figures["auroc"], figures["fpr95_id_pos"]
    assert authors.metrics(known, unknown) == pytest.approx(expected)

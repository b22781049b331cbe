"""Laws of the score table."""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src.metrics import Scores, ScoreTable
from src.metrics.score_table import ROW

SOURCES = ("id", "near", "far")
COUNTS = {"id": 7, "near": 4, "far": 9}


def rows() -> list[tuple[Tensor, int, Tensor, Tensor, Tensor]]:
    """One update per image, the benchmark of 20 images and two detectors."""
    updates = []
    for source, n in enumerate(COUNTS.values()):
        for index in range(n):
            label = torch.tensor([index % 3 if source == 0 else -1])
            prediction = torch.tensor([index % 2])
            score = torch.tensor([[100.0 * source + index, -index / 3]])
            updates.append((score, source, torch.tensor([index]), label, prediction))
    return updates


def table_of(updates: list[tuple[Tensor, int, Tensor, Tensor, Tensor]]) -> ScoreTable:
    table = ScoreTable(("msp", "norm"), SOURCES)
    for update in updates:
        table.update(*update)
    return table


def assert_same(scores: Scores, expected: Scores) -> None:
    assert (scores.detectors, scores.sources) == (expected.detectors, expected.sources)
    for name in ("score", "source", "index", "label", "prediction"):
        assert getattr(scores, name).equal(getattr(expected, name)), name


def test_scores_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    scores = table_of(rows()).compute()
    scores.save(tmp_path / "scores.npz")
    assert_same(Scores.load(tmp_path / "scores.npz"), scores)


def columns() -> dict[str, Any]:
    """What a file of scores holds."""
    scores = table_of(rows()).compute()
    named = {name: getattr(scores, name).numpy() for name in ("score", *ROW)}
    return named | {"detectors": np.array(scores.detectors), "sources": np.array(scores.sources)}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "objects": ({"label": np.array([None] * 20)}, "allow_pickle"),
    "flat": ({"score": np.zeros(20)}, r"score of type float64 and shape \(20,\)"),
    "float32": ({"score": np.zeros((20, 2), np.float32)}, "score of type float32"),
    "words": ({"index": np.array(["a"] * 20)}, "index of type <U1"),
    "short": ({"label": np.zeros(3, np.int64)}, "3 values of label for 20 rows"),
    "names": ({"detectors": np.array(["msp"])}, r"shape \(20, 2\) of 1 detectors"),
    "sources": ({"sources": np.array(["id"])}, "from 0 to 2, of which 1 have names"),
    "empty": ({"score": np.zeros((0, 2))}, r"shape \(0, 2\)"),
}


@pytest.mark.parametrize(("changed", "said"), WRONG.values(), ids=WRONG)
def test_a_file_of_something_else_is_refused(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "scores.npz"
    np.savez(path, **columns() | changed)
    with pytest.raises(
        ValueError, match=rf"^expected the scores\.npz .*scores\.npz with .*{said}"
    ):
        Scores.load(path)


@pytest.mark.parametrize("missing", columns())
def test_a_file_without_a_column_is_refused(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    np.savez(path, **{name: value for name, value in columns().items() if name != missing})
    with pytest.raises(ValueError, match=rf"^expected the scores\.npz .*KeyError.*{missing}"):
        Scores.load(path)


def test_a_damaged_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    np.savez(path, **columns())
    whole = path.read_bytes()
    flipped = whole[:150] + bytes([whole[150] ^ 255]) + whole[151:]
    np.save(tmp_path / "array.npy", np.zeros(3))
    array, pickled = (tmp_path / "array.npy").read_bytes(), pickle.dumps({"score": 1})
    cuts = [whole[:length] for length in range(0, len(whole), 97)]
    for content in (*cuts, flipped, array, pickled, b"score,label\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^expected the scores\.npz .*; evaluate"):
            Scores.load(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="scores"):
        Scores.load(tmp_path / "scores.npz")


def test_rows_are_in_the_order_of_source_and_index() -> None:
    scores = table_of(rows()).compute()
    assert scores.counts == COUNTS
    assert scores.source.tolist() == [0] * 7 + [1] * 4 + [2] * 9
    assert scores.index.tolist() == [*range(7), *range(4), *range(9)]
    assert scores.of("far")[:, scores.column("msp")].tolist() == [200.0 + i for i in range(9)]
    assert scores.score.dtype == torch.float64


@pytest.mark.parametrize("seed", range(5))
def test_any_order_and_split_of_the_updates_gives_the_same_scores(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    updates = rows()
    shuffled = [updates[i] for i in torch.randperm(len(updates), generator=generator)]
    cut = int(torch.randint(len(updates), (), generator=generator))
    assert_same(table_of(shuffled).compute(), table_of(updates).compute())
    for first, second in ((shuffled[:cut], shuffled[cut:]), (shuffled[cut:], shuffled[:cut])):
        if first and second:
            merged = table_of(first)
            merged.merge_state(table_of(second))
            assert_same(merged.compute(), table_of(updates).compute())


def test_one_batch_gives_the_same_scores_as_single_rows() -> None:
    updates = rows()
    batches = []
    for source in range(3):
        columns = zip(*(update for update in updates if update[1] == source), strict=True)
        score, _, index, label, prediction = columns
        batches.append((torch.cat(score), source, *map(torch.cat, (index, label, prediction))))
    assert_same(table_of(batches).compute(), table_of(updates).compute())


def test_padding_rows_never_reach_the_table() -> None:
    padding = torch.tensor([-1, -1])
    padded = [
        (
            torch.cat([torch.full((2, 2), math.nan), score]),
            source,
            torch.cat([padding, index]),
            torch.cat([padding, label]),
            torch.cat([torch.tensor([1, 0]), prediction]),
        )
        for score, source, index, label, prediction in rows()
    ]
    assert_same(table_of(padded).compute(), table_of(rows()).compute())


def test_a_process_that_saw_only_padding_still_merges() -> None:
    padding = torch.tensor([-1, -1, -1])
    idle = table_of([(torch.zeros(3, 2), 0, padding, padding, padding)])
    idle.merge_state(table_of(rows()))
    assert_same(idle.compute(), table_of(rows()).compute())


def test_processes_are_gathered_into_the_same_scores() -> None:
    """The gather that torchmetrics runs on two processes, of which one saw only padding."""
    padding = torch.tensor([-1, -1, -1])
    idle = table_of([(torch.zeros(3, 2), 0, padding, padding, padding)])
    busy = table_of(rows())
    theirs = iter([torch.cat(busy.score), torch.cat(busy.row)])
    idle.distributed_available_fn = lambda: True
    idle.dist_sync_fn = lambda mine, group: [mine, next(theirs)]
    assert_same(idle.compute(), busy.compute())


def test_a_table_of_one_row() -> None:
    one = torch.tensor([0])
    scores = table_of([(torch.tensor([[0.5, 2.0]]), 0, one, one, one)]).compute()
    assert scores.score.tolist() == [[0.5, 2.0]]
    assert scores.counts == {"id": 1, "near": 0, "far": 0}
    assert scores.id_accuracy == 1.0


def test_id_accuracy_counts_labelled_id_images_only() -> None:
    index = torch.arange(4)
    table = ScoreTable(("msp",), SOURCES)
    label, prediction = torch.tensor([0, 1, 2, -1]), torch.tensor([0, 1, 1, -1])
    table.update(torch.zeros(4, 1), 0, index, label, prediction)
    table.update(torch.zeros(4, 1), 1, index, torch.tensor([3, 3, 3, 3]), prediction)
    assert table.compute().id_accuracy == 2 / 3


def test_scores_that_differ_in_float32_only_by_rounding_stay_apart() -> None:
    one = torch.zeros(1, dtype=torch.int64)
    score = torch.tensor([[1 - 1e-12, 1 - 1e-13]], dtype=torch.float64)
    assert table_of([(score, 0, one, one, one)]).compute().score.equal(score)


def test_an_unknown_source_or_detector_is_refused() -> None:
    scores = table_of(rows()).compute()
    with pytest.raises(ValueError, match="not in"):
        scores.of("svhn")
    with pytest.raises(ValueError, match="not in"):
        scores.column("energy")

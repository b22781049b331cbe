"""Laws of the OOD figures on disk: those of memory, in whatever shards and blocks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from src.metrics import ScoreShards, ood_metrics, ood_metrics_on_disk
from src.metrics.on_disk import _blocks, _pivots, _shards_of
from tests.metrics.test_ood import CASES

EXACT = ("auroc", "fpr95_id_pos", "fpr95_ood_pos", "detection_error")


def written(folder: Path, score: Tensor, *, size: int = 100, batch: int = 70) -> Path:
    shards = ScoreShards(folder, size=size)
    for part in score.split(batch):
        shards.append(part)
    shards.close()
    return folder


@pytest.mark.parametrize("case", CASES)
def test_figures_on_disk_are_those_of_memory(case: str, tmp_path: Path) -> None:
    id_score, ood_score = (torch.from_numpy(np.array(score))[-300:] for score in CASES[case])
    expected = ood_metrics(id_score, ood_score)
    folders = written(tmp_path / "id", id_score), written(tmp_path / "ood", ood_score)
    for block in (16, 4096):
        found = ood_metrics_on_disk(*folders, block=block)
        assert list(found) == list(expected)
        assert {name: found[name] for name in EXACT} == {name: expected[name] for name in EXACT}
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_no_block_is_larger_than_two_however_many_scores_are_equal(
    decimals: int, tmp_path: Path
) -> None:
    score = torch.randn(1500, dtype=torch.float64).round(decimals=decimals)
    shards = _shards_of(written(tmp_path / "id", score, size=250))
    counts = list(_blocks(shards, shards, _pivots([*shards, *shards], 64)))
    assert max(int(block[:, -2].sum() - block[:, 0].sum()) for block in counts) <= 2 * 64
    assert int(counts[-1][0, -1]) == 1500


@pytest.mark.parametrize("batch", [7, 100, 250, 1000])
def test_every_score_is_in_one_shard_of_the_size_asked_for(batch: int, tmp_path: Path) -> None:
    score = torch.randn(1000)
    shards = [np.load(path) for path in _shards_of(written(tmp_path, score, batch=batch))]
    assert [len(shard) for shard in shards] == [100] * 10
    assert np.sort(np.concatenate(shards)).tolist() == score.double().sort().values.tolist()


def test_several_processes_write_into_one_folder(tmp_path: Path) -> None:
    score = torch.randn(2, 500)
    for process in (0, 1):
        shards = ScoreShards(tmp_path / "id", process=process, size=100)
        shards.append(score[process])
        shards.close()
    written(tmp_path / "ood", score[0] - 1)
    found = ood_metrics_on_disk(tmp_path / "id", tmp_path / "ood")
    assert found == pytest.approx(ood_metrics(score.flatten(), score[0] - 1), abs=1e-12)


def test_a_batch_of_padding_alone_adds_nothing(tmp_path: Path) -> None:
    shards = ScoreShards(tmp_path)
    shards.append(torch.ones(4)[torch.zeros(4, dtype=torch.bool)])
    shards.close()
    assert not [*tmp_path.iterdir()]


def test_shards_of_an_earlier_run_are_not_mixed_in(tmp_path: Path) -> None:
    written(tmp_path, torch.ones(3))
    with pytest.raises(FileExistsError, match=r"expected no shards of process 0 .*; remove them"):
        ScoreShards(tmp_path)


def test_nan_is_refused_when_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected finite score, got 1 NaN"):
        ScoreShards(tmp_path).append(torch.tensor([1.0, torch.nan]))


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    ScoreShards(tmp_path / "id").close()
    with pytest.raises(FileNotFoundError, match=r"expected shards in .*, got none; write them"):
        ood_metrics_on_disk(tmp_path / "id", tmp_path / "ood")


@pytest.mark.parametrize("bad", [np.array([2.0, 1.0]), np.zeros((2, 1)), np.zeros(2, np.float32)])
def test_a_file_that_is_no_sorted_column_is_refused(bad: object, tmp_path: Path) -> None:
    np.save(tmp_path / "0-000000.npy", np.asarray(bad))
    with pytest.raises(ValueError, match=r"expected .*0-000000\.npy to be a sorted"):
        ood_metrics_on_disk(tmp_path, tmp_path, block=1024)

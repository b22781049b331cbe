"""The search: what it looks at, what it samples, and that a study survives what happens to it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.records.history import HistoryWriter
from src.records.selection import select
from src.search.__main__ import DEFAULTS, OBJECTIVES, main
from src.search.space import split
from src.search.study import Outcome, best_trial, open_study, owned, read_outcome
from tests import REPOSITORY, TINY

optuna = pytest.importorskip("optuna")
SHORT = (*TINY, "trainer.max_epochs=1", "+trainer.limit_train_batches=5")


def leave_trial(folder: Path, ratios: list[list[float]], accuracy: list[float]) -> None:
    """What a trial of E epochs and L blocks leaves."""
    folder.mkdir(parents=True)
    history = HistoryWriter(folder)
    for epoch, ratio in enumerate(ratios):
        blocks = [f"block{at}" for at in range(len(ratio))]
        means = dict.fromkeys(("norm_id", "norm_pseudo_ood", "ratio"), ratio)
        history.add(epoch, blocks, means, blocks[int(select(ratio))])
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "train/loss", "val/accuracy"])
        for epoch, value in enumerate(accuracy):
            writer.writerows([[epoch, "", value], [epoch, 0.5, ""]])


def test_the_outcome_is_that_of_the_last_epoch(tmp_path: Path) -> None:
    leave_trial(tmp_path / "run", [[2.0, 1.0, 1.0], [1.1, 1.4, 1.25]], [0.9, 0.8])
    outcome = read_outcome(tmp_path / "run")
    assert outcome == Outcome(1.4, pytest.approx(0.15), 0.8, "block1")
    assert set(OBJECTIVES) < set(Outcome._fields)


def test_of_equal_ratios_the_deeper_block_is_the_outcome(tmp_path: Path) -> None:
    leave_trial(tmp_path / "run", [[1.5, 1.0, 1.5]], [0.9])
    assert read_outcome(tmp_path / "run") == Outcome(1.5, 0.0, 0.9, "block2")


def test_a_block_selected_by_another_criterion_is_the_outcome(tmp_path: Path) -> None:
    leave_trial(tmp_path / "run", [[1.5, 1.0, 1.2]], [0.9])
    means = {name: [1.5, 1.0, 1.2] for name in ("norm_id", "norm_pseudo_ood", "ratio")}
    HistoryWriter(tmp_path / "run").add(0, ["block0", "block1", "block2"], means, "block2")
    outcome = read_outcome(tmp_path / "run")
    assert outcome == Outcome(1.2, pytest.approx(-0.3), 0.9, "block2")


def test_results_on_ood_images_are_not_looked_at(tmp_path: Path) -> None:
    leave_trial(tmp_path / "run", [[1.0, 1.2]], [0.5])
    before = read_outcome(tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text("no JSON at all")
    (tmp_path / "run" / "ood.csv").write_text("")
    assert read_outcome(tmp_path / "run") == before


def test_a_trial_without_selection_or_accuracy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected NormRatio and val/accuracy .* the CSV logger"):
        read_outcome(tmp_path)


def test_overrides_with_a_sweep_are_searched_and_others_hold() -> None:
    fixed, space = split(
        [
            *("experiment=cifar10_brief", "~data.ood.noise", "optim.lr=tag(log,interval(1e-4,1))"),
            *("depth=tag(int,interval(2,5))", "size=32,64", "net=choice(a,b)", "+x=range(1,4)"),
        ],
        {"unused": "1,2"},
    )
    assert fixed == ["experiment=cifar10_brief", "~data.ood.noise"]
    assert space == {
        "optim.lr": optuna.distributions.FloatDistribution(1e-4, 1, log=True),
        "depth": optuna.distributions.IntDistribution(2, 5),
        "size": optuna.distributions.CategoricalDistribution(["32", "64"]),
        "net": optuna.distributions.CategoricalDistribution(["a", "b"]),
        "+x": optuna.distributions.CategoricalDistribution(["1", "2", "3"]),
    }


def test_without_a_sweep_the_space_of_the_file_is_searched() -> None:
    defaults = yaml.safe_load(DEFAULTS.read_text())
    fixed, space = split(["seed=3"], defaults["space"])
    assert fixed == ["seed=3"]
    assert list(space) == list(defaults["space"])
    assert all(each.log for each in space.values())


def test_what_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected interval\(...\), range\(...\).* got net=glob"):
        split(["net=glob(*)"], {})


def told(study: Any, outcome: Outcome) -> None:
    """Adds a finished trial."""
    trial = study.ask()
    for key, value in outcome._asdict().items():
        trial.set_user_attr(key, value)
    study.tell(trial, outcome.norm_ratio)


def test_the_best_trial_is_among_those_that_are_nearly_as_accurate_as_any(tmp_path: Path) -> None:
    study = open_study(tmp_path, {"objective": "norm_ratio"})
    assert best_trial(study, "norm_ratio", 0.02) is None
    told(study, Outcome(1.72, 0.2, 0.27, "untrained"))
    told(study, Outcome(1.20, 0.01, 0.87, "accurate"))
    told(study, Outcome(1.22, 0.005, 0.86, "nearly"))
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    assert best_trial(study, "norm_ratio", 0.02) == 2
    assert best_trial(study, "margin", 0.02) == 1
    assert best_trial(study, "accuracy", 0.02) == 1
    assert best_trial(study, "norm_ratio", 1.0) == 0


def test_a_study_that_was_cut_off_tries_its_last_parameters_again(tmp_path: Path) -> None:
    space = {"lr": optuna.distributions.FloatDistribution(0, 1)}
    study = open_study(tmp_path, {"objective": "margin"})
    cut_off = study.ask(space)
    again = open_study(tmp_path, {"objective": "margin"})
    assert again.trials[0].state.name == "FAIL"
    assert again.ask(space).params == cut_off.params


def test_a_study_is_not_gone_on_with_for_something_else(tmp_path: Path) -> None:
    open_study(tmp_path, {"objective": "margin"})
    with pytest.raises(ValueError, match=r"another objective \(it has objective margin\)"):
        open_study(tmp_path, {"objective": "accuracy"})


def test_a_study_that_another_search_works_on_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with owned(tmp_path / "study.log"), pytest.raises(SystemExit) as stopped:
        main(["--output", str(tmp_path), "--trials", "1"])
    assert stopped.value.code == 2
    assert "expected a study that no other search works on" in capsys.readouterr().err


def children(process: int) -> list[int]:
    return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]


def waited_for(condition: Callable[[], Any]) -> Any:
    while not (found := condition()):
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_a_trial_that_was_terminated_has_failed_and_a_search_ends_its_trial(
    tmp_path: Path, user: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "src.search", *SHORT, "seed=0", "data.batch_size=50,64"]
    with subprocess.Popen(
        [*command, "--output", str(tmp_path), "--trials", "2"],
        cwd=REPOSITORY, env=user, stdout=subprocess.PIPE, text=True,
    ) as search:  # fmt: skip
        waited_for((tmp_path / "trial_000/config.yaml").exists)
        os.kill(children(search.pid)[0], signal.SIGTERM)
        waited_for((tmp_path / "trial_001/config.yaml").exists)
        (trial,) = children(search.pid)
        search.terminate()
        assert search.wait() == 143
    waited_for(lambda: not Path(f"/proc/{trial}").exists())
    first, second = open_study(tmp_path, asked_of(tmp_path)).trials[:2]
    assert [first.state.name, second.state.name] == ["FAIL", "FAIL"]
    assert first.user_attrs["error"] == "exit status 143"
    assert "interrupted; to resume" in (tmp_path / "trial_000.log").read_text()


@pytest.mark.slow
def test_a_study_records_failures_goes_on_and_reads_no_ood_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # the OOD set is not there; batches of no image fail
    gone = "~data.ood.noise", "data.ood.photographs._target_=src.data.ImageFolder"
    gone += "~data.ood.photographs.count", "+data.ood.photographs.path=/nowhere"
    gone += ("+data.ood.photographs.size=24",)
    space = ("data.batch_size=0,50",)
    options = ["--output", str(tmp_path / "study"), "--seed", "1"]
    main([*SHORT, *gone, *space, *options, "--trials", "1"])
    first = capsys.readouterr().out
    main([*SHORT, *gone, *space, *options, "--trials", "3"])
    printed = first + capsys.readouterr().out

    study = open_study(tmp_path / "study", json.loads(json.dumps(asked_of(tmp_path / "study"))))
    states = [trial.state.name for trial in study.trials]
    assert len(states) == 3
    assert {*states} == {"COMPLETE", "FAIL"}
    for trial in study.trials:
        run = tmp_path / "study" / f"trial_{trial.number:03}"
        assert not (run / "metrics.json").exists()
        assert run.with_suffix(".log").exists()
        if trial.state.name == "COMPLETE":
            assert trial.value == read_outcome(run).norm_ratio
        else:
            assert trial.user_attrs["error"]
    assert "best: trial " in printed
    assert "data.batch_size=50" in printed.splitlines()[-1]


def asked_of(folder: Path) -> Any:
    """What the study in a folder looks for."""
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    return optuna.load_study(study_name="search", storage=storage).user_attrs["asked"]


@pytest.mark.slow
def test_a_training_without_benchmark_selects_and_scores_nothing(
    command: Callable[..., None], tmp_path: Path
) -> None:
    command("src.train", *SHORT, "benchmark=false", f"hydra.run.dir={tmp_path}")
    assert read_outcome(tmp_path).selected_block
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    curves = {"metrics.csv", "norm_ratio.csv", "selection.json", "selection_stability.json"}
    assert left == {"config.yaml", "last.ckpt", "best.ckpt"} | curves

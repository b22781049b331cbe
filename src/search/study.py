"""Runs an Optuna study. Each trial trains a network and is judged without OOD images."""

__all__ = ["Outcome", "best_trial", "outcomes", "read_outcome", "search", "shown"]

import csv
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from src.records.atomic import held
from src.records.console import say
from src.records.history import read_history
from src.records.literal import quoted
from src.records.selection import margin

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial


class Outcome(NamedTuple):
    """Results of a trial on ID images."""

    norm_ratio: float  # of the selected block
    margin: float  # NormRatio of the selected block minus the largest of the others
    accuracy: float  # on held-out ID images
    selected_block: str


def read_outcome(run_dir: Path) -> Outcome:
    """Returns the outcome of the last epoch, from files without results on OOD images.

    Raises:
        ValueError: If the run selected no block or logged no accuracy.
    """
    history = read_history(run_dir)
    accuracies = [row for row in rows_of(run_dir / "metrics.csv") if row.get("val/accuracy")]
    if history is None or not accuracies:
        raise ValueError(
            f"expected NormRatio and val/accuracy of each epoch, got {run_dir} without "
            "them; search with a selection and without removing the CSV logger"
        )
    ratio, selected = history.ratio[-1], int(history.selected[-1])
    accuracy, lead = float(accuracies[-1]["val/accuracy"]), float(margin(ratio, selected))
    return Outcome(float(ratio[selected]), lead, accuracy, history.block[selected])


def rows_of(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file; none if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def open_study(folder: Path, asked: Mapping[str, Any]) -> "Study":
    """Returns the study in a folder, or a new study if there is none.

    A trial that was running when an earlier search was interrupted is recorded as failed, and its
    parameters are tried again.

    Raises:
        ValueError: If the study was started with other settings.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    study = optuna.create_study(
        study_name="search", storage=storage, direction="maximize", load_if_exists=True
    )
    known = study.user_attrs.get("asked")
    if known is None:
        study.set_user_attr("asked", dict(asked))
    elif known != asked:
        differ = [key for key in asked if asked[key] != known.get(key)]
        raise ValueError(
            f"expected the settings of the study in {folder}, got another {' and '.join(differ)} "
            f"(it has {', '.join(f'{key} {known.get(key)}' for key in differ)}); choose another "
            "--output"
        )
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def search(
    folder: Path,
    fixed: Sequence[str],
    space: Mapping[str, "BaseDistribution"],
    *,
    objective: str = "norm_ratio",
    accuracy_slack: float = 0.02,
    trials: int = 20,
    seed: int = 0,
) -> "Study":
    """Runs trials until the study has the given number of them; returns the study.

    The sampler is seeded with the seed plus the number of earlier trials, so that a continued
    study does not repeat its first draws.

    Args:
        folder: Directory for `study.log`, and for the run directory and output of each trial.
        fixed: Overrides of every trial.
        space: Search space: key -> distribution.
        objective: Number of `Outcome` to maximise.
        accuracy_slack: Largest difference to the best accuracy with which a trial is eligible.
        trials: Number of trials in total, including failed and earlier ones.
        seed: Seed of the sampler.

    Raises:
        ValueError: If the study in the folder was started with other settings, or if another
            search works on it.
    """
    import optuna

    asked = {
        "objective": objective,
        "overrides": list(fixed),
        "space": {
            key: optuna.distributions.distribution_to_json(each) for key, each in space.items()
        },
    }
    with owned(folder / "study.log"):
        study = open_study(folder, asked)
        with tqdm(
            desc="search", total=trials, initial=len(finished(study)), unit=" trials",
            smoothing=0, leave=False, disable=None,
        ) as bar:  # fmt: skip
            while (number := len(finished(study))) < trials:
                study.sampler = optuna.samplers.TPESampler(seed=seed + number)
                trial = study.ask(dict(space))
                drawn = ", ".join(f"{key}={value}" for key, value in trial.params.items())
                say_above(f"trial {trial.number}: {drawn}")
                outcome = run_trial(folder / f"trial_{trial.number:03}", fixed, trial)
                conclude(study, trial, outcome, objective, accuracy_slack)
                bar.update()
    return study


@contextmanager
def owned(file: Path) -> Iterator[None]:
    """Holds the file of a study, whose running trials are those of this search alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with ExitStack() as stack:
        try:
            stack.enter_context(held(file))
        except BlockingIOError:
            raise ValueError(
                f"expected a study that no other search works on, got {file.parent}; wait until "
                "that one ends, or choose another --output"
            ) from None
        yield


def conclude(
    study: "Study", trial: "Trial", outcome: Outcome | None, objective: str, accuracy_slack: float
) -> None:
    """Records the outcome of a trial in the study; None records a failure."""
    import optuna

    if outcome is None:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return
    if objective != "accuracy":
        best = max(o.accuracy for o in (outcome, *outcomes(study).values()))
        trial.set_constraint("accuracy", best - accuracy_slack - outcome.accuracy)
    for key, value in outcome._asdict().items():
        trial.set_user_attr(key, value)
    study.tell(trial, getattr(outcome, objective))
    say_above(
        "  " + ", ".join(f"{key} {shown(value)}" for key, value in outcome._asdict().items())
    )


def say_above(text: str) -> None:
    """Prints a line above the progress bar."""
    with tqdm.external_write_mode():
        say(text)


def run_trial(run_dir: Path, fixed: Sequence[str], trial: "Trial") -> Outcome | None:
    """Trains in a separate process. If that fails, records the error and returns None."""
    overrides = [*fixed, *(f"{key}={value}" for key, value in trial.params.items())]
    group = f"group={quoted(run_dir.parent.name)}"  # shown by loggers
    command = [sys.executable, "-m", "src.train", group, *overrides, "benchmark=false"]
    trial.set_user_attr("overrides", overrides)
    log = run_dir.with_suffix(".log")
    with log.open("w") as file:
        done = subprocess.run(
            [*command, f"hydra.run.dir={quoted(str(run_dir))}"],
            stdout=file, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    try:
        if done.returncode:
            lines = [line for line in log.read_text().splitlines() if "Error" in line]
            raise ValueError(lines[-1] if lines else f"exit status {done.returncode}")
        return read_outcome(run_dir)
    except ValueError as error:
        trial.set_user_attr("error", str(error))
        say_above(f"  failed: {error} ({log})")
        return None


def finished(study: "Study") -> list["FrozenTrial"]:
    """Returns the trials that have ended, including failed ones."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def outcomes(study: "Study") -> dict[int, Outcome]:
    """Returns the outcomes of the successful trials: number -> outcome."""
    return {
        trial.number: Outcome(*(trial.user_attrs[key] for key in Outcome._fields))
        for trial in finished(study)
        if trial.value is not None
    }


def best_trial(study: "Study", objective: str, accuracy_slack: float) -> int | None:
    """Returns the number of the best eligible trial; the first one on a tie."""
    found = outcomes(study)
    if not found:
        return None
    least = max(outcome.accuracy for outcome in found.values()) - accuracy_slack
    eligible = {number: o for number, o in found.items() if o.accuracy >= least}
    return max(eligible, key=lambda number: getattr(eligible[number], objective))


def shown(value: float | str) -> str:
    """Returns a value as text; a number has four decimal places."""
    return value if isinstance(value, str) else f"{value:.4f}"

"""Search hyper-parameters with Optuna, without a single OOD image or label.

python -m src.search                                              the quickstart, conf/search.yaml
python -m src.search experiment=cifar10_brief data_dir=PATH --trials 30
python -m src.search 'optim.optimizer.lr=tag(log,interval(1e-3,1e-1))' data.batch_size=32,64,128
python -m src.search --output DIR ...                             goes on with the study in DIR

What is not an option is an override of src.train: one with a sweep (`interval`, `range`,
`choice`, or values with commas) is searched, others hold in every trial. A trial is
`python -m src.train benchmark=false`, a process of its own: it trains and selects, and reads no
OOD image. Its accuracy on held-out ID images and its NormRatios are the only things looked at.

Objectives:
    norm_ratio: NormRatio of the selected block, the quantity by which the paper chooses blocks: it
        grows with what FeatureNorm can tell apart. Alone it would be misled: an untrained VGG11
        of 27 % accuracy has a NormRatio of 1.72, a ResNet18 of 87 % has 1.20, and tells OOD images
        far better (docs/results.md). Therefore only trials count whose accuracy is within
        `accuracy_slack` of the best of all trials.
    margin: NormRatio of the selected block minus that of the second, under the same condition: how
        sure the selection is. It says less of how well the block tells.
    accuracy: held-out accuracy alone, the usual objective, to compare with.
"""

__all__ = ["main"]

import argparse
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from src.records.configs import CONF
from src.records.console import say
from src.search.space import split
from src.search.study import best_trial, outcomes, search, shown

DEFAULTS = CONF / "search.yaml"
OBJECTIVES = ("norm_ratio", "margin", "accuracy")


def parser(defaults: Mapping[str, Any]) -> argparse.ArgumentParser:
    """Returns the command line."""
    asked = argparse.ArgumentParser(
        "python -m src.search", description=(__doc__ or "").partition("Objectives")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    asked.add_argument("override", nargs="*", help="of src.train; one with a sweep is searched")
    asked.add_argument("--objective", choices=OBJECTIVES, default=defaults["objective"])
    asked.add_argument("--accuracy-slack", type=float, default=defaults["accuracy_slack"])
    asked.add_argument("--trials", type=int, default=defaults["trials"], help="in all")
    asked.add_argument("--seed", type=int, default=defaults["seed"], help="of the sampler")
    asked.add_argument(
        "--output", type=Path, metavar="DIR", help="of the study; one that is there goes on",
        default=Path("logs", "search", f"{datetime.now():%Y-%m-%d_%H-%M-%S}"),
    )  # fmt: skip
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, searches, prints the best trial and the command that repeats it.

    Raises:
        SystemExit: with one message, if the search cannot be made.
    """
    defaults = yaml.safe_load(DEFAULTS.read_text())
    command = parser(defaults)
    asked = command.parse_args(arguments)
    try:
        fixed, space = split(asked.override, defaults["space"])
        study = search(
            asked.output, fixed, space, objective=asked.objective,
            accuracy_slack=asked.accuracy_slack, trials=asked.trials, seed=asked.seed,
        )  # fmt: skip
    except ModuleNotFoundError as error:
        command.exit(2, f"expected Optuna, got {error}; install it: pip install -e .[search]\n")
    except ValueError as error:
        command.exit(2, f"{error}\n")
    best = best_trial(study, asked.objective, asked.accuracy_slack)
    if best is None:
        command.exit(1, f"no trial has succeeded; see {asked.output}/*.log\n")
    outcome = outcomes(study)[best]
    say(f"best: trial {best}, {asked.objective} {shown(getattr(outcome, asked.objective))}")
    say("python -m src.train " + shlex.join(study.trials[best].user_attrs["overrides"]))


if __name__ == "__main__":
    main()

"""Search hyper-parameters with Optuna, without any OOD image or label.

python -m src.search                                              the space of conf/search.yaml
python -m src.search experiment=cifar10_brief data_dir=PATH --trials 30
python -m src.search 'optim.optimizer.lr=tag(log,interval(1e-3,1e-1))' data.batch_size=32,64,128
python -m src.search --output DIR ...                             continues the study in DIR

Arguments that are not options are overrides of src.train. An override with a sweep (`interval`,
`range`, `choice`, or values with commas) is searched; all others apply to every trial. Each trial
runs `python -m src.train benchmark=false` in its own process: it trains a network and selects a
block without reading OOD images. The search uses only NormRatio and held-out ID accuracy.

Objectives:
    norm_ratio: NormRatio of the selected block, by which the paper chooses blocks. It is not
        enough on its own: an untrained VGG11 with 27 % accuracy has a NormRatio of 1.72, a
        ResNet18 with 87 % has 1.20 and detects OOD images far better (docs/results.md). Only
        trials whose accuracy is within `accuracy_slack` of the best accuracy are eligible.
    margin: NormRatio of the selected block minus the largest of the others, under the same
        condition. It measures how certain the selection is, not how well the block detects.
    accuracy: Accuracy on held-out ID images, the usual objective, for comparison.
"""

__all__ = ["main"]

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from src.records.configs import CONF
from src.records.console import say
from src.records.literal import shell_word
from src.search.space import split
from src.search.study import best_trial, outcomes, search, shown

DEFAULTS = CONF / "search.yaml"
OBJECTIVES = ("norm_ratio", "margin", "accuracy")


def parser(defaults: Mapping[str, Any]) -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    asked = argparse.ArgumentParser(
        "python -m src.search", description=(__doc__ or "").partition("Objectives")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    asked.add_argument(
        "override", nargs="*", help="override of src.train; one with a sweep is searched"
    )
    asked.add_argument("--objective", choices=OBJECTIVES, default=defaults["objective"])
    asked.add_argument("--accuracy-slack", type=float, default=defaults["accuracy_slack"])
    asked.add_argument(
        "--trials",
        type=int,
        default=defaults["trials"],
        help="number of trials, including those of an earlier search",
    )
    asked.add_argument("--seed", type=int, default=defaults["seed"], help="seed of the sampler")
    asked.add_argument(
        "--output", type=Path, metavar="DIR", help="directory of the study, which may exist",
        default=Path("logs", "search", f"{datetime.now():%Y-%m-%d_%H-%M-%S}"),
    )  # fmt: skip
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a search; prints the best trial and the command that repeats it.

    Raises:
        SystemExit: With one message, if the search cannot run or no trial succeeded.
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
        command.exit(1, f"expected a trial that succeeds, got none; see {asked.output}/*.log\n")
    outcome = outcomes(study)[best]
    say(f"best: trial {best}, {asked.objective} {shown(getattr(outcome, asked.objective))}")
    overrides = study.trials[best].user_attrs["overrides"]
    say(" ".join(["python -m src.train", *map(shell_word, overrides)]))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends its trial too
    main()

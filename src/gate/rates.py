"""How a calibration decides on test images: false alarms, and what is found of each OOD set."""

__all__ = ["ALPHAS", "rates", "rates_table"]

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.stats import binomtest

from src.gate.calibration import Calibration
from src.metrics.score_table import Scores

ALPHAS = (0.01, 0.05, 0.1)


def rates(
    scores: Scores,
    alphas: Sequence[float],
    *,
    classes: Sequence[str],
    by_class: bool = False,
    column: int = 0,
) -> dict[str, Any]:
    """Returns alpha -> bound, false alarms with their 95 % interval, and OOD set -> share found.

    The interval is that of Clopper and Pearson. An alpha for which there are too few calibration
    images is left out.

    Args:
        scores: Scores for "calibration", then "id", then the OOD sets.
        alphas: Rates of false alarms.
        classes: Names of the classes.
        by_class: Whether the p-value is conditional on the predicted class.
        column: Position of the detector.
    """
    of = {name: scores.source == number for number, name in enumerate(scores.sources)}
    known, *tested = of
    table: dict[str, Any] = {}
    for alpha in sorted(alphas):
        prediction = scores.prediction[of[known]] if by_class else None
        try:
            calibration = Calibration(scores.score[of[known], column], prediction, alpha, classes)
        except ValueError:
            continue
        flagged = {
            name: calibration(scores.score[of[name], column], scores.prediction[of[name]])[1]
            for name in tested
        }
        false = flagged.pop("id")
        interval = binomtest(int(false.sum()), len(false)).proportion_ci()
        table[str(alpha)] = {
            "bound": calibration.bound,
            "false_alarms": float(false.double().mean()),
            "low": float(interval.low),
            "high": float(interval.high),
            "found": {name: float(each.double().mean()) for name, each in flagged.items()},
        }
    return table


def rates_table(found: Mapping[str, Any]) -> Table:
    """Returns one row per alpha, in percent."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption="95 % interval in brackets; all in %")
    sets = [name for each in found.values() for name in each["found"]]
    for column in ("alpha", "bound", "false alarms", *dict.fromkeys(sets)):
        table.add_column(column, justify="right", overflow="fold")
    for alpha, row in found.items():
        table.add_row(
            f"{100 * float(alpha):g}",
            f"{100 * row['bound']:.1f}",
            f"{100 * row['false_alarms']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})",
            *(f"{100 * each:.1f}" for each in row["found"].values()),
        )
    return table

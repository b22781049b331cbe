"""A watch over the images of one command, in the order of their rows."""

__all__ = ["watched_rows"]

import csv
from collections.abc import Sequence
from io import StringIO
from math import nan
from pathlib import Path

import torch

from src.gate.calibration import Calibration
from src.gate.rows import Row
from src.metrics.watch import Watch, rows
from src.records.atomic import write_whole
from src.records.literal import csv_cell


def watched_rows(
    path: Path, calibration: Calibration, decided: Sequence[Row], *, delta: float, seed: int = 0
) -> Row | None:
    """Writes what a watch says after each image; returns the row that raised the alarm, if any.

    An image that could not be decided is left out.

    Args:
        path: CSV file, with the columns of `src.metrics.watch.rows` behind the path of the image.
        calibration: Calibration of the gate.
        decided: Rows of the images, in the order of the stream.
        delta: Probability of a false alarm, within (0, 1).
        seed: Breaks ties.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If delta is not within (0, 1).
    """
    watch = Watch(calibration.known, delta=delta, seed=seed)
    stream = [row for row in decided if row.error is None]
    score = [nan if row.score is None else row.score for row in stream]
    said = rows(watch.update(torch.tensor(score, dtype=torch.float64)))
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *(said[0] if said else ())])
    for row, each in zip(stream, said, strict=True):
        writer.writerow([csv_cell(row.path), *each.values()])
    write_whole(path, lambda partial: partial.write_text(text.getvalue(), encoding="utf-8"))
    return None if watch.alarm is None else stream[watch.alarm - 1]

"""TensorBoard: curves over epochs, a table of runs, figures and histograms."""

__all__ = ["TensorBoardLogger"]

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch.loggers import TensorBoardLogger as LightningTensorBoardLogger
from PIL import Image

from src.loggers.base import Dispensable, needs, over_epochs
from src.loggers.media import Histograms, Media
from src.records.literal import from_csv_cell, markdown_text

# the tab "Custom scalars" shows all blocks in one chart
OVERLAID = {
    "block selection": {
        "NormRatio": ["Multiline", ["norm_ratio/.*"]],
        "FeatureNorm of ID images": ["Multiline", ["norm_id/.*"]],
        "FeatureNorm of pseudo-OOD images": ["Multiline", ["norm_pseudo_ood/.*"]],
    }
}
MOST_ROWS = 300  # of a table, because TensorBoard shows it as text


@needs("tensorboard", extra="tensorboard")
class TensorBoardLogger(Dispensable, LightningTensorBoardLogger):
    """Lightning's TensorBoard logger, with the epoch as x value where there is one.

    Args:
        save_dir: Directory of the event files.
        options: Further arguments of Lightning's logger.
    """

    def __init__(self, save_dir: str, **options: Any) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False, **options)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs scalars."""
        super().log_metrics(*over_epochs(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs the configuration as text; `log_results` adds it to the table of runs."""
        super().log_hyperparams(params, *args, **kwargs)
        text = "    " + yaml.safe_dump(params, sort_keys=False).replace("\n", "\n    ")
        self.attempt(lambda: self.experiment.add_text("config", text))
        self.attempt(lambda: self.experiment.add_custom_scalars(OVERLAID))

    def log_results(
        self, scalars: Mapping[str, float], facts: Mapping[str, Any], step: int
    ) -> None:
        """Logs AUROC averaged over the OOD sets: a chart for each number would be too many."""
        shown = re.compile(r"ood/average/.*/auroc")
        average = {key: scalars[key] for key in scalars if shown.fullmatch(key)}
        numbers = {key: facts[key] for key in facts if isinstance(facts[key], float)}
        log_table = LightningTensorBoardLogger.log_hyperparams
        self.attempt(lambda: log_table(self, self.hparams, average | numbers, step))
        text = "\n".join(f"* {key}: {value}" for key, value in facts.items())
        self.attempt(lambda: self.experiment.add_text("results", text, step))

    def log_media(self, media: Media, step: int) -> None:
        """Logs pictures, tables as text, and histograms."""
        self.attempt(lambda: self._show(media, step))

    def _show(self, media: Media, step: int) -> None:
        writer = self.experiment
        pictures = {name: Image.open(path).convert("RGB") for name, path in media.figures.items()}
        pictures |= {name: lines.picture() for name, lines in media.lines.items()}
        for name, picture in pictures.items():
            writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
        for name, path in media.tables.items():
            if table := markdown(path):
                writer.add_text(name, table, step)
        for name, histograms in media.histograms.items():
            for source in histograms.counts:
                writer.add_histogram_raw(f"{name}/{source}", *raw(histograms, source), step)
        for name, images in media.images.items():
            pixels = np.stack([np.asarray(image.convert("RGB")) for image, _ in images])
            writer.add_images(name, pixels, step, dataformats="NHWC")


def markdown(path: Path) -> str:
    """Returns a CSV file as a Markdown table; empty if it has too many rows."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    if len(rows) > MOST_ROWS:
        return ""
    shown = [[markdown_text(from_csv_cell(cell)) for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *shown]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def raw(histograms: Histograms, source: str) -> tuple[Any, ...]:
    """Returns the arguments of `add_histogram_raw`: range, moments, upper edges and counts."""
    edges, count = histograms.edges, histograms.counts[source]
    middle = (edges[1:] + edges[:-1]) / 2
    moments = [float((count * middle**power).sum()) for power in (0, 1, 2)]
    return (edges[0], edges[-1], *moments, edges[1:].tolist(), count.tolist())

"""Draw the figure of the method, docs/figures/method.png, from a finished run.

python -m docs.method logs/quickstart/TIME

The committed figure comes from `OMP_NUM_THREADS=1 python -m src.train`.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from src.data.datasets import spread
from src.metrics import Scores
from src.records.columns import chosen_column
from src.records.history import History, read_history
from src.records.palette import COLORS, GREY, PALE, SELECTED, STYLE
from src.report.figures import save_figure
from src.run.pretrained import load_network

ID, OOD = COLORS[0], COLORS[3]
FIGURE = Path(__file__).parent / "figures" / "method.png"


def shown_images(run_dir: Path, history: History) -> list[list[Any]]:
    """Returns title, pixels, mean feature map and norm of an ID image and of its puzzle."""
    network = load_network(f"{run_dir}/checkpoints/last.ckpt")
    block, config = history.block[history.selected[-1]], OmegaConf.load(run_dir / "config.yaml")
    images = instantiate(config.data.test).load()
    batch = images[spread(len(images), 200)]  # of all classes
    image = batch.image.float() / 255
    puzzle = instantiate(config.selection.pseudo_ood)(image, batch.index)
    with torch.no_grad():
        clean, broken = network.observe(image), network.observe(puzzle)
    row = int((clean.norm[block] / broken.norm[block]).argsort()[len(image) // 2])  # the median
    return [
        [text, pixels[row, 0], seen.feature_map[block][row].relu().mean(0), seen.norm[block][row]]
        for text, pixels, seen in (("ID image", image, clean), ("its puzzle", puzzle, broken))
    ]


def draw_images(panels: Any, images: list[list[Any]]) -> None:
    """Draws each image above its feature map."""
    strongest = max(float(map_.max()) for _, _, map_, _ in images)
    for (top, bottom), (text, pixels, map_, norm) in zip(panels.T, images, strict=True):
        top.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        top.set_title(text, fontsize=8)
        bottom.imshow(map_, cmap="cividis", vmin=0, vmax=strongest)
        bottom.set_xlabel(f"FeatureNorm {norm:.2f}", fontsize=8)
        for axes in (top, bottom):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    panels[1, 0].set_ylabel("mean map of\nselected block", fontsize=8)


def draw_ratio(axes: Axes, history: History) -> None:
    """Draws the NormRatio of each block."""
    chosen = history.selected[-1]
    color = [SELECTED if at == chosen else PALE for at in range(len(history.block))]
    axes.barh(range(len(history.block)), history.ratio[-1] - 1, left=1, color=color)
    axes.axvline(1, color=GREY, lw=0.8)
    axes.set_yticks(range(len(history.block)), history.block)
    axes.invert_yaxis()
    axes.text(
        history.ratio[-1][chosen], chosen, "selected ", ha="right", va="center", color="white"
    )
    axes.set_xlabel("NormRatio: FeatureNorm of images / of puzzles")


def draw_scores(axes: Axes, scores: Scores, column: int, ood: str) -> None:
    """Draws the densities of the scores from the selected block."""
    for source, label, color in (("id", "ID", ID), (ood, "OOD", OOD)):
        look: Any = {"density": True, "histtype": "stepfilled", "alpha": 0.55}
        axes.hist(scores.of(source)[:, column].numpy(), 30, color=color, label=label, **look)
    axes.set(yticks=[], xlabel="score: FeatureNorm of the selected block")
    axes.spines["left"].set_visible(False)
    axes.legend()


@rc_context(STYLE)
def method(run_dir: Path) -> Figure:
    """Returns a figure of the three steps of the method, with the numbers of a run."""
    history, scores = (
        read_history(run_dir / "norm_ratio.csv"),
        Scores.load(run_dir / "scores.npz"),
    )
    chosen = chosen_column(scores.detectors, history.block[history.selected[-1]])
    assert chosen is not None
    figure = Figure(figsize=(10, 2.9))
    parts = figure.subfigures(1, 3, width_ratios=(1, 1.2, 1.1))
    draw_images(parts[0].subplots(2, 2), shown_images(run_dir, history))
    draw_ratio(parts[1].subplots(), history)
    draw_scores(parts[2].subplots(), scores, scores.column(chosen), scores.sources[1])
    for part, title in zip(
        parts,
        (
            "1  Cut ID images into puzzles",
            "2  Select the block whose norm falls most",
            "3  Score images with its norm",
        ),
        strict=True,
    ):
        part.suptitle(title, x=0.02, ha="left", weight="bold", fontsize=9)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m docs.method", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="Directory of a finished run.")
    save_figure(FIGURE, partial(method, parser.parse_args().run_dir))

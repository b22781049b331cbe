"""Draw docs/figures/detectors.png, the AUROC of every detector on each network, from docs/results.

python -m bench.figures
"""

from pathlib import Path
from statistics import mean

from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.cifar10_tables import RUNS, TITLES
from bench.profile_tables import content
from src.compare.runs import Run
from src.records.columns import detector_columns
from src.records.palette import COLORS, GREY, SELECTED, STYLE
from src.report.figures import save_figure

FIGURE = Path(__file__).parents[1] / "docs/figures/detectors.png"
OURS = "norm_profile"
MARKERS = dict(zip(TITLES.values(), "osD", strict=True))


def auroc() -> dict[str, dict[str, float]]:
    """Returns detector -> network -> average AUROC in percent, of detectors with all networks."""
    runs = {title: Run(RUNS / f"{name}.json") for name, title in TITLES.items()}
    names = {name for run in runs.values() for name in detector_columns(run.results)}
    found = {
        name: {title: 100 * run.results[name]["average"]["auroc"] for title, run in runs.items()}
        for name in names
        if all(name in run.results for run in runs.values())
    }
    profile = content()["networks"]
    found[OURS] = {
        title: profile[title]["detectors"]["NormProfile"]["average"][0] for title in runs
    }
    return dict(sorted(found.items(), key=lambda item: mean(item[1].values())))


def draw() -> Figure:
    """Returns the figure: a line for each detector, a marker for each network."""
    values = auroc()
    figure = Figure(figsize=(5.6, 0.19 * len(values) + 0.9), layout="constrained")
    axes = figure.subplots()
    for row, (name, each) in enumerate(values.items()):
        colour = SELECTED if name == OURS else COLORS[0]
        axes.plot([min(each.values()), max(each.values())], [row, row], color=GREY, lw=0.8)
        for title, marker in MARKERS.items():
            label = title if name == OURS else None
            axes.plot(each[title], row, marker, color=colour, ms=4, label=label)
    axes.set(
        yticks=range(len(values)),
        ylim=(-0.7, len(values) - 0.3),
        xlabel="AUROC, mean of five OOD sets (%)",
    )
    axes.set_yticklabels(values)
    axes.get_yticklabels()[[*values].index(OURS)].set(color=SELECTED, fontweight="bold")
    axes.set_title("CIFAR-10: detectors on three networks, sorted by their mean; ours in red")
    axes.legend(loc="upper left", frameon=False)
    return figure


if __name__ == "__main__":
    with rc_context(STYLE):
        save_figure(FIGURE, draw)

"""Names of sets, blocks, detectors and classes appear in every output of a report as they are."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from src.loggers import Lines
from src.metrics.score_table import Scores
from src.records.console import show
from src.report.media import keys_of
from src.report.results import FinishedRun, write_report
from src.report.tables import block_table, result_table, selection_table
from tests.fakes import PageReader

pytestmark = [
    pytest.mark.filterwarnings("ignore:constrained_layout not applied:UserWarning"),
    pytest.mark.slow,
]
NAMES = [
    r"$\frac$", "$", "[bold]x[/]", "[/]", "a=b", "a,b; c", "=1+1", "@x", "-x", "größe", "日本",
    "<script>alert(1)</script>", "{{ 7 * 7 }}", ":smile:", "x\ny", "a|b", "../up", "\\", "2024",
    "null",
]  # fmt: skip


def report_of(folder: Path, name: str) -> dict[str, Any]:
    """A report in which everything that can have a name has this one."""
    columns = ("featurenorm", f"featurenorm@{name}", "featurenorm@b", name)
    generator = torch.Generator().manual_seed(0)
    source = torch.arange(2).repeat_interleave(12)
    score = torch.randn(24, len(columns), generator=generator, dtype=torch.float64)
    label = torch.where(source == 0, torch.arange(24) % 2, -1)
    row = torch.stack([source, torch.arange(12).repeat(2), label, torch.arange(24) % 2], dim=1)
    folder.mkdir()
    (folder / "config.yaml").write_text(f"# python\nname: {json.dumps(name)}\n")
    return write_report(
        FinishedRun(
            folder, Scores(columns, ("id", name), score, row), experiment=name, network=name,
            selected_block=name, norm_ratio={name: 1.2, "b": 1.0}, forward_passes=1,
            seconds={"benchmark": 1.0},
            pictures=lambda _, at: torch.zeros(len(at), 1, 8, 8).byte(),
            data={"protocol": name, "groups": {f"of {name}": [name]}, "classes": [name, "b"]},
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_report_shows_a_name_as_it_is(name: str, tmp_path: Path) -> None:
    metrics = report_of(tmp_path / "run", name)
    figures = {path.stem for path in (tmp_path / "run/figures").iterdir()}
    assert {"norm_ratio_by_depth", "norm_by_depth", "score_histograms", "roc"} < figures
    assert {"most_confusing", "confusion"} < figures
    page = PageReader((tmp_path / "run/report.html").read_text(encoding="utf-8"))
    assert page.words.count(" ".join(name.split())) > 5
    assert not {"script", "b>x"} & {tag for tag, _ in page.elements}
    with (tmp_path / "run/ood.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
    assert name in {cell.removeprefix("'") for cell in cells}
    assert json.loads((tmp_path / "run/metrics.json").read_text())["experiment"] == name
    printed = shown(metrics, name)
    assert printed.count(name.split("\n")[0]) >= 4


def shown(metrics: dict[str, Any], name: str) -> str:
    """What the terminal shows."""
    console = Console(width=300, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(result_table(metrics), block_table(metrics), f"results in {name}")
        console.print(selection_table({name: 1.0}, name))
    return captured.get()


def test_the_console_takes_nothing_for_a_style(capsys: pytest.CaptureFixture[str]) -> None:
    show("results in logs/[bold]x[/]/:smile:")
    assert capsys.readouterr().out == "results in logs/[bold]x[/]/:smile:\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_chart_of_a_logger_shows_a_name_as_it_is(name: str) -> None:
    assert Lines(name, name, [0, 1], {name: [0.0, 1.0]}).picture().size[0] > 100


def test_keys_of_loggers_are_no_paths_and_tell_names_apart() -> None:
    keys = keys_of([*NAMES, "a_b", "a=b", "größe"])
    assert len({*keys.values()}) == len(keys) == len(NAMES) + 1
    assert not any(set(key) & set("./\\\n=<") for key in keys.values())
    assert keys["größe"] == "größe"

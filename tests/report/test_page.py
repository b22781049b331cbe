"""The page of a run: of its files alone, for any names, and as a browser shows it."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from PIL import Image
from playwright.sync_api import Browser, Page
from rich.console import Console

from src.metrics.score_table import Scores
from src.report.__main__ import main
from src.report.blocks import blocks_of, selection_of
from src.report.page import detector_rows, duration, write_page
from src.report.results import FinishedRun, write_report
from src.report.tables import block_table
from tests import TINY
from tests.fakes import PageReader

# long names leave a panel of `score_histograms` no room; the page is what is looked at here
pytestmark = pytest.mark.filterwarnings("ignore:constrained_layout not applied:UserWarning")
COMMAND = f"python -m src.train {' '.join(TINY)} trainer.max_epochs=2 logger=wandb"
SCRIPT, AMPERSAND = "<script>alert(1)</script>", 'a & "b" $x'
BLOCKS = ("layer1.0", "layer2.0", "layer3.0")
NORM_RATIO = {"layer1.0": 0.97, "layer2.0": 1.3, "layer3.0": 1.1}
each_page = pytest.mark.parametrize(
    "which", [pytest.param("finished_run", marks=pytest.mark.slow), "rich"]
)
KEYS = ("auroc", "fpr95_id_pos", "fpr95_ood_pos", "aupr_in", "aupr_out", "detection_error")


def scores_of(detectors: tuple[str, ...], sources: tuple[str, ...], classes: int = 3) -> Scores:
    """20 images of each source; those of OOD sets score lower."""
    generator = torch.Generator().manual_seed(0)
    source = torch.arange(len(sources)).repeat_interleave(20)
    score = torch.randn(len(source), len(detectors), generator=generator, dtype=torch.float64)
    score -= (source > 0).double()[:, None]
    index = torch.arange(20).repeat(len(sources))
    label = torch.where(source == 0, index % classes, -1)
    prediction = (index + (index < 4)) % classes
    row = torch.stack([source, index, label, prediction], dim=1)
    return Scores(detectors, sources, score, row)


def pictures(name: str, index: torch.Tensor) -> torch.Tensor:
    return (index[:, None, None, None] * 12).expand(-1, 1, 8, 8).to(torch.uint8)


def page_of(folder: Path, scores: Scores, **facts: Any) -> Path:
    """A run directory, filled by a real report."""
    given: dict[str, Any] = {
        "experiment": "mine", "network": "ResNet", "selected_block": None, "norm_ratio": {},
        "forward_passes": 7, "seconds": {"benchmark": 1.0}, "pictures": pictures,
    }  # fmt: skip
    write_report(FinishedRun(folder, scores, **given | facts))
    return folder


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 detectors, 8 OOD sets, 3 blocks, and names that only a machine would choose."""
    folder = tmp_path_factory.mktemp("rich")
    names = ("featurenorm", *(f"featurenorm@{b}" for b in BLOCKS), "knn@layer1.0", SCRIPT)
    names += tuple(f"a_detector_with_a_long_name_{number}" for number in range(48))
    sets = ("id", AMPERSAND, *(f"an_ood_set_of_a_long_name_{number}" for number in range(7)))
    classes = [SCRIPT, AMPERSAND, "cat" * 40]
    data = {"protocol": "<b>paper</b>", "groups": {"<i>near": [AMPERSAND]}, "classes": classes}
    stability = {
        "epoch": 2,
        "bootstrap": {
            "replicates": 1000,
            "share": {"layer1.0": 0.0, "layer2.0": 0.982, "layer3.0": 0.018},
            "standard_error": dict.fromkeys(BLOCKS, 0.0123),
            "margin_standard_error": 0.0777,
        },
        "seeds": [
            {"seed": 1, "selected": "layer2.0", "norm_ratio": NORM_RATIO},
            {"seed": 2, "selected": "layer3.0", "norm_ratio": NORM_RATIO},
        ],
    }
    weights = {
        name: {
            **{block: {"norm": 0.25, "mean": -0.5} for block in BLOCKS},
            SCRIPT: {AMPERSAND: None},
            "logits": {"energy": 1.25},
        }
        for name in (SCRIPT, "second", "third", "fourth")
    }
    (folder / "selection_stability.json").write_text(json.dumps(stability))
    (folder / "config.yaml").write_text("# python -m src.train name='<x>'\nseed: 3\n")
    page_of(
        folder, scores_of(names, sets), selected_block="layer2.0", norm_ratio=NORM_RATIO,
        data=data, block_weights=weights,
    )  # fmt: skip
    return folder


def read(run_dir: Path) -> PageReader:
    return PageReader((run_dir / "report.html").read_text())


@pytest.mark.slow
@each_page
def test_a_page_loads_nothing(which: str, request: pytest.FixtureRequest) -> None:
    page = (request.getfixturevalue(which) / "report.html").read_text()
    reader = PageReader(page)
    loading = {"src", "srcset", "href", "data", "poster", "background", "action"}
    for tag, attributes in reader.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        assert not any(name.startswith("on") for name in attributes)
        for name in loading & attributes.keys():
            assert attributes[name].startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import", page)


def test_the_page_of_a_real_run_says_what_its_files_say(finished_run: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())
    words = read(finished_run).words
    average = metrics["detectors"]["featurenorm"]["average"]
    assert f"ID accuracy {100 * metrics['id_accuracy']:.1f} %" in words
    assert f"selected block {metrics['selected_block']} " in words
    for title, key in (
        ("average AUROC of featurenorm", "auroc"),
        ("average fpr95_id_pos", "fpr95_id_pos"),
        ("average fpr95_ood_pos", "fpr95_ood_pos"),
    ):
        assert f"{title} {100 * average[key]:.1f} %" in words
    for text in (*metrics["counts"], "Over epochs:", "Over images:", "Over puzzles:"):
        assert text in words
    assert "In hindsight, with the OOD images that the selection must not use" in words
    assert COMMAND in words
    assert "200 of the training images are held out" in words
    images = [attributes for tag, attributes in read(finished_run).elements if tag == "img"]
    assert len(images) == 7
    assert all(len(each["alt"]) > 20 for each in images)


def test_the_stability_of_a_real_run_is_in_its_metrics(finished_run: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())
    found = metrics["selection_stability"]
    assert found == json.loads((finished_run / "selection_stability.json").read_text())
    assert found["epoch"] == 1
    assert found["bootstrap"]["replicates"] == 1000
    assert list(found["bootstrap"]["share"]) == list(metrics["norm_ratio"])
    assert [each["seed"] for each in found["seeds"]] == [1, 2, 3, 4]


def test_a_page_follows_from_the_files_alone(
    finished_run: Path, tmp_path: Path, command: Callable[..., None]
) -> None:
    for name in ("metrics.json", "norm_ratio.csv", "config.yaml"):
        (tmp_path / name).write_bytes((finished_run / name).read_bytes())
    (tmp_path / "figures").mkdir()
    for path in (finished_run / "figures").iterdir():
        (tmp_path / "figures" / path.name).write_bytes(path.read_bytes())
    command("src.report", str(tmp_path))
    again, first = (folder / "report.html" for folder in (tmp_path, finished_run))
    assert again.read_text() == first.read_text()


def test_a_directory_that_is_no_finished_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileNotFoundError, match=r"without a metrics\.json; name one such as"):
        write_page(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path)])
    assert "expected the directory of a finished run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_names_are_text_and_nothing_else(rich: Path) -> None:
    page = (rich / "report.html").read_text()
    reader = PageReader(page)
    assert "<script" not in page
    assert {tag for tag, _ in reader.elements} & {"i"} == set()
    for name in (SCRIPT, AMPERSAND, "<b>paper</b>", "<i>near", "name='<x>'"):
        assert name in reader.words


def test_the_page_tells_how_firmly_the_block_was_selected(rich: Path) -> None:
    words = read(rich).words
    assert "selected in 98.2 % of 1,000 bootstrap samples" in words
    assert "layer3.0 in 1.8 %" in words
    assert "layer1.0 in 0.0 %" not in words
    assert "standard error of the margin is 0.0777" in words
    assert "1 of 2 other seeds of the puzzles select it; seed 2 layer3.0" in words


def test_the_page_shows_the_weight_of_each_block(rich: Path) -> None:
    words, page = read(rich).words, (rich / "report.html").read_text()
    assert f"{SCRIPT}, second, third choose no block but weigh them all" in words
    assert "Weights of fourth" not in words  # only in metrics.json
    table = page.partition("Weights of second")[2].partition("</table>")[0]
    assert re.findall(r"<td[^>]*>(.*?)</td>", table) == [
        *("0.9700", "+0.25", "-0.50", ""), *("1.3000", "+0.25", "-0.50", ""),
        *("1.1000", "+0.25", "-0.50", ""), *("", "", "", "<small>never varies</small>"),
    ]  # fmt: skip
    assert "Weight of the energy: +1.25" in words
    assert re.search(r"layer2\.0 selected 1\.3000 \+0\.25", words)


def test_a_run_that_weighs_no_block_has_no_such_section(tmp_path: Path) -> None:
    words = read(page_of(tmp_path, scores_of(("msp",), ("id", "noise")))).words
    assert "The weight of each block" not in words


def results_of(*auroc: float) -> dict[str, dict[str, dict[str, float]]]:
    """Detectors a, b, ... of these AUROC on "x", with FPR95 that fall as AUROC rises."""
    rows = [dict.fromkeys(KEYS, 0.0) | {"auroc": each} for each in auroc]
    rows = [row | {"fpr95_id_pos": 1 - row["auroc"], "fpr95_ood_pos": 0.5} for row in rows]
    return {chr(97 + number): {"x": row, "average": row} for number, row in enumerate(rows)}


def test_the_best_of_a_column_is_marked_as_it_reads() -> None:
    results = results_of(0.5, 0.90001, 0.90004, 0.899)
    rows = dict(detector_rows(results, results))
    assert list(rows) == ["c", "b", "d", "a"]
    marked = {
        name: {key: best for key, (_, best) in row["x"].items()} for name, row in rows.items()
    }
    assert {name for name, row in marked.items() if row["auroc"]} == {"b", "c"}
    assert {name for name, row in marked.items() if row["fpr95_id_pos"]} == {"b", "c"}
    assert {name for name, row in marked.items() if row["fpr95_ood_pos"]} == {*"abcd"}
    assert rows["c"]["x"]["auroc"] == ("90.0", True)
    alone = dict(detector_rows(results, ["a"]))
    assert not any(best for _, best in alone["a"]["x"].values())


def test_every_column_of_the_page_marks_its_best(rich: Path) -> None:
    metrics = json.loads((rich / "metrics.json").read_text())
    page = (rich / "report.html").read_text()
    table = page.partition('<table class="ood">')[2].partition("</table>")[0]
    plain = {name: row for name, row in metrics["detectors"].items() if "@" not in name}
    columns = ["average", "<i>near", *list(metrics["counts"])[1:]]
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in table.split("<tr")[2:]]
    assert [len(row) for row in cells] == [len(columns)] * len(plain)
    for number, column in enumerate(columns):
        for place, key in enumerate(KEYS[:3]):
            choose = max if key == "auroc" else min
            best = choose(row[column][key] for row in plain.values())
            expected = sum(
                f"{100 * row[column][key]:.1f}" == f"{100 * best:.1f}" for row in plain.values()
            )
            parts = [re.split(r"<span class=\"fpr\">| / ", row[number])[place] for row in cells]
            assert sum('class="best"' in part for part in parts) == expected
            assert any(f'<b class="best">{100 * best:.1f}</b>' in part for part in parts)


def test_detectors_at_single_blocks_have_a_table_of_their_own(rich: Path) -> None:
    first, second = (rich / "report.html").read_text().split('<table class="ood">')[1:]
    assert "@" not in first
    assert "knn@layer1.0" in second
    assert "featurenorm@" not in second


def test_a_run_without_selection_labels_or_pictures_has_a_page(tmp_path: Path) -> None:
    scores = scores_of(("msp",), ("id", "noise"))
    scores.label = torch.full_like(scores.label, -1)
    reader = read(page_of(tmp_path, scores, pictures=None))
    assert "average AUROC of msp" in reader.words
    for absent in ("ID accuracy", "The selected block", "Errors", "Over epochs"):
        assert absent not in reader.words
    assert len([tag for tag, _ in reader.elements if tag == "img"]) == 2


def test_columns_of_blocks_alone_have_a_page(tmp_path: Path) -> None:
    names = tuple(f"featurenorm@{block}" for block in BLOCKS)
    reader = read(
        page_of(
            tmp_path, scores_of(names, ("id", "noise")), selected_block="layer2.0",
            norm_ratio=NORM_RATIO,
        )
    )  # fmt: skip
    assert "average AUROC of featurenorm@layer2.0" in reader.words


def test_a_page_of_an_older_run_leaves_out_what_it_did_not_measure(tmp_path: Path) -> None:
    page_of(
        tmp_path, scores_of(("msp",), ("id", "noise")), selected_block="layer2.0",
        norm_ratio=NORM_RATIO,
    )  # fmt: skip
    path = tmp_path / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["data"], metrics["selection_stability"], metrics["block_weights"]
    path.write_text(json.dumps(metrics))
    write_page(tmp_path)
    words = read(tmp_path).words
    assert "by a margin of 0.2000" in words
    for absent in ("Over images", "Over puzzles", "hindsight"):
        assert absent not in words


def test_a_page_names_the_criterion_that_selected_and_a_tie(tmp_path: Path) -> None:
    value = dict(zip(BLOCKS, (0.31, 0.2, 0.3), strict=True))
    said = {
        "criterion": "paired_t", "value": value, "standard_error": dict.fromkeys(BLOCKS, 0.0456),
        "tied": ["layer1.0", "layer3.0"],
    }  # fmt: skip
    (tmp_path / "selection.json").write_text(json.dumps({"epoch": 2, **said}))
    names = tuple(f"featurenorm@{block}" for block in BLOCKS)
    facts = {"selected_block": "layer1.0", "norm_ratio": NORM_RATIO, "criterion": "paired_t"}
    page_of(tmp_path, scores_of(names, ("id", "noise")), value=value, **facts)
    words = read(tmp_path).words
    assert "layer1.0 has the largest paired T of 3 blocks, 0.3100" in words
    assert "layer3.0 comes next, by a margin of 0.0100. The two are tied" in words
    assert "0.3100 ± 0.0456" in words
    assert f"{NORM_RATIO['layer1.0']:.4f}" in words  # the paper's curve stays
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["selection"] == said
    console = Console(width=200)
    with console.capture() as shown:
        console.print(block_table(metrics))
    assert "paired T" in shown.get()
    # of older weights: a file that could not be written again on a full disk
    page_of(tmp_path, scores_of(names, ("id", "noise")), value=value | {"layer1.0": 0.4}, **facts)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["selection"] == {"criterion": "paired_t", "value": value | {"layer1.0": 0.4}}
    assert "tied" not in read(tmp_path).words


def test_hindsight_is_the_gap_to_the_best_block() -> None:
    metrics = {
        "norm_ratio": NORM_RATIO,
        "selected_block": "layer2.0",
        "detectors": {
            f"featurenorm@{block}": {"average": {"auroc": auroc}}
            for block, auroc in zip(BLOCKS, (0.5, 0.8, 0.9), strict=True)
        },
    }
    found = selection_of(metrics, blocks_of(metrics), None)
    assert found is not None
    assert found.best is not None
    assert (found.best.name, found.best.auroc) == ("layer3.0", 0.9)
    assert found.gap == pytest.approx(0.1)
    assert (found.second, found.epochs) == ("layer3.0", None)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 20, 40])
def test_sample_figures_are_pictures_for_any_number_of_classes(
    classes: int, tmp_path: Path
) -> None:
    data = {"classes": [f"${number}" for number in range(classes)]}
    page_of(tmp_path, scores_of(("msp",), ("id", "noise"), classes), data=data)
    for name in ("confusion", "most_confusing"):
        with Image.open(tmp_path / f"figures/{name}.png") as picture:
            lowest, highest = picture.convert("L").getextrema()
            assert highest - lowest > 128
            assert 200 < min(picture.size) <= max(picture.size) < 2000


def test_the_pictures_are_those_of_the_lowest_and_the_highest_scores(tmp_path: Path) -> None:
    scores, asked = scores_of(("msp",), ("id", "noise")), {}

    def note(name: str, index: torch.Tensor) -> torch.Tensor:
        asked[name] = index.tolist()
        return pictures(name, index)

    page_of(tmp_path, scores, pictures=note)
    assert asked["id"] == scores.of("id")[:, 0].argsort()[:8].tolist()
    assert asked["noise"] == scores.of("noise")[:, 0].argsort(descending=True)[:8].tolist()


def test_the_configuration_begins_with_its_command(finished_run: Path) -> None:
    text = (finished_run / "config.yaml").read_text()
    assert text.startswith(f"# {COMMAND}\n")
    assert yaml.safe_load(text)["seed"] == 0


def test_a_time_reads_as_a_person_says_it() -> None:
    assert [duration(each) for each in (0.04, 58.36, 2265, 9000)] == [
        "0.0 s", "58.4 s", "38 min", "2 h 30 min",
    ]  # fmt: skip


@contextmanager
def shown(
    browser: Browser, path: Path, width: int, scheme: Literal["light", "dark"] = "light"
) -> Iterator[tuple[Page, list[str], list[str]]]:
    """A page in a window of so many CSS pixels, its complaints, and the addresses it asks for."""
    complaints: list[str] = []
    asked: list[str] = []
    with browser.new_page(
        viewport={"width": width, "height": 800}, color_scheme=scheme, is_mobile=width < 800
    ) as page:
        page.set_default_timeout(0)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(error.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page, complaints, asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@each_page
def test_a_browser_shows_it_within_the_window_and_without_complaint(
    which: str,
    width: int,
    scheme: Literal["light", "dark"],
    browser: Browser,
    request: pytest.FixtureRequest,
) -> None:
    path = request.getfixturevalue(which) / "report.html"
    with shown(browser, path, width, scheme) as (page, complaints, asked):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        edges = """[...document.querySelectorAll('main > section > *')].map(
            each => each.getBoundingClientRect().right)"""
        assert max(page.evaluate(edges)) <= width
        assert page.evaluate("[...document.images].every(each => each.naturalWidth > 0)")
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


def test_the_names_of_detectors_stay_where_the_table_is_scrolled(
    rich: Path, browser: Browser
) -> None:
    script = """() => {
        const scroll = document.querySelector('table.ood').parentElement;
        const name = scroll.querySelector('tbody th'), head = scroll.querySelector('thead th');
        const before = [name.getBoundingClientRect().left, head.getBoundingClientRect().top];
        scroll.scrollTo(300, 200);
        return [scroll.scrollLeft, scroll.scrollTop,
            name.getBoundingClientRect().left - before[0],
            head.getBoundingClientRect().top - before[1],
            name.getBoundingClientRect().width];
    }"""
    with shown(browser, rich / "report.html", 390) as (page, _, _):
        left, top, moved, risen, width = page.evaluate(script)
    assert (left, top) == (300, 200)
    assert abs(moved) <= 1
    assert abs(risen) <= 1
    assert 90 < width < 200

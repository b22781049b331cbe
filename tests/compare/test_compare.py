"""What many runs amount to: the arithmetic, what is not mixed, and every format read back."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import spearmanr

from src.compare import compare, find_runs
from src.compare.__main__ import main
from src.compare.output import write
from src.compare.paper import read_paper
from src.compare.sweep import CompareRuns
from src.compare.tables import tables
from tests import REPOSITORY, TINY
from tests.fakes import PageReader

DOCS = REPOSITORY / "docs" / "results"
METRICS = ("auroc", "fpr95_id_pos", "fpr95_ood_pos")
SETS = ("near", "far")
FORMATS = ("csv", "md", "tex", "html")


def leave_run(
    folder: Path, *, seed: int = 0, net: str = "wide", detectors: Any = ("featurenorm", "msp"),
    blocks: tuple[float, ...] = (1.0, 1.2), images: int = 100, **config: Any,
) -> dict[str, Any]:  # fmt: skip
    """Leaves what a run leaves, with random numbers; returns its metrics."""
    random = np.random.default_rng([seed, len(folder.name)])
    names = [f"block{at}" for at in range(len(blocks))]
    selected = names[int(np.argmax(blocks))]

    def numbers() -> dict[str, Any]:
        each = {name: dict(zip(METRICS, random.random(3).tolist(), strict=True)) for name in SETS}
        mean = {key: float(np.mean([row[key] for row in each.values()])) for key in METRICS}
        return each | {"average": mean}

    results = {f"featurenorm@{name}": numbers() for name in names}
    results |= {name: numbers() for name in detectors}
    if "featurenorm" in results:
        results["featurenorm"] = results[f"featurenorm@{selected}"]
    metrics = {
        "experiment": "made", "network": net, "selected_block": selected,
        "norm_ratio": dict(zip(names, blocks, strict=True)), "id_accuracy": float(random.random()),
        "counts": {"id": images, **dict.fromkeys(SETS, images)}, "detectors": results,
        "versions": {"torch": config.pop("torch", "2.11.0")},
    }  # fmt: skip
    config["detectors"] = config.pop("detectors_of", {})
    settings = {"seed": seed, "data": {"seed": seed}, "run_dir": str(folder), "optim": {"lr": 0.1}}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | config))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return metrics


@pytest.fixture
def seeds(tmp_path: Path) -> list[dict[str, Any]]:
    """Three seeds of one network, which select two different blocks."""
    ratios = [(1.0, 1.2), (1.4, 1.1), (1.0, 1.3)]
    return [
        leave_run(tmp_path / f"run{seed}", seed=seed, blocks=ratios[seed]) for seed in range(3)
    ]


def rows_of(*paths: Path, **options: Any) -> Any:
    return compare(*find_runs(paths), **options)


def test_a_row_is_mean_and_sample_deviation_over_seeds(
    seeds: list[dict[str, Any]], tmp_path: Path
) -> None:
    (row,) = rows_of(tmp_path).rows
    for detector in ("featurenorm", "msp"):
        for source in ("average", *SETS):
            for metric in METRICS:
                values = [each["detectors"][detector][source][metric] for each in seeds]
                sample = row.score(detector, metric, source)
                assert sample.mean == pytest.approx(np.mean(values), abs=1e-12)
                assert sample.std == pytest.approx(np.std(values, ddof=1), abs=1e-12)
                assert sample.n == 3
    accuracies = [each["id_accuracy"] for each in seeds]
    assert row.sample(lambda run: run.accuracy).mean == pytest.approx(np.mean(accuracies))


def test_blocks_are_counted_and_ratio_and_gap_are_those_of_each_runs_own_block(
    seeds: list[dict[str, Any]], tmp_path: Path
) -> None:
    (row,) = rows_of(tmp_path).rows
    assert row.selected == {"block1": 2, "block0": 1}
    assert row.sample(lambda run: run.norm_ratio).mean == pytest.approx((1.2 + 1.4 + 1.3) / 3)
    gaps = []
    for each in seeds:
        auroc = [each["detectors"][f"featurenorm@block{at}"]["average"]["auroc"] for at in (0, 1)]
        gaps.append(max(auroc) - each["detectors"]["featurenorm"]["average"]["auroc"])
    assert max(gaps) > 0
    gap = row.sample(lambda run: run.gap)
    assert (gap.mean, gap.std) == pytest.approx((np.mean(gaps), np.std(gaps, ddof=1)))


def test_blocks_are_ordered_by_norm_ratio_as_scipy_says() -> None:
    runs, _ = find_runs([DOCS / "cifar10_brief"])
    for run in runs:
        assert len(run.auroc_by_block) == len(run.blocks) > 1
        for source in ("average", "svhn", "textures"):
            auroc = [run.score(f"featurenorm@{block}", "auroc", source) for block in run.blocks]
            expected = spearmanr(list(run.metrics["norm_ratio"].values()), auroc).statistic
            assert run.spearman(source) == pytest.approx(expected, abs=1e-12)


def test_a_table_of_blocks_holds_their_ratio_and_auroc(
    seeds: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = rows_of(tmp_path)
    assert not [each for each in tables(found, detectors=["msp"]) if each.header[0] == "block"]
    table = tables(found, detectors=["msp"], blocks=True)[-1]
    assert table.header == ["block", "NormRatio", "average", *SETS]
    assert [line[0] for line in table.body[:2]] == [
        "block0 (selected ×1)",  # noqa: RUF001
        "block1 (selected ×2)",  # noqa: RUF001
    ]
    for at, line in enumerate(table.body[:2]):
        ratios = [each["norm_ratio"][f"block{at}"] for each in seeds]
        assert line[1] == f"{np.mean(ratios):.4f} ± {np.std(ratios, ddof=1):.4f}"
        for source, cell in zip(("average", *SETS), line[2:], strict=True):
            auroc = [
                each["detectors"][f"featurenorm@block{at}"][source]["auroc"] for each in seeds
            ]
            assert cell == f"{100 * np.mean(auroc):.1f} ± {100 * np.std(auroc, ddof=1):.1f}"
    assert {cell for cell in table.best if cell[1] == 1} == {(1, 1)}
    order = [run.spearman() for run in find_runs([tmp_path])[0]]
    assert set(order) <= {-1.0, 1.0}
    assert table.body[2][2] == f"{np.mean(order):.2f} ± {np.std(order, ddof=1):.2f}"


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    leave_run(tmp_path / "run")
    (row,) = rows_of(tmp_path).rows
    assert row.score("msp", "auroc").std is None
    assert "±" not in "".join(map(str, tables(rows_of(tmp_path), detectors=["msp"])))


def test_what_a_run_lacks_is_a_dash_and_not_a_mean_over_others(tmp_path: Path) -> None:
    leave_run(tmp_path / "a", seed=0)
    whole = leave_run(tmp_path / "b", seed=1, detectors=("featurenorm", "msp", "knn"))
    leave_run(tmp_path / "c", net="deep")
    found = rows_of(tmp_path, sort="network")
    deep, wide = found.rows
    assert found.detectors == ["featurenorm", "msp", "knn"]
    assert (deep.score("knn", "auroc"), wide.score("knn", "auroc").n) == (None, 1)
    assert wide.score("knn", "auroc").mean == whole["detectors"]["knn"]["average"]["auroc"]
    auroc = tables(found, detectors=found.detectors)[1]
    assert auroc.body[0][-1] == "–"  # noqa: RUF001
    assert auroc.body[1][-1].endswith(" (n=1)")


@pytest.mark.parametrize(
    ("other", "variant"),
    [
        ({"optim": {"lr": 0.3}}, [{"lr": "0.1"}, {"lr": "0.3"}]),
        ({"images": 50}, [{}, {}]),
        ({"trainer": {"t": 2}}, [{"t": "–"}, {"t": "2"}]),  # noqa: RUF001
    ],
    ids=["setting", "images", "more"],
)
def test_runs_that_differ_in_more_than_seeds_are_rows_of_their_own(
    other: Any, variant: list[dict[str, str]], tmp_path: Path
) -> None:
    leave_run(tmp_path / "a", seed=0)
    leave_run(tmp_path / "b", seed=1, **other)
    found = rows_of(tmp_path)
    assert [len(row.runs) for row in found.rows] == [1, 1]
    by_seed = sorted(found.rows, key=lambda row: row.runs[0].seeds["seed"])
    assert [row.variant for row in by_seed] == variant
    letters = {row.images for row in found.rows}
    assert letters == ({"A", "B"} if "images" in other else {""})
    assert any("different images" in note for note in found.notes) == ("images" in other)


def test_columns_of_another_kind_are_rows_of_their_own_and_more_columns_are_counted(
    tmp_path: Path,
) -> None:
    leave_run(tmp_path / "a", seed=0, detectors_of={"msp": {"t": 1}})
    leave_run(tmp_path / "b", seed=1, detectors_of={"msp": {"t": 2}})
    more: dict[str, Any] = {"detectors_of": {"msp": {"t": 1}, "knn": {"k": 5}}}
    leave_run(tmp_path / "c", seed=2, detectors=("featurenorm", "msp", "knn"), **more)
    variants = [row.variant for row in rows_of(tmp_path, sort="experiment").rows]
    assert variants == [
        {"t": "1", "detectors": "2"},
        {"t": "2", "detectors": "2"},
        {"t": "1", "detectors": "3"},
    ]


def test_what_is_left_out_and_what_is_mixed_is_said(tmp_path: Path) -> None:
    leave_run(tmp_path / "a", seed=0)
    leave_run(tmp_path / "b" / "again", seed=0)
    leave_run(tmp_path / "c", seed=1, torch="2.15.0")
    (tmp_path / "copy.json").write_bytes((tmp_path / "c" / "metrics.json").read_bytes())
    leave_run(tmp_path / "cut off", seed=2)
    (tmp_path / "cut off" / "metrics.json").unlink()
    (tmp_path / "died").mkdir()
    leave_run(tmp_path / "broken", seed=3)
    (tmp_path / "broken" / "metrics.json").write_text('{"experiment"')
    (tmp_path / "other.json").write_text("[1, 2]")

    found = rows_of(tmp_path)
    (row,) = found.rows
    assert [run.path.parent.name for run in row.runs] == ["again", "c"]
    for path, reason in (
        ("a/metrics.json", "same configuration and seed"),
        ("copy.json", "a copy of"),
        ("cut off", "not finished"),
        ("died", "empty"),
        ("broken/metrics.json", "not valid JSON"),
    ):
        assert any(
            note.startswith(f"left out: {tmp_path / path}: ") and reason in note
            for note in found.notes
        ), path
    assert any(
        "different versions of torch (number of runs): 2.11.0 (1), 2.15.0 (1)" in n
        for n in found.notes
    )
    assert not any("other.json" in note for note in found.notes)


def test_whatever_loggers_keep_in_a_run_only_runs_count(tmp_path: Path) -> None:
    leave_run(tmp_path / "run")
    for folder in ("some_logger/empty", "some_logger/parts"):
        (tmp_path / "run" / folder).mkdir(parents=True)
    for name in ("config.yaml", "metrics.json"):
        (tmp_path / "run/some_logger" / name.replace("metrics", "any")).write_text("{}")
    leave_run(tmp_path / "run/evaluations/again", seed=1)
    runs, left_out = find_runs([tmp_path])
    assert [run.path.parent.name for run in runs] == ["again", "run"]
    assert not left_out


def test_a_run_without_selection_has_dashes_for_its_block(tmp_path: Path) -> None:
    metrics = leave_run(tmp_path / "run", detectors=("msp",))
    kept = {name: each for name, each in metrics["detectors"].items() if "@" not in name}
    metrics |= {"selected_block": None, "norm_ratio": {}, "id_accuracy": None, "detectors": kept}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    found = rows_of(tmp_path)
    table = tables(found, detectors=["msp"])[0]
    assert table.body[0][table.header.index("accuracy") :] == ["–"] * 6  # noqa: RUF001
    write(tmp_path / "out", found)
    assert (tmp_path / "out/comparison.html").read_text().count("<svg") == 1


def test_a_run_given_twice_counts_once(seeds: list[dict[str, Any]], tmp_path: Path) -> None:
    found = rows_of(tmp_path, tmp_path / "run0", tmp_path / "run0" / "metrics.json")
    assert [len(row.runs) for row in found.rows] == [3]
    assert found.notes == []


def test_rows_come_best_first_and_those_without_a_number_last(tmp_path: Path) -> None:
    runs = {name: leave_run(tmp_path / name, net=name, seed=at) for at, name in enumerate("abc")}
    leave_run(tmp_path / "dd", net="dd", detectors=("msp",), blocks=(1.0,))
    for path in (tmp_path / "dd").glob("metrics.json"):
        metrics = json.loads(path.read_text())
        metrics["id_accuracy"] = None
        path.write_text(json.dumps(metrics))

    def order(**sort: str) -> str:
        return "".join(row.network for row in rows_of(tmp_path, **sort).rows)

    def expected(read: Callable[[dict[str, Any]], float], *, best_is_large: bool = True) -> str:
        return "".join(sorted(runs, key=lambda name: read(runs[name]), reverse=best_is_large))

    featurenorm = expected(lambda run: run["detectors"]["featurenorm"]["average"]["auroc"])
    assert order() == order(sort="featurenorm") == featurenorm + "dd"
    fpr = expected(
        lambda run: run["detectors"]["featurenorm"]["near"]["fpr95_id_pos"], best_is_large=False
    )
    assert order(sort="featurenorm.near.fpr95_id_pos") == fpr + "dd"
    assert order(sort="accuracy") == expected(lambda run: run["id_accuracy"]) + "dd"
    assert order(sort="network") == "abcdd"
    with pytest.raises(ValueError, match=r"expected a sort key, got 'magic'; choose .*"):
        order(sort="magic")


def test_each_gives_every_run_a_row(seeds: list[dict[str, Any]], tmp_path: Path) -> None:
    found = rows_of(tmp_path, each=True, sort="seed")
    table = tables(found, detectors=["msp"])[0]
    assert [line[0] for line in table.body] == ["run0", "run1", "run2"]
    assert [line[table.header.index("seed")] for line in table.body] == ["0", "1", "2"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison of runs of this repository, in all formats."""
    folder = tmp_path_factory.mktemp("written")
    found = rows_of(DOCS / "cifar10_brief", DOCS / "resnet18_cifar10_short.json")
    write(folder, found, sets=True, blocks=True, paper=read_paper())
    return folder


def test_every_format_is_written_and_nothing_else(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == {f"comparison.{end}" for end in FORMATS}


def test_the_csv_holds_the_fractions_of_the_runs(written: Path) -> None:
    with (written / "comparison.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 11
    for line in lines:
        run = json.loads(Path(line["runs"]).read_text())
        assert (line["network"], int(line["n"])) == (run["network"], 1)
        for detector in ("featurenorm", "msp", "maxlogit", "energy"):
            for source in ("average", "svhn", "scenes_crop"):
                for metric in METRICS:
                    value = run["detectors"][detector][source][metric]
                    assert float(line[f"{detector}.{source}.{metric}.mean"]) == value
                    assert line[f"{detector}.{source}.{metric}.std"] == ""
        assert float(line["norm_ratio.mean"]) == run["norm_ratio"][run["selected_block"]]
    assert None not in lines[0]


def test_markdown_tables_are_rectangles_with_the_numbers_of_the_runs(written: Path) -> None:
    text = (written / "comparison.md").read_text()
    parts = text.split("\n## ")[1:]
    for part in parts:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) == 1
    (auroc,) = [part for part in parts if part.startswith("Average: AUROC")]
    assert "| resnet18_cifar10_short | ResNet | B | **89.3** | 82.0 | 84.4 | 84.3 |" in auroc


def test_latex_is_balanced_and_escaped(written: Path) -> None:
    text = (written / "comparison.tex").read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for name in ("table", "tabular"):
        assert body.count(rf"\begin{{{name}}}") == body.count(rf"\end{{{name}}}") > 3
    assert body.count(r"\toprule") == body.count(r"\midrule") == body.count(r"\bottomrule")
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    assert not re.search(r"(?<!\\)[_%#$]", body.replace(r"$\pm$", "").replace(r"$\times$", ""))
    for part in body.split(r"\begin{tabular}")[1:]:
        columns = part[1 : part.index("}")]
        lines = [line for line in part.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}


def test_the_page_stands_alone(written: Path) -> None:
    text = (written / "comparison.html").read_text()
    elements = PageReader(text).elements
    tags = [tag for tag, _ in elements]
    assert tags.count("svg") == 3
    assert tags.count("table") == 3 * 6 + 11 + 2
    given = [item for _, attributes in elements for item in attributes.items()]
    addresses = [value for key, value in given if key.endswith(("href", "src"))]
    assert {address[0] for address in addresses} == {"#"}  # parts of its own drawings
    assert not re.search(r"https?:|//|@import|<script|<link|url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_what_a_name_holds_cannot_break_a_page_or_a_table(tmp_path: Path) -> None:
    leave_run(tmp_path / "run", net="<b>[red]|&_{x}$")
    leave_run(tmp_path / "other", net="plain")
    main([str(tmp_path), "--output", str(tmp_path / "out")])
    page = (tmp_path / "out/comparison.html").read_text()
    PageReader(page)
    assert "&lt;b&gt;[red]" in page
    latex = r"\textless{}b\textgreater{}{[}red]\textbar{}\&\_\{x\}\$"
    assert latex in (tmp_path / "out/comparison.tex").read_text()
    assert r"\<b>\[red\]\|\&\_{x}\$" in (tmp_path / "out/comparison.md").read_text()


def test_the_papers_numbers_stand_beside_runs_of_its_networks_alone(written: Path) -> None:
    with (written / "comparison.csv").open(newline="") as file:
        lines = {line["network"]: line for line in csv.DictReader(file)}
    column = "featurenorm.svhn.auroc.paper"
    having = {name for name, line in lines.items() if line[column]}
    assert having == {"ResNet", "resnet18", "vgg11"}
    assert float(lines["ResNet"][column]) == pytest.approx(0.9865)
    assert float(lines["vgg11"]["energy.textures.fpr95_id_pos.paper"]) == pytest.approx(0.4704)
    assert not any("scenes" in key for key in lines["ResNet"] if key.endswith(".paper"))
    notes = (written / "comparison.md").read_text()
    assert "paper, differences: svhn has 26,032 images, here 2,000 and 10,000" in notes


def test_another_id_set_is_not_put_beside_the_paper(tmp_path: Path) -> None:
    metrics = json.loads((DOCS / "resnet18_cifar10_short.json").read_text())
    metrics["experiment"] = "resnet18_cifar100"
    (tmp_path / "run.json").write_text(json.dumps(metrics))
    found = rows_of(tmp_path)
    paper = read_paper()
    assert paper.network(found.rows[0]) is None
    assert [
        note for note in paper.notes(found) if "no row is a run of one of its networks" in note
    ]


@pytest.mark.parametrize("name", ["resnet18", "wrn28_10", "vgg11"])
def test_the_papers_networks_are_told_by_the_blocks_that_ours_have(name: str) -> None:
    with initialize_config_dir(str(DOCS.parent.parent / "conf"), version_base="1.3"):
        network = instantiate(compose("train", [f"net={name}", "run_dir=elsewhere"]).net)
    (known,) = [each for each in read_paper().networks.values() if name in each["names"]]
    assert known["blocks"] == list(network.blocks)
    assert known["selected_block"] in known["blocks"]
    assert type(network.net).__name__ in known["names"]
    for each in known["detectors"].values():
        assert each.keys() == {"svhn", "textures"}
        assert all(0 < value < 100 for pair in each.values() for value in pair)


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "src.compare", "--help"],
        cwd=DOCS.parent.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not re.search(r"\| +(torch|lightning|matplotlib|hydra)$", done.stderr, re.MULTILINE)
    assert "--sort" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], r"expected a directory of runs or a metrics file, got nowhere, .*logs/"),
        (["."], r"expected directories of finished runs, got \. without any; train first"),
        (["note.json"], r"expected the metrics.json of a run, got note.json without experiment"),
        (["run", "--sort", "magic"], r"expected a sort key, got 'magic'; choose"),
        (["run", "--detectors", "knn"], r"expected detectors of these runs, got knn; choose from"),
    ],
)
def test_bad_input_is_one_clear_error(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.json").write_text("{}")
    if arguments[0] == "run":
        leave_run(tmp_path / "run")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert re.match(message, error)
    assert len(error.splitlines()) == 1


def test_the_terminal_shows_few_detectors_and_says_how_to_see_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["featurenorm", *(f"d{at}" for at in range(12))]
    leave_run(tmp_path / "run", detectors=names)
    main([str(tmp_path)])
    assert "showing 6 of 13 detectors; for all: --detectors all" in capsys.readouterr().out
    main([str(tmp_path), "--detectors", "all"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)


@pytest.mark.slow
def test_a_sweep_ends_with_its_table(
    command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(
        *("src.train", "-m", "sweep=seeds", "seed=0,1", *TINY, "trainer.max_epochs=1"),
        *("+trainer.limit_train_batches=5", "~data.ood.photographs", "~data.ood.noise"),
        f"hydra.sweep.dir={tmp_path}",
    )
    assert capsys.readouterr().out.count("mean ± sample standard deviation") == 1
    assert {path.name for path in tmp_path.glob("comparison.*")} == {
        f"comparison.{end}" for end in FORMATS
    }
    with (tmp_path / "comparison.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    runs = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*/metrics.json"))]
    auroc = [run["detectors"]["featurenorm"]["average"]["auroc"] for run in runs]
    assert (line["n"], line["seeds"]) == ("2", "0 1")
    assert float(line["featurenorm.average.auroc.mean"]) == pytest.approx(np.mean(auroc))
    assert float(line["featurenorm.average.auroc.std"]) == pytest.approx(np.std(auroc, ddof=1))


def test_only_the_first_process_compares_and_only_if_a_run_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})

    def end() -> str:
        callback = CompareRuns()
        callback.on_multirun_start(config)
        callback.on_multirun_end(config)
        return capsys.readouterr().out

    assert end() == ""
    leave_run(tmp_path / "run")
    monkeypatch.setenv("RANK", "1")
    assert end() == ""
    assert not (tmp_path / "comparison.csv").exists()
    monkeypatch.setenv("RANK", "0")
    assert "comparison.csv" in end()
    assert "comparison.csv" in end()  # a sweep that is gone on with replaces it


@pytest.mark.slow
def test_a_sweep_of_which_a_job_died_still_ends_with_its_table(
    forked: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    done = forked(
        *("src.train", "-m", *TINY, "net.net.num_classes=5,7", "trainer.max_epochs=1"),
        *("+trainer.limit_train_batches=5", "~data.ood.photographs", "~data.ood.noise"),
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == 1  # Hydra's word for it
    assert "expected a network of 7 classes" in done.stderr
    assert "mean ± sample standard deviation" in done.stdout
    assert f"left out: {tmp_path / '0_quickstart_0'}: empty" in done.stdout.replace("\n", "")
    assert (tmp_path / "comparison.csv").exists()


def changed(**parts: Any) -> Callable[[Path], object]:
    """Puts other values into the metrics file of a run."""

    def change(run: Path) -> None:
        metrics = json.loads((run / "metrics.json").read_text())
        (run / "metrics.json").write_text(json.dumps(metrics | parts))

    return change


def a_pipe(run: Path) -> None:
    (run / "metrics.json").unlink()
    os.mkfifo(run / "metrics.json")


BILLION = "\n".join(
    ["a: &a [1]", *(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefghij"))]
)
UNREADABLE: dict[str, Callable[[Path], object]] = {
    "cut": lambda run: os.truncate(run / "metrics.json", 99),
    "empty": lambda run: (run / "metrics.json").write_bytes(b""),
    "bytes": lambda run: (run / "metrics.json").write_bytes(bytes(range(256))),
    "too deep": lambda run: (run / "metrics.json").write_text("[" * 10**5),
    "a list": lambda run: (run / "metrics.json").write_text("[1]"),
    "a pipe": a_pipe,
    "too large": lambda run: os.truncate(run / "metrics.json", 2**27),
    "a folder as its configuration": lambda run: (
        (run / "config.yaml").unlink(), (run / "config.yaml/sub").mkdir(parents=True)
    ),
    "bytes as its configuration": lambda run: (run / "config.yaml").write_bytes(bytes(range(256))),
    "a cut configuration": lambda run: (run / "config.yaml").write_text("a: {b: ["),
    "aliases": lambda run: (run / "config.yaml").write_text(BILLION),
    "code": lambda run: (run / "config.yaml").write_text("a: !!python/name:os.system"),
    "a number as its name": changed(experiment=3),
    "no blocks": changed(norm_ratio=[1]),
    "text as NormRatio": changed(norm_ratio={"block0": "high"}),
    "NaN as NormRatio": changed(norm_ratio={"block0": float("nan")}),
    "a list as counts": changed(counts=["id"]),
    "no results": changed(detectors=None),
    "a list as results": changed(detectors=[1]),
    "text as a result": changed(detectors={"msp": {"average": dict.fromkeys(METRICS, "good")}}),
    "text as accuracy": changed(id_accuracy="high"),
    "text as data": changed(data="many"),
    "a list as a digest": changed(data={"sets": {"id": {"sha256": [1]}}}),
    "numbers as versions": changed(versions={"torch": 2}),
}  # fmt: skip


@pytest.mark.parametrize("harm", [pytest.param(h, id=name) for name, h in UNREADABLE.items()])
def test_a_run_that_cannot_be_read_is_left_out_and_the_others_are_compared(
    harm: Callable[[Path], object], seeds: list[dict[str, Any]], tmp_path: Path
) -> None:
    harm(tmp_path / "run1")
    found = rows_of(tmp_path)
    assert sorted(run.path.parent.name for run in found.rows[0].runs) == ["run0", "run2"]
    note = next(note for note in found.notes if note.startswith("left out"))
    assert str(tmp_path / "run1") in note
    assert "expected" in note
    assert tables(found, detectors=["msp"])

"""Malformed run directories: a page or one sentence, and the comparison of the others goes on."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.compare.__main__ import main as compare
from src.records.run_files import read_config, read_metrics
from src.report.__main__ import main as page

pytestmark = pytest.mark.slow
NUMBERS = {"auroc": 0.9, "fpr95_id_pos": 0.1, "fpr95_ood_pos": 0.2}
COLUMNS = {"svhn": NUMBERS, "near": NUMBERS, "average": NUMBERS}
METRICS: dict[str, Any] = {
    "experiment": "mine", "network": "ResNet", "selected_block": "b", "norm_ratio": {"a": 1.0,
    "b": 2.0},
    "block_weights": {"p": {"a": {"norm": 0.5}, "b": {"norm": None}, "logits": {"energy": -1.0}}},
    "id_accuracy": 0.5, "counts": {"id": 5, "svhn": 5},
    "data": {
        "protocol": "p", "groups": {"near": ["svhn"]}, "classes": ["x"],
        "codec_change": {"svhn": 0.1},
        "sets": {"svhn": {"images": 5, "skipped": 0, "view": "as it comes", "sha256": "0"}},
    },
    "detectors": dict.fromkeys(("featurenorm", "featurenorm@a", "featurenorm@b"), COLUMNS),
    "selection": {
        "criterion": "paired_t", "value": {"a": 0.1, "b": 0.2},
        "standard_error": {"a": 0.1, "b": 0.1}, "tied": ["b", "a"],
    },
    "selection_stability": {
        "bootstrap": {
            "replicates": 9, "share": {"a": 0.1, "b": 0.9}, "standard_error": {"a": 0.1, "b": 0.1},
            "margin_standard_error": 0.1,
        },
        "seeds": [{"seed": 1, "selected": "b", "norm_ratio": {"a": 1.0, "b": 2.0}}],
    },
    "forward_passes": 3, "seconds": {"benchmark": 1.0}, "versions": {"torch": "2"},
}  # fmt: skip
CONFIG = {
    "seed": 0,
    "data": {"ood": {"svhn": {"_target_": "x.Y", "a": 1}}},
    "trainer": {"max_epochs": 1},
}
HISTORY = (
    "epoch,block,depth,norm_id,norm_pseudo_ood,ratio,selected\n0,a,1,1,1,1,0\n0,b,2,2,1,2,1\n"
)
STRANGE: list[Any] = [
    None,
    True,
    -1,
    10**30,
    1.5,
    float("nan"),
    "text",
    [],
    [[]],
    {},
    {"a": {"": 1}},
]


def bomb(merge: str) -> str:
    """YAML in which each of 12 anchors stands for nine of the one before."""
    line = "{{<<: [{}]}}" if merge else "[{}]"
    first = "a: &a {x: 1}\n"
    return first + "".join(
        f"{after}: &{after} {line.format(','.join([f'*{before}'] * 9))}\n"
        for before, after in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )


WHOLE: dict[str, list[str | bytes]] = {
    "metrics.json": [
        "", "{", "[]", "null", "1", "[" * 100_000, '{"a":' * 5000, b"\xff\xfe", "\0", "1" * 5000,
        '{"experiment": "x"}', "NaN",
    ],
    "config.yaml": [
        "", "a: [", "- 1", "text", "[" * 100_000, "a:\n- " * 500, b"\xff\xfe\x00", "\0",
        "a: " + "1" * 5000,
        bomb(""), bomb("<<"), "a: &a\n  b: *a\n", "a: !!python/object/apply:os.system [x]",
        "a: !!set {x}",
        "? [a]\n: b", "a: 2024-01-01", "on: 1\n2: 3\n~: 4", "data: *none", "data: " + "x" * 2**21,
        "seed: [1]", "seed: {seed: x}", "# \n# \n",
    ],
    "norm_ratio.csv": [
        "", "\n", "a,b\n1,2\n", HISTORY.replace("ratio", "x"), HISTORY[:70], HISTORY[:-5],
        HISTORY + "1,a,1\n",
        HISTORY.replace(",2,1,2,1", ",nan,1,2,1"), HISTORY.replace("0,b", "x,b"), b"\xff", "\0",
        HISTORY.replace("0,b,2", "0,b,99999999999999999999"), HISTORY + '1,"' + "x" * 200_000,
    ],
    "figures/roc.png": ["", "text", b"\x89PNG\r\n\x1a\n",
    "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"],
}  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested containers."""
    if path:
        yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    new = node = deepcopy(content)
    for key in path[:-1]:
        node = node[key]
    if value == "remove":
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return new


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with another one beside it, which is whole."""
    for name in ("run", "other"):
        folder = tmp_path / "runs" / name
        (folder / "figures").mkdir(parents=True)
        metrics = METRICS if name == "run" else METRICS | {"network": "Other"}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        (folder / "norm_ratio.csv").write_text(HISTORY)
    return tmp_path / "runs/run"


@pytest.fixture
def tell(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[str, str]]:
    """What a page and a comparison say on stderr and stdout; the first is empty if all is well."""

    def told() -> tuple[str, str]:
        said, code = "", None
        try:
            page([str(run_dir)])
        except SystemExit as end:
            code = end.code
            said = capsys.readouterr().err.splitlines()[-1]
            assert "expected" in said
            assert "got" in said
        assert code in (None, 2)
        compare([str(run_dir.parent)])
        shown = capsys.readouterr().out
        assert "Other" in shown
        return said, shown

    return told


def test_whole_directories_have_a_page_and_a_comparison(
    run_dir: Path, tell: Callable[[], tuple[str, str]]
) -> None:
    said, shown = tell()
    assert said == ""
    assert "left out" not in shown


@pytest.mark.parametrize(("file", "at"), [(f, at) for f in WHOLE for at in range(len(WHOLE[f]))])
def test_a_malformed_file_costs_its_run_at_most(
    file: str, at: int, run_dir: Path, tell: Callable[[], tuple[str, str]]
) -> None:
    content = WHOLE[file][at]
    (run_dir / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    said, shown = tell()
    if file == "metrics.json":
        assert f"{run_dir}/{file}" in said
        assert "left out" in shown
    if file == "figures/roc.png":
        assert said == ""


@pytest.mark.parametrize("path", [*places(METRICS)], ids=lambda path: ".".join(map(str, path)))
def test_a_strange_value_in_metrics_is_shown_or_refused(
    path: tuple[Any, ...], run_dir: Path, tell: Callable[[], tuple[str, str]]
) -> None:
    for value in [*STRANGE, "remove"]:
        (run_dir / "metrics.json").write_text(json.dumps(changed(METRICS, path, value)))
        tell()


@pytest.mark.parametrize(("path", "value"), [*product(places(CONFIG), [*STRANGE, "remove"])])
def test_a_strange_value_in_a_configuration_is_shown_or_refused(
    path: tuple[Any, ...], value: Any, run_dir: Path, tell: Callable[[], tuple[str, str]]
) -> None:
    (run_dir / "config.yaml").write_text(yaml.safe_dump(changed(CONFIG, path, value)))
    tell()


@pytest.mark.parametrize("file", WHOLE)
@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "nowhere", "endless", "sparse"])
def test_what_is_no_regular_file_is_not_waited_for(
    file: str, kind: str, run_dir: Path, tell: Callable[[], tuple[str, str]]
) -> None:
    path = run_dir / file
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as sparse:
            sparse.truncate(2**40)
    else:
        path.symlink_to({"loop": path, "nowhere": "nowhere", "endless": "/dev/zero"}[kind])
    tell()


def test_aliases_and_dates_are_read_as_they_were_meant(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: &a {day: 2024-01-01}\nb: *a\n2: yes\n")
    _, config = read_config(path)
    assert config == {"a": {"day": "2024-01-01"}, "b": {"day": "2024-01-01"}, "2": True}


def test_a_refusal_is_one_sentence_with_the_place(run_dir: Path) -> None:
    metrics = changed(METRICS, ("detectors", "featurenorm", "svhn", "auroc"), "high\n" * 99)
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(
        ValueError, match=r"a number .* at detectors\.featurenorm\.svhn\.auroc"
    ) as error:
        read_metrics(run_dir / "metrics.json")
    assert len(str(error.value).splitlines()) == 1
    shutil.rmtree(run_dir)

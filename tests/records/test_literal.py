"""Names of users land literally: in a shell, in Hydra, in a spreadsheet, as a file."""

import csv
import io
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from src.records.configs import CONF
from src.records.literal import (
    csv_cell,
    file_name,
    from_csv_cell,
    literal_word,
    markdown_code,
    markdown_text,
    override,
    shell_word,
)  # fmt: skip

NAMES = [
    "/tmp/lr=0.1/run", "a b", "größe/日本", "x,y", "[1]", "[bold]x[/]", "{a: b}", "null", "True",
    "1e5", "12", "-1", "it's", "a\\'b", "a\\", "\\\\'", "$HOME", "`id`", "$(id)", "${seed}",
    "tab\there", "(1)", "a:b", '"q"', "'", "~", "@", "=1+1", "!x", "a#b", "<b>&amp;</b>", "*",
    "x\ny", "\x1b[31m", "\u2028", "choice(1,2)",
]  # fmt: skip


def in_a_shell(line: str) -> list[str]:
    """The words that bash makes of a line."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_hint_that_is_pasted_says_what_it_says(name: str) -> None:
    line = override("name", name)
    assert line.isprintable() or "\n" not in line
    (pasted,) = in_a_shell(line)
    word = literal_word(pasted, OverridesParser.create().parse_override)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("train", [word]).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_word_of_a_command_is_written_in_one_line(name: str) -> None:
    assert in_a_shell(shell_word(name)) == [name]
    assert len(shell_word(name).splitlines()) == 1


@pytest.mark.parametrize("value", [
    "/tmp/lr=0.1", "epoch=3.ckpt", "größe", "日本", "a [1] (b)", "x<y", "a#b", "it's", "x;y&z",
])  # fmt: skip
def test_what_hydra_cannot_read_is_taken_literally(value: str) -> None:
    parse = OverridesParser.create().parse_override
    word = literal_word(f"checkpoint={value}", parse)
    assert parse(word).value() == value
    assert literal_word(word, parse) == word


@pytest.mark.parametrize("word", [
    "seed=1", "-m", "--config-dir=größe", "seed=1,2", "name=ä,ö", "+a=[1,2", "a='x", "a={b:", "~a",
    "größe",    "lr=interval(0,1)", "a=b/c.pt", "net=resnet18", "größe=1",
])  # fmt: skip
def test_what_hydra_can_read_or_refuse_stays_with_hydra(word: str) -> None:
    assert literal_word(word, OverridesParser.create().parse_override) == word


@pytest.mark.parametrize(
    "name", ["=1+1", "+x", "-x", "@x", "\tx", "\r=x", "'=x", "''@", "'x", "x", "", "größe"]
)
def test_a_cell_is_no_formula_and_is_read_back(name: str) -> None:
    cell = csv_cell(name)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    file = io.StringIO(newline="")
    csv.writer(file).writerow([cell, "1"])
    (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert from_csv_cell(row[0]) == name


@pytest.mark.parametrize("name", [
    "../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "-rf", "x\0y", "~/x",
    "größe " * 99, "日本" * 99,    "con\n", ".hidden",
])  # fmt: skip
def test_a_name_as_a_file_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{file_name(name)}.pt"
    path.touch()
    assert path.resolve().parent == tmp_path.resolve()
    assert not path.name.startswith((".", "-"))


def test_a_plain_name_is_its_own_file() -> None:
    assert file_name("resnet18_cifar10-short.v2") == "resnet18_cifar10-short.v2"
    assert file_name("größe") == "größe"


def test_markdown_shows_a_name_and_obeys_none() -> None:
    assert markdown_text("a|b*c*\n`d` [e](f) <g>") == r"a\|b\*c\* \`d\` \[e\](f) \<g>"
    assert markdown_code("a|b") == r"`a\|b`"
    assert markdown_code("`a` ``") == "``` `a` `` ```"
    assert markdown_text("fpr95_id_pos _x_") == r"fpr95_id_pos \_x\_"

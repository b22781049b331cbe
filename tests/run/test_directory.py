"""A run directory has one owner, who replaces only what is its own."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.run.directory import claimed, has_finished, moved
from tests import REPOSITORY
from tests.conftest import Command

Refused = Callable[..., str]
RACE = """
import sys
from omegaconf import OmegaConf
from src.run.directory import claimed

for line in sys.stdin:
    cfg = OmegaConf.create({"run_dir": line.strip(), "resume": None, "name": sys.argv[1]})
    try:
        with claimed(cfg):
            print("won", flush=True)
            sys.stdin.readline()
    except FileExistsError as error:
        print(error, flush=True)
        sys.stdin.readline()
"""


def claim(run_dir: Path, resume: str | None = None) -> AbstractContextManager[None]:
    return claimed(OmegaConf.create({"run_dir": str(run_dir), "resume": resume, "name": "a"}))


@pytest.mark.slow
def test_of_two_processes_that_claim_a_directory_at_once_one_wins_and_the_other_is_told(
    tmp_path: Path,
) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, name],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in ("one", "other")
    ]  # fmt: skip

    def order(line: str) -> None:
        for racer in racers:
            assert racer.stdin
            racer.stdin.write(f"{line}\n")
            racer.stdin.flush()

    for number in range(50):
        order(str(tmp_path / f"{number}"))
        said = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
        assert said.count("won") == 1
        lost = said[1 - said.index("won")]
        assert lost.startswith(f"expected a fresh run directory, got {tmp_path / str(number)}")
        name = OmegaConf.load(tmp_path / f"{number}/config.yaml").name
        assert name == ("one", "other")[said.index("won")]
        order("next")
    for racer in racers:
        racer.communicate()


@pytest.mark.parametrize(
    "file",
    ["benchmark/month.csv", "checkpoints/best.ckpt", "figures/roc.png", "notes", ".git/HEAD"],
)
def test_a_directory_with_files_of_the_user_is_refused_and_left_alone(
    file: str, tmp_path: Path, content: Callable[[Path], dict[str, str]]
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=r"with other files \(.*\); choose another"):
        claim(tmp_path).__enter__()
    assert content(tmp_path) == before


@pytest.mark.slow
def test_the_command_refuses_what_is_not_its_own(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run/benchmark").mkdir(parents=True)
    (tmp_path / "run/benchmark/month.csv").write_text("mine")
    seen = refused("src.train", f"hydra.run.dir={tmp_path / 'run'}")
    assert f"a fresh run directory, got {tmp_path / 'run'} with other files (benchmark)" in seen


def test_a_new_run_that_fails_before_it_leaves_anything_gives_the_directory_back(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"), claim(tmp_path / "run"):
            raise ValueError("bad image")
    with pytest.raises(KeyboardInterrupt), claim(tmp_path / "run"):
        raise KeyboardInterrupt
    assert [*(tmp_path / "run").iterdir()] == [tmp_path / "run/config.yaml"]  # to be resumed
    with pytest.raises(FileExistsError, match=r"or resume that run: resume="):
        claim(tmp_path / "run").__enter__()
    with claim(tmp_path / "run", resume=str(tmp_path / "run")):
        pass


def test_what_a_cut_off_write_left_keeps_no_run_out_and_goes_when_it_resumes(
    tmp_path: Path,
) -> None:
    for place in (".partial.a", "checkpoints/.partial.b"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "last.ckpt").write_text("half")
    shutil.move(tmp_path / "checkpoints", tmp_path.with_name(f"{tmp_path.name}_later"))
    with claim(tmp_path):
        shutil.move(tmp_path.with_name(f"{tmp_path.name}_later"), tmp_path / "checkpoints")
    with claim(tmp_path, resume=str(tmp_path)):
        pass
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "checkpoints", tmp_path / "config.yaml"]


def test_a_run_that_a_process_works_on_is_not_resumed_beside_it(tmp_path: Path) -> None:
    again = r"no process works on, got .*; wait until"
    with claim(tmp_path), pytest.raises(FileExistsError, match=again):
        claim(tmp_path, resume=str(tmp_path)).__enter__()
    with claim(tmp_path, resume=str(tmp_path)), pytest.raises(FileExistsError, match="works on"):
        claim(tmp_path, resume=str(tmp_path)).__enter__()


def test_a_run_is_finished_when_its_report_is(tmp_path: Path) -> None:
    assert not has_finished(tmp_path)
    (tmp_path / "metrics.json").touch()
    assert has_finished(tmp_path)
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark/month.csv").touch()  # of the user
    assert has_finished(tmp_path)
    (tmp_path / "benchmark/scores.pt").touch()
    assert not has_finished(tmp_path)


def test_paths_inside_a_run_follow_it_and_others_stay() -> None:
    config = {
        "run_dir": "/logs/a",
        "logger": {"csv": {"save_dir": "/logs/a"}, "b": {"uri": "sqlite:////logs/a/b/b.db"}},
        "data_dir": "/data/logs/a",
        "lists": ["/logs/a/list.txt", "/logs/ab", "see /logs/a", 3],
    }
    assert moved(config, Path("/new/place")) == {
        "run_dir": "/new/place",
        "logger": {
            "csv": {"save_dir": "/new/place"}, "b": {"uri": "sqlite:////new/place/b/b.db"},
        },
        "data_dir": "/data/logs/a",
        "lists": ["/new/place/list.txt", "/logs/ab", "see /logs/a", 3],
    }  # fmt: skip


@pytest.mark.parametrize("text", [
    "resume: null", "net: 3\ndata: {}\ntrainer: {}", "- 1", "a: &x [*x, *x]", "[" * 200, "x: {",
    "a: &a [1, 1]\nb: &b [*a, *a]\nnet: [*b, *b]",
])  # fmt: skip
def test_a_malformed_configuration_is_not_resumed(
    text: str, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^expected [^\n]*; [^\n]*$"):
        command("src.train", f"resume={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'new'}")

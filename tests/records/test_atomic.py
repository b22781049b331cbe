"""Files that appear whole or not at all, through no link, and with one owner."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.records.atomic import held, is_intact, write_whole
from tests import REPOSITORY

RACE = """
import sys, time
from pathlib import Path
from src.records.atomic import write_whole

path, start = Path(sys.argv[1]), float(sys.argv[2])
time.sleep(max(0, start - time.time()))
try:
    write_whole(path, lambda partial: partial.write_text(sys.argv[3]), may_replace=False)
    print("won")
except FileExistsError:
    print("told")
"""


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_no_link_that_lies_in_wait_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    for name in (".partial.page.html", ".partial.", "page.html"):
        (run / name).symlink_to(tmp_path / "precious")
    write_whole(run / "page.html", lambda path: path.write_text("page"))
    assert (tmp_path / "precious").read_text() == "mine"
    assert (run / "page.html").read_text() == "page"
    assert not (run / "page.html").is_symlink()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        path.write_text("ha")
        raise OSError("full")

    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "file", half)
    assert texts(tmp_path) == {"file": "old"}


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_whole(tmp_path / "whole", lambda path: path.write_text(""))
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_new_file_replaces_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, lambda partial: partial.write_text("first"), may_replace=False)
    with pytest.raises(FileExistsError):
        write_whole(path, lambda partial: partial.write_text("second"), may_replace=False)
    assert texts(tmp_path) == {"file": "first"}


def test_a_file_is_held_once_and_no_worker_inherits_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    begun, end = os.pipe()
    with held(path):
        if (worker := os.fork()) == 0:
            os.write(end, b"!")
            signal.pause()  # lives on
        os.read(begun, 1)
        with pytest.raises(BlockingIOError), held(path):
            pass
    try:
        with held(path):  # although the worker lives
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_what_is_no_archive_is_not_intact(tmp_path: Path) -> None:
    assert not is_intact(tmp_path / "missing")
    (tmp_path / "text").write_text("text")
    assert not is_intact(tmp_path / "text")


@pytest.mark.slow
def test_of_processes_that_claim_one_name_at_once_one_wins_and_the_others_are_told(
    tmp_path: Path,
) -> None:
    for attempt in range(5):
        path, start = tmp_path / f"{attempt}/config.yaml", time.time() + 1
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", RACE, str(path), str(start), str(number)],
                cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
            )
            for number in range(4)
        ]  # fmt: skip
        said = [racer.communicate()[0].strip() for racer in racers]
        assert sorted(said) == ["told", "told", "told", "won"]
        assert texts(path.parent) == {"config.yaml": str(said.index("won"))}

"""A run says which commit it ran, or nothing rather than something else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from src.records.git_state import git_state

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "repository"
    (folder / "package").mkdir(parents=True)
    git(folder, "init")
    (folder / "package/file").write_text("1")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    return folder


@pytest.mark.parametrize("changed", [False, True])
def test_the_commit_and_whether_it_was_changed_since(repository: Path, changed: bool) -> None:
    (repository / "results").write_text("a file that git was not told of")
    if changed:
        (repository / "package/file").write_text("2")
    assert git_state(repository) == {
        "commit": git(repository, "rev-parse", "HEAD"),
        "dirty": changed,
    }


def test_a_folder_within_somebody_elses_repository_has_no_commit(repository: Path) -> None:
    assert git_state(repository / "package") is None


def test_without_a_repository_a_commit_or_git_there_is_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").mkdir()
    assert git_state(tmp_path / "plain") is None
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init")
    assert git_state(tmp_path / "empty") is None
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path / "no git") is None

"""What the project calls itself, and where that comes from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from builder.target.project import PROJECT_FILE, address_of_remote, load_project


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/owner/name.git", "https://github.com/owner/name"),
        ("https://someone:secret@github.com/owner/name.git", "https://github.com/owner/name"),
        ("git@github.com:owner/name.git", "https://github.com/owner/name"),
        ("ssh://git@codeberg.org/owner/name.git", "https://codeberg.org/owner/name"),
        ("/srv/git/name.git", ""),
        ("http://example.org/name", ""),
        ("", ""),
    ],
)
def test_the_page_of_a_remote(remote: str, address: str) -> None:
    assert address_of_remote(remote) == address


def test_the_file_comes_first_then_actions_then_the_remote(checkout: Path, tmp_path: Path) -> None:
    own = write(tmp_path / "own.toml", 'name = "wheels"\nurl = "https://example.org/wheels/"\n')
    empty = write(tmp_path / "empty.toml", 'name = "wheels"\nurl = ""\n')
    actions = {"GITHUB_REPOSITORY": "c/d"}
    assert load_project(actions, checkout, own).url == "https://example.org/wheels"
    assert load_project(actions, checkout, empty).url == "https://github.com/c/d"
    hosted = {**actions, "GITHUB_SERVER_URL": "https://git.example.org"}
    assert load_project(hosted, checkout, empty).url == "https://git.example.org/c/d"
    assert load_project({}, checkout, empty).url == "https://github.com/a/b"
    assert load_project({}, tmp_path, empty).url == ""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit."""
    folder = tmp_path / "checkout"
    (folder / "builder").mkdir(parents=True)
    git(tmp_path, "init", "-q", str(folder))
    write(folder / "builder" / "a.py", "1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "a")
    git(folder, "remote", "add", "origin", "git@github.com:a/b.git")
    return folder


def test_the_revision_says_whether_files_differ(checkout: Path, tmp_path: Path) -> None:
    assert load_project({}, tmp_path, PROJECT_FILE).revision == ""
    commit = git(checkout, "rev-parse", "HEAD")
    write(checkout / "notes.txt", "no part of a build\n")
    assert load_project({}, checkout, PROJECT_FILE).revision == commit
    write(checkout / "builder" / "b.py", "new\n")
    assert load_project({}, checkout, PROJECT_FILE).revision == f"{commit}+changes"
    (checkout / "builder" / "b.py").unlink()
    write(checkout / "builder" / "a.py", "2\n")
    assert load_project({}, checkout, PROJECT_FILE).revision == f"{commit}+changes"


def test_the_environment_and_the_users_git_have_no_part_in_it(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_project({}, checkout, PROJECT_FILE)
    if os.getuid() == 0:  # the checkout may be another user's, too
        for path in (checkout, checkout / ".git"):
            os.chown(path, 12345, 12345)
    git(tmp_path, "init", "-q", str(tmp_path / "other"))
    git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "other")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".gitconfig", '[url "https://example.org/"]\n insteadOf = git@github.com:\n')
    for name, value in {
        "GIT_DIR": str(tmp_path / "other" / ".git"),
        "GIT_WORK_TREE": str(tmp_path / "other"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "remote.origin.url",
        "GIT_CONFIG_VALUE_0": "https://example.org/other/other",
    }.items():
        monkeypatch.setenv(name, value)
    assert load_project({}, checkout, PROJECT_FILE) == before
    assert (before.url, len(before.revision)) == ("https://github.com/a/b", 40)


def test_an_archive_inside_somebody_elses_checkout_is_not_of_it(checkout: Path) -> None:
    (checkout / "unpacked" / "builder").mkdir(parents=True)
    project = load_project({}, checkout / "unpacked", PROJECT_FILE)
    assert (project.url, project.revision) == ("", "")

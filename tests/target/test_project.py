"""What the project calls itself, and where that comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.target.project import PROJECT_FILE, address_of_remote, load_project
from builder.util.errors import UsageError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/owner/name.git", "https://github.com/owner/name"),
        ("https://github.com/owner/name/", "https://github.com/owner/name"),
        ("https://someone:secret@github.com/owner/name.git", "https://github.com/owner/name"),
        ("git@github.com:owner/name.git", "https://github.com/owner/name"),
        ("ssh://git@codeberg.org/owner/name.git", "https://codeberg.org/owner/name"),
        ("/srv/git/name.git", ""),
        ("../name", ""),
        ("file:///srv/git/name.git", ""),
        ("http://example.org/name", ""),
        ("", ""),
    ],
)
def test_the_page_of_a_remote(remote: str, address: str) -> None:
    assert address_of_remote(remote) == address


def test_the_file_comes_first_then_actions_then_the_remote(tmp_path: Path) -> None:
    own = write(tmp_path / "own.toml", 'name = "wheels"\nurl = "https://example.org/wheels/"\n')
    empty = write(tmp_path / "empty.toml", 'name = "wheels"\nurl = ""\n')
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    subprocess.run(
        ["git", "-C", str(checkout), "remote", "add", "origin", "git@github.com:a/b.git"], check=True
    )
    actions = {"GITHUB_REPOSITORY": "c/d"}
    assert load_project(actions, checkout, own).url == "https://example.org/wheels"
    assert load_project(actions, checkout, empty).url == "https://github.com/c/d"
    hosted = {**actions, "GITHUB_SERVER_URL": "https://git.example.org"}
    assert load_project(hosted, checkout, empty).url == "https://git.example.org/c/d"
    assert load_project({}, checkout, empty).url == "https://github.com/a/b"
    assert load_project({}, tmp_path, empty).url == ""


def test_the_revision_says_whether_files_differ(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert load_project({}, tmp_path, PROJECT_FILE).revision == ""
    (tmp_path / "builder").mkdir()
    write(tmp_path / "builder" / "a.py", "1\n")
    git("add", ".")
    git("commit", "-q", "-m", "a")
    commit = git("rev-parse", "HEAD")
    write(tmp_path / "notes.txt", "no part of a build\n")
    assert load_project({}, tmp_path, PROJECT_FILE).revision == commit
    write(tmp_path / "builder" / "a.py", "2\n")
    assert load_project({}, tmp_path, PROJECT_FILE).revision == f"{commit}+changes"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 1\nurl = ''", "name: 1 is not a name"),
        ("name = 'a'", "url: missing"),
        ("name = 'a'\nurl = 'github.com/a/b'", "is not an https address, or empty"),
        ("name = ", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_project({}, tmp_path, write(tmp_path / "project.toml", text))


def test_a_wrong_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not OWNER/NAME"):
        load_project({"GITHUB_REPOSITORY": "nobody"}, tmp_path, write(tmp_path / "p", "name='a'\nurl=''"))

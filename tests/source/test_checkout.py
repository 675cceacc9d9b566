"""The copy of a user's directory, and its commit."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from made_up_source import COMMIT, COPIED, files

from builder.source.checkout import checkout_commit, copy_tree
from builder.util.errors import SourceError


def test_links_in_a_directory_become_copies(checkout: Path, tmp_path: Path) -> None:
    outside = tmp_path / "shared"
    outside.mkdir()
    (outside / "header.h").write_text("// shared\n")
    (checkout / "csrc" / "shared").symlink_to(outside)
    (checkout / "csrc" / "gone").symlink_to("nowhere")
    copy_tree(checkout, tmp_path / "copy")
    (tmp_path / "copy" / "csrc" / "shared" / "header.h").write_text("// patched\n")
    assert (outside / "header.h").read_text() == "// shared\n"
    assert not (tmp_path / "copy" / "csrc" / "gone").is_symlink()


def test_a_folder_that_holds_itself_is_refused(checkout: Path, tmp_path: Path) -> None:
    (checkout / "csrc" / "up").symlink_to("..")
    with pytest.raises(SourceError, match="csrc/up is a link to a folder that contains it"):
        copy_tree(checkout, tmp_path / "copy")


def test_pipes_and_sockets_are_left_out_with_a_warning(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(checkout / "csrc" / "pipe")
    monkeypatch.chdir(checkout)  # a socket's path may have a hundred characters or so
    with socket.socket(socket.AF_UNIX) as editor:
        editor.bind("s")
        copy_tree(checkout, tmp_path / "copy")
    assert files(tmp_path / "copy") == COPIED
    warned = capsys.readouterr().err
    assert f"{checkout}/csrc/pipe is not a file or folder; it is not copied" in warned
    assert f"{checkout}/s is not a file or folder; it is not copied" in warned


@pytest.mark.parametrize("name", ["setup.py", "csrc", "sageattention/__init__.py"])
def test_links_in_a_circle_are_left_out(checkout: Path, tmp_path: Path, name: str) -> None:
    shutil.move(checkout / name, tmp_path / "away")
    (checkout / name).symlink_to(Path(name).name)
    copy_tree(checkout, tmp_path / "copy")
    assert files(tmp_path / "copy") == {file for file in COPIED if not file.startswith(name)}


@pytest.mark.parametrize(
    "head",
    [
        "ref: refs/heads/\0x",
        "ref: ../../../../etc/passwd",
        "x" * 10**6,
        f"ref: {'a/' * 5000}",
        "ref:",
        "\xff",
    ],
)
def test_a_strange_head_names_no_commit(checkout: Path, head: str) -> None:
    (checkout / ".git" / "HEAD").write_bytes(head.encode("latin1"))
    assert checkout_commit(checkout) == ""


def test_pipes_in_place_of_gits_files_are_not_read(checkout: Path, tmp_path: Path) -> None:
    for path in (checkout / ".git" / "HEAD", tmp_path / ".git"):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        assert checkout_commit(path.parents[path.name == "HEAD"]) == ""


@pytest.mark.parametrize("name", [".core.py.swp", "core.py~", "#core.py#", ".#core.py", ".DS_Store"])
def test_what_editors_leave_is_left_out(checkout: Path, tmp_path: Path, name: str) -> None:
    for folder in ("sageattention", "csrc/fused", "."):
        (checkout / folder / name).write_text("half written")
    copy_tree(checkout, tmp_path / "copy")
    assert files(tmp_path / "copy") == COPIED


def test_the_commit_of_a_checkout_is_read_from_its_files(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    assert checkout_commit(tmp_path) == ""
    git.mkdir()
    (git / "HEAD").write_text(f"{COMMIT}\n")
    assert checkout_commit(tmp_path) == COMMIT
    (git / "HEAD").write_text("ref: refs/heads/a/branch\n")
    assert checkout_commit(tmp_path) == ""
    (git / "packed-refs").write_text(
        f"# pack-refs with: peeled\n{'1' * 40} refs/tags/v1\n{COMMIT} refs/heads/a/branch\n"
    )
    assert checkout_commit(tmp_path) == COMMIT
    (git / "refs" / "heads" / "a").mkdir(parents=True)
    (git / "refs" / "heads" / "a" / "branch").write_text("2" * 40 + "\n")
    assert checkout_commit(tmp_path) == "2" * 40


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_a_real_worktree_is_what_git_says(tmp_path: Path) -> None:
    def git(folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    main = tmp_path / "main"
    main.mkdir()
    git(main, "init", "-q")
    git(main, "commit", "-q", "--allow-empty", "-m", "first")
    git(main, "worktree", "add", "-q", "-b", "other", str(tmp_path / "worktree"))
    git(tmp_path / "worktree", "commit", "-q", "--allow-empty", "-m", "second")
    assert checkout_commit(main) == git(main, "rev-parse", "HEAD")
    git(main, "pack-refs", "--all")
    assert checkout_commit(tmp_path / "worktree") == git(tmp_path / "worktree", "rev-parse", "HEAD")
    assert checkout_commit(main) != checkout_commit(tmp_path / "worktree")

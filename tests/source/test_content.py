"""A tree is the release if the files that a build reads are the release's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_up_source import READ, files, sums

from builder.source.checkout import copy_tree
from builder.source.content import differences, in_short, keep_only


@pytest.fixture
def tree(checkout: Path, tmp_path: Path) -> Path:
    """A copy of the directory, as a build takes it."""
    copy_tree(checkout, tmp_path / "tree")
    return tmp_path / "tree"


def write(path: Path, text: str = "new") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", sorted(READ))
def test_every_file_that_a_build_reads_counts(tree: Path, name: str) -> None:
    pinned = sums(tree)
    assert differences(tree, pinned) == []
    content = (tree / name).read_bytes()
    (tree / name).write_bytes(content + b" ")
    assert differences(tree, pinned) == [f"{name} differs"]
    (tree / name).unlink()
    assert differences(tree, pinned) == [f"{name} is missing"]
    (tree / name).mkdir()
    assert differences(tree, pinned) == [f"{name} is missing"]


@pytest.mark.parametrize(
    "name",
    [
        *("csrc/fused/torch.h", "csrc/new/a.cu", "sageattention/more.py", "sageattention/.hidden"),
        *("setup.cfg", "pyproject.toml", "conftest.py", "NOTICE", "LICENCE.txt", "plugin/__init__.py"),
    ],
)
def test_what_is_added_where_a_build_reads_counts(tree: Path, name: str) -> None:
    pinned = sums(tree)
    write(tree / name)
    assert differences(tree, pinned) == [f"{name} is added"]


@pytest.mark.parametrize(
    "name", ["bench/bench.py", "tools/run.sh", ".gitignore", "notes.txt", "assets/1.png"]
)
def test_what_no_build_reads_does_not_count(tree: Path, name: str) -> None:
    pinned = sums(tree)
    write(tree / name)
    assert differences(tree, pinned) == []


def test_a_link_out_of_the_folders_is_added_or_read(tree: Path) -> None:
    pinned = sums(tree)
    shutil.move(tree / "csrc/fused/fused.cu", tree / "elsewhere.cu")
    (tree / "csrc/fused/fused.cu").symlink_to("../../elsewhere.cu")
    assert differences(tree, pinned) == []
    (tree / "csrc/tools").symlink_to("../tools")
    assert differences(tree, pinned) == ["csrc/tools is added"]
    keep_only(tree, pinned)
    assert files(tree) == READ
    assert not any(path.is_symlink() for path in tree.rglob("*"))


def test_only_the_release_is_kept_with_one_mode(tree: Path) -> None:
    pinned = sums(tree)
    (tree / "setup.py").chmod(0o755)
    keep_only(tree, pinned)
    assert files(tree) == READ
    assert sums(tree) == pinned
    assert {(tree / name).stat().st_mode & 0o777 for name in READ} == {0o644}


def test_many_differences_are_told_in_short() -> None:
    found = [f"{letter} differs" for letter in "abcdefgh"]
    assert in_short(found) == "a differs, b differs, c differs, d differs, e differs, and 3 more"
    assert in_short(found[:2]) == "a differs, b differs"

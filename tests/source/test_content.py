"""A tree is the release if the files that a build reads are the release's."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.source import READ, files, sums

from builder.source.content import differences, keep_only


@pytest.mark.parametrize("name", ["README.md", "csrc/fused/fused.cu", "setup.py"])
def test_every_file_that_a_build_reads_counts(checkout: Path, name: str) -> None:
    pinned = sums(checkout) | {"csrc/gone.cu": "0" * 64}
    (checkout / name).write_text("changed")
    shown = differences(checkout, pinned).split(", ")
    assert {f"{name} differs", "csrc/gone.cu is missing"} <= set(shown)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        *((name, True) for name in ("csrc/new/a.cu", "sageattention/more.py", "setup.cfg", "conftest.py")),
        *((name, True) for name in ("LICENCE.txt", "plugin/__init__.py", "plugin/more.txt")),
        *((name, False) for name in ("bench/bench.py", ".gitignore", "notes.txt", "assets/1.png")),
    ],
)
def test_what_is_added_counts_where_a_build_reads_it(tmp_path: Path, name: str, counts: bool) -> None:
    for path in ("setup.py", "csrc/a.cu", "sageattention/__init__.py", "plugin/__init__.py", name):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    pinned = sums(
        tmp_path, {"setup.py", "csrc/a.cu", "sageattention/__init__.py", "plugin/__init__.py"} - {name}
    )
    assert differences(tmp_path, pinned) == (f"{name} is added" if counts else "")


def test_only_the_first_few_differences_are_named(tmp_path: Path) -> None:
    pinned = {f"csrc/{letter}": "0" * 64 for letter in "abcdefgh"}
    assert differences(tmp_path, pinned).endswith("csrc/e is missing, and 3 more")


def test_only_the_release_is_kept_with_one_mode(checkout: Path) -> None:
    pinned = sums(checkout)
    (checkout / "setup.py").chmod(0o755)
    keep_only(checkout, pinned)
    assert files(checkout) == READ
    assert sums(checkout) == pinned
    assert {(checkout / name).lstat().st_mode & 0o777 for name in READ} == {0o644}

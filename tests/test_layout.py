"""The tree shows the way of a wheel: what its folders may import, and how large they may grow."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from builder.util.files import ROOT

BUILDER = ROOT / "builder"
# The steps in the order in which a wheel goes through them.
WAY = ["util", "target", "source", "toolchain", "compile", "wheel", "finish", "smoketest", "check", "publish"]
TOP = len(WAY)
MODULES = sorted(path for path in BUILDER.rglob("*.py") if path.name != "__init__.py")
LONGEST_MODULE_LINES = 400
LARGEST_FOLDER = 14


def place(parts: tuple[str, ...]) -> int:
    """Where on the way a module stands; the commands and the pipeline stand above all folders."""
    return WAY.index(parts[0]) if parts and parts[0] in WAY else TOP


def imported(path: Path) -> set[tuple[str, ...]]:
    """The builder's modules that a module imports, wherever in it, without the leading `builder`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "builder"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(BUILDER).as_posix())
def test_no_import_goes_back_up_the_way(path: Path) -> None:
    own = place(path.relative_to(BUILDER).parts[:-1])
    above = {".".join(parts) for parts in imported(path) if place(parts) > own}
    assert not above


def test_the_smoke_test_runs_without_the_rest_of_the_builder() -> None:
    paths = [path for path in MODULES if path.relative_to(BUILDER).parts[0] == "smoketest"]
    others = {path.name: parts for path in paths for parts in imported(path) if parts[0] != "smoketest"}
    assert not others


def test_every_folder_is_on_the_way() -> None:
    folders = {path.parent.name for path in BUILDER.glob("*/__init__.py")}
    assert folders == set(WAY)


def test_modules_import_each_other_in_no_circle() -> None:
    names = {path.relative_to(BUILDER).with_suffix("").parts: path for path in MODULES}
    needs = {
        name: {parts[:end] for parts in imported(path) for end in (len(parts), len(parts) - 1)} & names.keys()
        for name, path in names.items()
    }
    while free := {name for name, needed in needs.items() if not needed - {name}}:
        needs = {name: needed - free for name, needed in needs.items() if name not in free}
    assert not needs


def test_no_two_modules_share_a_name() -> None:
    names = [path.stem for path in MODULES if path.stem != "__main__"]
    assert not {name for name in names if names.count(name) > 1}


def test_no_two_public_classes_share_a_name() -> None:
    names = [
        node.name
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert not {name for name in names if names.count(name) > 1}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(BUILDER).as_posix())
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE_LINES


def test_no_folder_is_a_crowd() -> None:
    folders = {path.parent for path in MODULES}
    crowds = {
        folder.name: len(list(folder.glob("*.py")))
        for folder in folders
        if len(list(folder.glob("*.py"))) - 1 > LARGEST_FOLDER
    }
    assert not crowds


def test_each_module_that_does_something_has_its_test_file() -> None:
    missing = {
        path.relative_to(BUILDER).as_posix()
        for path in MODULES
        if path.parent != BUILDER and path.relative_to(BUILDER).parts[0] != "smoketest"
        if re.search(r"^ *(def|class) ", path.read_text(encoding="utf-8"), re.M)
        if not (ROOT / "tests" / path.relative_to(BUILDER).parent / f"test_{path.stem}.py").is_file()
    }
    assert not missing

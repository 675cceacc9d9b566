"""The tree shows the way of a wheel: what the folders of builder/ may import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

BUILDER = Path(__file__).resolve().parent.parent / "builder"
# What may be imported, lowest first: `wheel` holds the formats that the later steps write and read. The
# commands stand above all folders.
WAY = ["util", "target", "wheel", "source", "toolchain", "compile", "finish", "smoketest", "check", "publish"]
MODULES = sorted(path for path in BUILDER.rglob("*.py") if path.name != "__init__.py")


def place(parts: tuple[str, ...]) -> int:
    return WAY.index(parts[0]) if parts[0] in WAY else len(WAY)


def imports(path: Path) -> set[tuple[str, ...]]:
    """The builder's modules that a module imports, wherever in it, without the leading `builder`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {tuple(name.split(".")[1:]) for name in names if name.startswith("builder.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(BUILDER).as_posix())
def test_no_import_goes_back_up_the_way(path: Path) -> None:
    parts = path.relative_to(BUILDER).parts
    above = {name for name in imports(path) if place(name) > place(parts)}
    assert not above
    if parts[0] == "smoketest":
        assert {name[0] for name in imports(path)} <= {"smoketest"}, (
            "the smoke test needs torch and the wheel only"
        )


def test_modules_import_each_other_in_no_circle() -> None:
    names = {path.relative_to(BUILDER).with_suffix("").parts for path in MODULES}
    needs = {
        name: {
            parts[:end] for parts in imports(BUILDER.joinpath(*name).with_suffix(".py")) for end in (-1, None)
        }
        & names
        for name in names
    }
    while free := {name for name, needed in needs.items() if not needed - {name}}:
        needs = {name: needed - free for name, needed in needs.items() if name not in free}
    assert not needs

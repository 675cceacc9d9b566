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


def imports(path: Path) -> set[str]:
    """The folders, and the modules of no folder, that a module imports of the builder, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("builder.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(BUILDER).as_posix())
def test_no_import_goes_back_up_the_way(path: Path) -> None:
    folder = path.relative_to(BUILDER).parts[0]
    if folder == "smoketest":
        assert imports(path) <= {"smoketest"}, "the smoke test needs torch and the wheel only"
    elif folder in WAY:
        assert imports(path) <= {*WAY[: WAY.index(folder) + 1]}

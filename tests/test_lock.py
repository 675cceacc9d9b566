"""The locks pin every tool of pyproject.toml's groups, with hashes, and name no package index."""

from __future__ import annotations

import re
from pathlib import Path

import nox.project
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {
    "builder/requirements.txt": "build",
    "builder/publish/requirements.txt": "publish",
    "tests/requirements.txt": "dev",
}


@pytest.mark.parametrize("lock", LOCKS)
def test_each_tool_is_pinned_to_a_version_that_fits(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"://|--(?:extra-)?index|--find-links", text)
    versions: dict[str, list[str]] = {}
    for line in re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines():
        pin = Requirement(line.partition(" --hash=")[0])
        assert re.findall(r" --hash=sha256:[0-9a-f]{64}\b", line), line
        versions.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    pyproject = nox.project.load_toml(ROOT / "pyproject.toml")
    for tool in map(Requirement, nox.project.dependency_groups(pyproject, LOCKS[lock])):
        pinned = versions[canonicalize_name(tool.name)]
        assert all(map(tool.specifier.contains, pinned)), f"{tool}: run nox -s lock"

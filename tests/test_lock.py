"""The locks pin every tool of pyproject.toml's groups, with hashes, and name no package index."""

from __future__ import annotations

import re

import nox.project
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.util.files import ROOT

LOCKS = {"builder/requirements.txt": "build", "tests/requirements.txt": "dev"}

each_lock = pytest.mark.parametrize("lock", LOCKS)


def pins(lock: str) -> dict[Requirement, list[str]]:
    """Return what a lock pins, with the SHA-256 of each of its files."""
    text = re.sub(r"^#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return {
        Requirement(line.partition(" --hash=")[0]): re.findall(r" --hash=sha256:([0-9a-f]{64})\b", line)
        for line in lines
    }


@each_lock
def test_each_tool_is_pinned_to_a_version_that_fits(lock: str) -> None:
    locked = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins(lock)}
    groups = nox.project.dependency_groups(nox.project.load_toml(ROOT / "pyproject.toml"), LOCKS[lock])
    assert groups
    for wanted in map(Requirement, groups):
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), f"{wanted}: run nox -s lock"


@each_lock
def test_each_pin_is_one_version_with_hashes(lock: str) -> None:
    for pin, hashes in pins(lock).items():
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
        assert hashes, pin


@each_lock
def test_no_lock_names_a_package_index(lock: str) -> None:
    assert not re.search(r"://|--(?:extra-)?index|--find-links", (ROOT / lock).read_text(encoding="utf-8"))


def test_the_tests_run_with_the_tools_that_build() -> None:
    build, tests = ({(pin.name, str(pin.specifier)) for pin in pins(lock)} for lock in LOCKS)
    assert build <= tests

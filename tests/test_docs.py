"""README and docs/: links lead somewhere, and what they say of the code is still so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder.check.checks import CHECKS
from builder.source.patches import load_series
from builder.target.targets import PATCHES_DIR, TARGETS_DIR, TOOLCHAINS, load_target
from builder.util.files import ROOT
from docs.tables import TABLES, fresh

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *sorted(PATCHES_DIR.glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), link
            assert not anchor or anchor in anchors(there), link


def test_every_page_is_linked_from_the_readme() -> None:
    pages = {page.name for page in DOCS.glob("*.md")}
    assert pages == set(re.findall(r"\(docs/([\w-]+\.md)\)", README.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_fresh(name: str) -> None:
    (page,) = (text for path in DOCS.glob("*.md") if f"<!-- table: {name} -->" in (text := path.read_text()))
    assert fresh(page) == page, "The code has changed. Run: python -m docs.tables"


def test_sessions_exist() -> None:
    command = [sys.executable, "-m", "nox", "-l", "-f", str(ROOT / "noxfile.py")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sessions = set(re.findall(r"^[*-] (\S+) (?:\[.*\] )?->", listed, re.MULTILINE))
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = {
        name
        for names in re.findall(r"\bnox -s ((?:[a-z][\w-]* ?)+)", text.replace("TARGET", "cp312-cu130"))
        for name in names.split()
    }
    assert named <= sessions
    kinds = {re.sub("-.*-.*", "-TARGET", session) for session in sessions}
    readme = README.read_text(encoding="utf-8")
    assert {kind for kind in kinds if f"`{kind}`" not in readme} == set()


def test_every_patch_is_listed() -> None:
    page = (DOCS / "faults-and-patches.md").read_text(encoding="utf-8")
    linked = re.findall(r"\(\.\./patches/v2\.2\.0/(\S+)\) \|$", page, re.MULTILINE)
    assert linked == [patch.name for patch in load_series(PATCHES_DIR / "v2.2.0")]


def test_messages_of_the_wheels_are_in_the_patches() -> None:
    sources = [path.read_text(encoding="utf-8") for path in PATCHES_DIR.rglob("*") if path.is_file()]
    others = {"no kernel image is available for execution on the device", "Failed to find C compiler"}
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8").partition("\n## While running\n")[2]
    rows = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    own = {message for row in rows for message in re.findall(r"`([^`]+)`", row.split(" | ")[0])} - others
    assert own
    assert not {message for message in own if not any(message in source for source in sources)}


def test_the_target_to_add_is_a_good_one(tmp_path: Path) -> None:
    text = (DOCS / "develop.md").read_text(encoding="utf-8")
    example = re.search(r"`targets/(\S+\.toml)`:\n\n```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert example
    shutil.copytree(TARGETS_DIR / TOOLCHAINS, tmp_path / TOOLCHAINS)
    (tmp_path / example[1]).write_text(example[2])
    assert f"{load_target(tmp_path / example[1]).name}.toml" == example[1]


def test_the_text_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in (README, *DOCS.glob("*.md"))) <= 9000


def test_every_audit_check_is_listed() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "audit.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(CHECKS)


def test_ci_runs_the_readme_s_test_command() -> None:
    printed = subprocess.run([ROOT / ".ci" / "run", "--print"], capture_output=True, text=True, check=True)
    assert printed.stdout.endswith(".venv/bin/nox -s lint types tests e2e\n")

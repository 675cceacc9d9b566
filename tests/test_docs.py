"""README and docs/: links lead somewhere, and what they say of the code is still so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.source import make_checkout

from builder.check.audit import CHECKS
from builder.source.content import differences
from builder.source.patches import load_series
from builder.target.targets import TARGETS_DIR, TOOLCHAINS, load_target
from builder.target.upstream import PATCHES_DIR, load_release, read_sums
from builder.util.files import ROOT
from docs.tables import TABLES, fresh

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *sorted(PATCHES_DIR.glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README_LINES = 150

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def section(page: str, title: str) -> str:
    """Return the text of a page in docs/ under a heading, up to the next heading."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {title}\n")[2]
    assert text, f"docs/{page} has no section {title!r}"
    return text.partition("\n## ")[0]


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


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_fresh(name: str) -> None:
    (page,) = (text for path in DOCS.glob("*.md") if f"<!-- table: {name} -->" in (text := path.read_text()))
    assert fresh(page) == page, "The code has changed. Run: python -m docs.tables"


def test_sessions_exist() -> None:
    command = [sys.executable, "-m", "nox", "-l", "-f", str(ROOT / "noxfile.py")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sessions = set(re.findall(r"^[*-] (\S+) (?:\[.*\] )?->", listed, re.MULTILINE))
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = {name for names in re.findall(r"\bnox -s ((?:[a-z][\w-]* ?)+)", text) for name in names.split()}
    assert named <= sessions
    targets = {session.partition("-")[2] for session in sessions if session.startswith("build-")}
    rows = re.findall(r"^\| (`.*?) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    table = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {name.replace("TARGET", target) for name in table for target in targets} == sessions


def test_every_audit_check_is_listed() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "audit.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(CHECKS)


def test_every_patch_is_listed() -> None:
    page = (DOCS / "faults-and-patches.md").read_text(encoding="utf-8")
    linked = re.findall(r"\(\.\./patches/v2\.2\.0/(\S+)\) \|$", page, re.MULTILINE)
    assert linked == [patch.name for patch in load_series(PATCHES_DIR / "v2.2.0")]


def test_messages_of_the_wheels_are_in_the_patches() -> None:
    rows = section("troubleshooting.md", "Errors that these wheels raise").splitlines()[3:]
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    sources = [path.read_text(encoding="utf-8") for path in PATCHES_DIR.rglob("*") if path.is_file()]
    assert messages
    assert [message for message in messages if not any(message in source for source in sources)] == []


def test_the_target_to_add_is_a_good_one(tmp_path: Path) -> None:
    text = (DOCS / "add-a-target.md").read_text(encoding="utf-8")
    found = re.search(r"`targets/(\S+\.toml)`:\n\n```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    shutil.copytree(TARGETS_DIR / TOOLCHAINS, tmp_path / TOOLCHAINS)
    (tmp_path / found[1]).write_text(found[2])
    assert f"{load_target(tmp_path / found[1]).name}.toml" == found[1]


def test_the_list_of_the_releases_files_is_made_as_the_page_says(tmp_path: Path) -> None:
    [command] = re.findall(
        r"^ +(find csrc .*)$", section("patches.md", "Move to a new release"), re.MULTILINE
    )
    checkout = make_checkout(tmp_path / "checkout")
    for name in ("LICENSE", "MANIFEST.in", "pyproject.toml"):
        (checkout / name).write_text(name)
    (checkout / "README.md").unlink()
    (checkout / "README.md").write_text("# Read me\n")
    shutil.rmtree(checkout / "sageattention" / "__pycache__")
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=checkout, check=True)
    listed = read_sums(checkout / "upstream.sha256")
    assert differences(checkout, listed) == []
    assert list(listed) == sorted(listed)
    assert {name.partition("/")[0] for name in listed} == {
        name.partition("/")[0] for name in load_release(PATCHES_DIR / "v2.2.0").files
    }


@pytest.mark.parametrize(
    ("readme", "good"),
    [
        ("<!-- test command -->\n```sh\ntrue\n```\n", True),
        ("<!-- test command -->\n\n```\ntrue\n```\n", True),
        ("```sh\ntrue\n```\n", False),
        ("<!-- test command -->\n```sh\n```\n", False),
        ("<!-- test command -->\nText.\n```sh\ntrue\n```\n", False),
        ("<!-- test command -->\n```sh\ntrue\n", False),
        ("<!-- test command -->\n```sh\ntrue\n```\n<!-- test command -->\n```sh\nfalse\n```\n", False),
    ],
)
def test_ci_takes_the_one_marked_block(tmp_path: Path, readme: str, good: bool) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "README.md").write_text(readme)
    command = [str(tmp_path / ".ci" / "run"), "--print"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is good
    assert done.stdout == ("true\n" if good else "")


def test_ci_runs_the_readme_s_test_command() -> None:
    printed = subprocess.run([ROOT / ".ci" / "run", "--print"], capture_output=True, text=True, check=True)
    assert printed.stdout.endswith(".venv/bin/nox -s lint types tests e2e\n")

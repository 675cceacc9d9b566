"""The patch engine on small trees: what applies, what is refused, and that refusal changes nothing."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from made_up_source import CHANGE, Workbench, diff, rule

from builder.source.patches import apply_series
from builder.source.series import load_series
from builder.util.errors import PatchError


def test_a_patch_applies_and_says_what_it_did(bench: Workbench) -> None:
    path = bench.file("a.txt", "one\ntwo\nthree\n")
    bench.patch("0001-change.patch", CHANGE)
    assert bench.apply() == ["1 hunk in 1 file"]
    assert path.read_text() == "one\nTWO\nthree\n"


def test_a_hunk_may_have_moved(bench: Workbench) -> None:
    path = bench.file("a.txt", "new\n" * 40 + "one\ntwo\nthree\n")
    bench.patch("0001-change.patch", CHANGE)
    bench.apply()
    assert path.read_text() == "new\n" * 40 + "one\nTWO\nthree\n"


def test_of_several_places_the_nearest_is_taken(bench: Workbench) -> None:
    block = "one\ntwo\nthree\n"
    path = bench.file("a.txt", block + "x\n" * 10 + block)
    bench.patch("0001-change.patch", diff(" one", "-two", "+TWO", " three", at="-12,3 +12,3"))
    bench.apply()
    assert path.read_text() == block + "x\n" * 10 + "one\nTWO\nthree\n"


def test_the_second_hunk_is_looked_for_after_the_first(bench: Workbench) -> None:
    path = bench.file("a.txt", "a\nb\na\nb\n")
    bench.patch(
        "0001-change.patch", diff("-a", "+A", " b", "@@ -1,2 +1,2 @@", "-a", "+AA", " b", at="-1,2 +1,2")
    )
    bench.apply()
    assert path.read_text() == "A\nb\nAA\nb\n"


@pytest.mark.parametrize("found", ["one\n2\nthree\n", "one\ntwo \nthree\n", "one\ntwo\n", ""])
def test_context_must_match_to_the_letter(bench: Workbench, found: str) -> None:
    bench.file("a.txt", found)
    bench.patch("0001-change.patch", CHANGE)
    with pytest.raises(PatchError, match=r"0001-change\.patch: hunk 1 of 1 does not apply to a\.txt"):
        bench.apply()


def test_all_or_nothing_over_the_whole_series(bench: Workbench) -> None:
    bench.file("a.txt", "one\ntwo\nthree\n")
    bench.file("b.txt", "other\n")
    bench.patch("0001-change.patch", CHANGE)
    bench.rewrite("0002-rewrite.toml", rule("b.txt", "other", "changed", 1))
    bench.patch("0003-change.patch", CHANGE)  # its line is gone by then
    before = bench.snapshot()
    with pytest.raises(PatchError, match=r"0003-change\.patch: hunk 1"):
        bench.apply()
    assert bench.snapshot() == before


def test_entries_see_what_earlier_ones_did(bench: Workbench) -> None:
    path = bench.file("a.txt", "one\ntwo\nthree\n")
    bench.patch("0001-change.patch", CHANGE)
    bench.patch("0002-change.patch", diff(" one", "-TWO", "+2", " three"))
    bench.rewrite("0003-rewrite.toml", rule("*.txt", "^2$", "zwei", 1))
    bench.apply()
    assert path.read_text() == "one\nzwei\nthree\n"


def test_crlf_is_kept_and_compared(bench: Workbench) -> None:
    path = bench.file("a.txt", b"one\r\ntwo\r\nthree\r\n")
    bench.patch("0001-change.patch", diff(" one\r", "-two\r", "+TWO\r", " three\r"))
    bench.apply()
    assert path.read_bytes() == b"one\r\nTWO\r\nthree\r\n"
    bench.patch("0002-change.patch", diff(" one", "-TWO", "+2", " three"))
    bench.names.remove("0001-change.patch")
    (bench.patches / "series").write_text("0002-change.patch\n")
    with pytest.raises(PatchError, match="hunk 1"):
        bench.apply()


MISSING = "\\ No newline at end of file"


def test_a_missing_last_newline_is_kept_added_and_removed(bench: Workbench) -> None:
    kept = bench.file("kept", "one\ntwo")
    added = bench.file("added", "one\ntwo")
    removed = bench.file("removed", "one\ntwo\n")
    at = "-1,2 +1,2"
    bench.patch("0001-kept.patch", diff("-one", "+1", " two", MISSING, file="kept", at=at))
    bench.patch("0002-added.patch", diff(" one", "-two", MISSING, "+two", file="added", at=at))
    bench.patch("0003-removed.patch", diff(" one", "-two", "+two", MISSING, file="removed", at=at))
    bench.apply()
    assert [path.read_text() for path in (kept, added, removed)] == ["1\ntwo", "one\ntwo\n", "one\ntwo"]


def test_bytes_that_are_not_utf8_survive(bench: Workbench) -> None:
    path = bench.file("a.txt", b"one\ntwo\nthree\n\xff\xfe\n")
    bench.patch("0001-change.patch", CHANGE)
    bench.apply()
    assert path.read_bytes() == b"one\nTWO\nthree\n\xff\xfe\n"


def test_new_files_and_removed_files(bench: Workbench) -> None:
    bench.file("old.txt", "x\n")
    bench.patch("0001-new.patch", "--- /dev/null\n+++ b/sub/new.txt\n@@ -0,0 +1,2 @@\n+one\n+two\n")
    bench.patch("0002-old.patch", "--- a/old.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n")
    assert bench.apply() == ["1 file added", "1 hunk in 1 file"]
    assert bench.snapshot() == {"sub/new.txt": b"one\ntwo\n"}


def test_a_new_file_does_not_overwrite(bench: Workbench) -> None:
    bench.file("new.txt", "there\n")
    bench.patch("0001-new.patch", "--- /dev/null\n+++ b/new.txt\n@@ -0,0 +1 @@\n+one\n")
    with pytest.raises(PatchError, match=r"new\.txt already exists"):
        bench.apply()


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "sub/../../out.txt", ".git/hooks/x"])
def test_nothing_is_written_outside_the_tree(bench: Workbench, name: str) -> None:
    bench.patch("0001-new.patch", f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+one\n")
    with pytest.raises(PatchError, match="not a path inside the tree"):
        bench.apply()
    assert not (bench.tree.parent / "out.txt").exists()


def test_a_symbolic_link_does_not_lead_outside(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (bench.tree / "link").symlink_to(tmp_path / "elsewhere")
    bench.patch("0001-new.patch", "--- /dev/null\n+++ b/link/x\n@@ -0,0 +1 @@\n+one\n")
    with pytest.raises(PatchError, match="leads out of the tree"):
        bench.apply()


@pytest.mark.parametrize("body", ["no diff at all\n", "--- a/a.txt\n+++ b/a.txt\n@@ -1,9 +1,9 @@\n one\n"])
def test_what_is_no_diff_is_refused(bench: Workbench, body: str) -> None:
    bench.file("a.txt", "one\n")
    bench.patch("0001-broken.patch", body)
    with pytest.raises(PatchError, match=r"0001-broken\.patch"):
        bench.apply()


NOT_APPLIED = {
    "mode": "diff --git a/a.txt b/a.txt\nold mode 100644\nnew mode 100755\n",
    "executable": "diff --git a/x b/x\nnew file mode 100755\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+x\n",
    "link": "diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+a.txt\n",
    "changed link": "diff --git a/a.txt b/a.txt\nindex 1..2 120000\n" + CHANGE,
    "binary": "diff --git a/x b/x\nnew file mode 100644\nindex 0..1\nGIT binary patch\nliteral 5\nMcmd\n",
    "binary as said": "diff --git a/a.txt b/a.txt\nBinary files a/a.txt and b/a.txt differ\n",
    "rename": "diff --git a/a.txt b/b.txt\nsimilarity index 100%\nrename from a.txt\nrename to b.txt\n",
    "no hunk": "--- a/a.txt\n+++ b/a.txt\n",
    "no hunk before a file that has one": "--- a/a.txt\n+++ b/a.txt\n" + CHANGE,
    "junk after it": CHANGE + "junk\n",
    "signature": CHANGE + "-- \n2.39.5\n",
    "two parents": "diff --cc a.txt\n--- a/a.txt\n+++ b/a.txt\n@@@ -1,3 -1,3 +1,3 @@@\n  one\n",
    "no lines, far away": "--- a/a.txt\n+++ b/a.txt\n@@ -9999999999,0 +9999999999 @@\n+x\n",
    "lines far away": CHANGE.replace("-1,3 +1,3", "-9999999999,3 +9999999999,3"),
    "a number too long": CHANGE.replace("-1,3 +1,3", f"-{'9' * 5000},3 +1,3"),
    "folder": "--- /dev/null\n+++ b/sub\n@@ -0,0 +1 @@\n+x\n",
    "under a file": "--- /dev/null\n+++ b/a.txt/x\n@@ -0,0 +1 @@\n+x\n",
    "name too long": f"--- /dev/null\n+++ b/{'n' * 300}\n@@ -0,0 +1 @@\n+x\n",
    "null byte": "--- a/a\0\n+++ b/a\0\n@@ -1 +1 @@\n-one\n+x\n",
}


@pytest.mark.parametrize("name", NOT_APPLIED)
def test_what_can_t_be_applied_as_written_is_refused(bench: Workbench, name: str) -> None:
    bench.file("a.txt", "one\ntwo\nthree\n")
    bench.file("sub/b.txt", "b\n")
    bench.patch("0001-change.patch", NOT_APPLIED[name])
    before = bench.snapshot()
    with pytest.raises(PatchError, match=r"^0001-change\.patch: "):
        bench.apply()
    assert bench.snapshot() == before


def test_what_git_diff_writes_is_applied(bench: Workbench) -> None:
    for name, text in {"a.txt": "one\n\nthree\n", "run": "a\n", "gone": "x", "empty": ""}.items():
        bench.file(name, text)
    (bench.tree / "run").chmod(0o755)

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, cwd=bench.tree, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "a")
    for name, text in {"a.txt": "1\n\nthree\nfour", "run": "b\n", "new/file": "n\n", "nothing": ""}.items():
        bench.file(name, text)
    for name in ("gone", "empty"):
        (bench.tree / name).unlink()
    git("add", "-A")
    bench.patch("0001-change.patch", git("diff", "--cached", "--no-renames"))
    shutil.rmtree(bench.tree / "new")
    git("reset", "-q", "--hard")
    shutil.rmtree(bench.tree / ".git")
    assert bench.apply() == ["2 files added, 3 hunks in 4 files"]
    assert bench.snapshot() == {
        "a.txt": b"1\n\nthree\nfour",
        "run": b"b\n",
        "new/file": b"n\n",
        "nothing": b"",
    }


def test_a_rewrite_counts_over_all_its_files(bench: Workbench) -> None:
    first = bench.file("src/a.cu", "call(x);\ncall(y);\n")
    second = bench.file("src/b.cu", "call(z);\n")
    bench.rewrite("0001-rewrite.toml", rule("src/*.cu", r"call\((\w)\)", r"run(\1, 0)", 3))
    assert bench.apply() == ["3 replacements in 2 files"]
    assert (first.read_text(), second.read_text()) == ("run(x, 0);\nrun(y, 0);\n", "run(z, 0);\n")


@pytest.mark.parametrize("count", [1, 3])
def test_another_count_stops_and_names_the_rule(bench: Workbench, count: int) -> None:
    bench.file("a.txt", "x x\n")
    bench.rewrite("0001-rewrite.toml", rule("a.txt", "nothing|x", "x", 2) + rule("a.txt", "x", "y", count))
    before = bench.snapshot()
    with pytest.raises(
        PatchError, match=rf"0001-rewrite\.toml: replace 2 \('x'\) matches 2 times in a\.txt, not {count}"
    ):
        bench.apply()
    assert bench.snapshot() == before


def test_a_rule_without_a_file_stops(bench: Workbench) -> None:
    bench.rewrite("0001-rewrite.toml", rule("gone/*.cu", "x", "y", 1))
    with pytest.raises(PatchError, match=r"replace 1 finds no file gone/\*\.cu"):
        bench.apply()


def test_a_pattern_that_does_not_end_is_refused(bench: Workbench) -> None:
    bench.file("a.txt", "a" * 60)
    bench.rewrite("0001-rewrite.toml", rule("a.txt", "(a+)+b", "x", 1))
    with pytest.raises(PatchError, match=r"replace 1 \('\(a\+\)\+b'\) in a\.txt: it took longer than 0\.1 s"):
        apply_series(load_series(bench.patches), bench.tree, rule_seconds=0.1)


@pytest.mark.parametrize("file", ["sub", "a.txt/x"])
def test_an_added_file_needs_a_place(bench: Workbench, file: str) -> None:
    bench.file("a.txt", "a\n")
    bench.file("sub/b.txt", "b\n")
    (bench.patches / "files").mkdir()
    (bench.patches / "files" / "new").write_text("new\n")
    bench.rewrite("0001-add.toml", f"[[add]]\nfile = '{file}'\nsource = 'files/new'\n")
    before = bench.snapshot()
    with pytest.raises(PatchError, match=rf"0001-add\.toml: '{file}' (is a folder|lies under a file)"):
        bench.apply()
    assert bench.snapshot() == before


def test_a_file_is_replaced_only_if_it_is_the_expected_one(bench: Workbench) -> None:
    path = bench.file("old.py", "old\n")
    (bench.patches / "files").mkdir()
    (bench.patches / "files" / "old.py").write_text("new\n")
    digest = hashlib.sha256(b"old\n").hexdigest()
    bench.rewrite("0001-add.toml", f"[[add]]\nfile = 'old.py'\nreplaces = '{digest}'\n")
    bench.apply()
    assert path.read_text() == "new\n"
    with pytest.raises(PatchError, match=r"old\.py is not the file that this was written to replace"):
        bench.apply()
    path.unlink()
    with pytest.raises(PatchError, match=r"old\.py not found, so not replaced"):
        bench.apply()


def test_an_added_file_does_not_overwrite(bench: Workbench) -> None:
    bench.file("new.py", "there\n")
    (bench.patches / "files").mkdir()
    (bench.patches / "files" / "new.py").write_text("x = 1\n")
    bench.rewrite("0001-add.toml", "[[add]]\nfile = 'new.py'\n")
    with pytest.raises(PatchError, match=r"new\.py already exists"):
        bench.apply()

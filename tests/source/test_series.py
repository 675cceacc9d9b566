"""Reading a series of patches: what is read, and what is refused before anything is applied."""

from __future__ import annotations

import hashlib

import pytest
from made_up_source import CHANGE, HEADER, Workbench

from builder.source.series import Patch, Rewrite, load_series
from builder.util.errors import PatchError


def test_the_header_is_read(bench: Workbench) -> None:
    bench.patch("0001-change.patch", CHANGE)
    (entry,) = load_series(bench.patches)
    assert isinstance(entry, Patch)
    assert entry.header.why == "to see that it applies."
    assert entry.sha256 == hashlib.sha256((bench.patches / entry.name).read_bytes()).hexdigest()


@pytest.mark.parametrize("key", ["what", "why", "upstream", "test"])
def test_every_header_key_is_needed(bench: Workbench, key: str) -> None:
    lines = [line for line in HEADER.splitlines() if not line.startswith(key.capitalize())]
    bench.entry("0001-change.patch", "\n".join(lines) + "\n" + CHANGE)
    with pytest.raises(PatchError, match=f"{key}: missing"):
        load_series(bench.patches)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "neither adds nor replaces"),
        ("[[replace]]\nfiles = ['a']\npattern = '('\nreplacement = ''\ncount = 1\n", "replace 1: pattern: "),
        (
            "[[replace]]\nfiles = ['a']\npattern = 'a'\nreplacement = '\\9'\ncount = 1\n",
            "replace 1: pattern: ",
        ),
        ("[[replace]]\nfiles = ['a']\npattern = 'a'\ncount = 1\n", "replace 1: replacement: missing"),
        (
            "[[replace]]\nfiles = ['a']\npattern = 'a'\nreplacement = ''\ncount = '1'\n",
            "replace 1: count: '1' is not a number of matches",
        ),
        ("[[replace]]\nfiles = ['../a']\npattern = 'a'\nreplacement = ''\ncount = 1\n", "not a path inside"),
        (
            "[[replace]]\nfiles = ['a']\npattern = 'a'\nreplacement = ''\ncount = 0\n",
            "replace 1: count: 0 is not a number of matches, at least 1",
        ),
        ("[[add]]\nfile = 'a'\nsource = 'gone'\n", "gone is not among the files"),
        ("[[add]]\nfile = '/a'\n", "not a path inside"),
        ("extra = 1\n", "extra: unknown key"),
    ],
)
def test_a_wrong_rewrite_is_refused_when_read(bench: Workbench, body: str, message: str) -> None:
    bench.rewrite("0001-rewrite.toml", body)
    with pytest.raises(PatchError, match=message):
        load_series(bench.patches)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("files", value) for value in ("['**/**x']", "['.']", "['']", "[1]", "'a'", "[]", "['a', 'a']")),
        *(("files", value) for value in ('["a\\u0000"]', f"['{'n' * 300}']", "['/a']")),
        *(
            ("pattern", value)
            for value in ("''", "1", "'x{99999999999999999999}'", f"'{'(' * 3000}{')' * 3000}'")
        ),
        *(("replacement", value) for value in ("1", r"'\g<no>'", r"'\q'", r"'\g<a'", r"'\g<99999999999>'")),
        *(("count", value) for value in ("9" * 5000, "0x" + "f" * 5000, "-1", "1.0", "true", "[]", "{}")),
        ("x", "[" * 5000 + "]" * 5000),
    ],
)
def test_a_malformed_rule_is_one_error(bench: Workbench, key: str, value: str) -> None:
    rule = {"files": "['a']", "pattern": "'a'", "replacement": "'b'", "count": "1", key: value}
    lines = "\n".join(f"{name} = {value}" for name, value in rule.items())
    bench.rewrite("0001-rewrite.toml", f"[[replace]]\n{lines}\n")
    with pytest.raises(PatchError, match=r"^0001-rewrite\.toml: ") as caught:
        load_series(bench.patches)
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("name", ["series", "0001-add.toml", "files/a.py"])
def test_what_is_not_text_is_refused(bench: Workbench, name: str) -> None:
    (bench.patches / "files").mkdir()
    (bench.patches / "files" / "a.py").write_text("")
    bench.rewrite("0001-add.toml", "[[add]]\nfile = 'a.py'\n")
    (bench.patches / name).write_bytes(b"\xff")
    with pytest.raises(PatchError, match="can't be read as UTF-8"):
        load_series(bench.patches)


def test_files_are_added_and_counted_in_the_hash(bench: Workbench) -> None:
    (bench.patches / "files").mkdir()
    (bench.patches / "files" / "new.py").write_text("x = 1\n")
    bench.rewrite("0001-add.toml", "[[add]]\nfile = 'new.py'\n")
    (entry,) = load_series(bench.patches)
    assert isinstance(entry, Rewrite)
    assert bench.apply() == ["1 file added"]
    assert (bench.tree / "new.py").read_text() == "x = 1\n"
    (bench.patches / "files" / "new.py").write_text("x = 2\n")
    assert load_series(bench.patches)[0].sha256 != entry.sha256


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ("0001-gone.patch\n", "is not in the folder"),
        ("change.patch\n", "not a name such as"),
        ("../0001-out.patch\n", "not a name such as"),
        ("0001-change.patch\n0001-change.patch\n", "listed twice"),
    ],
)
def test_a_wrong_series_is_refused(bench: Workbench, series: str, message: str) -> None:
    bench.patch("0001-change.patch", CHANGE)
    (bench.patches / "series").write_text(series)
    with pytest.raises(PatchError, match=message):
        load_series(bench.patches)


def test_a_missing_series_is_refused(bench: Workbench) -> None:
    with pytest.raises(PatchError, match="series: not found"):
        load_series(bench.patches)

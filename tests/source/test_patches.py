"""A series of patches on small trees: what applies, and what is refused by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from builder.source.patches import apply_series, files_of, load_series
from builder.util.errors import PatchError

HEADER = 'what = "a test"\nwhy = "to see"\nupstream = "none"\ntest = "this one"\n'


class Bench:
    """A folder of patches and a tree."""

    def __init__(self, root: Path) -> None:
        self.patches, self.tree = root / "patches", root / "tree"
        (self.patches / "files").mkdir(parents=True)
        self.tree.mkdir()

    def file(self, name: str, content: bytes) -> Path:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def patch(self, name: str, body: str) -> None:
        with (self.patches / "series").open("a") as series:
            series.write(f"# a comment\n{name}\n")
        (self.patches / name).write_text(HEADER + body)

    def apply(self) -> list[str]:
        return [applied.summary for applied in apply_series(load_series(self.patches), self.tree)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def rule(files: str, pattern: str, replacement: str, count: int) -> str:
    keys = f"pattern = '{pattern}'\nreplacement = '{replacement}'\ncount = {count}\n"
    return f"[[replace]]\nfiles = ['{files}']\n{keys}"


def test_a_rule_counts_over_all_its_files_and_keeps_all_other_bytes(bench: Bench) -> None:
    first = bench.file("src/a.cu", b"call(x);\r\ncall(y);\n\xff")
    second = bench.file("src/b.cu", b"call(z);\n")
    bench.patch("0001-rules.toml", rule("src/*.cu", r"call\((\w)\)", r"run(\1, 0)", 3))
    assert bench.apply() == ["3 replacements in 2 files"]
    assert first.read_bytes() == b"run(x, 0);\r\nrun(y, 0);\n\xff"
    assert second.read_bytes() == b"run(z, 0);\n"


def test_rules_and_patches_see_what_earlier_ones_did(bench: Bench) -> None:
    path = bench.file("a.txt", b"one\ntwo\n")
    bench.patch("0001-first.toml", rule("a.txt", "^two$", "2", 1) + rule("a.txt", "^2$", "zwei", 1))
    bench.patch("0002-second.toml", rule("*.txt", "zwei", "deux", 1))
    assert bench.apply() == ["2 replacements in 1 file", "1 replacement in 1 file"]
    assert path.read_text() == "one\ndeux\n"


@pytest.mark.parametrize("count", [1, 3])
def test_another_count_names_the_rule(bench: Bench, count: int) -> None:
    bench.file("a.txt", b"x x\n")
    bench.patch("0001-rules.toml", rule("a.txt", "nothing|x", "x", 2) + rule("a.txt", "x", "y", count))
    message = rf"0001-rules\.toml: replace 2 \('x'\) matches 2 times in a\.txt, not {count}"
    with pytest.raises(PatchError, match=message):
        bench.apply()
    bench.file("a.txt", b"x x\n").unlink()
    with pytest.raises(PatchError, match="matches 0 times"):
        bench.apply()


def test_files_are_added(bench: Bench) -> None:
    added = bench.patches / "files" / "sub" / "new.py"
    added.parent.mkdir()
    added.write_text("x = 1\n")
    bench.patch("0001-add.toml", "[[add]]\nfile = 'sub/new.py'\n" + rule("sub/*.py", "1", "2", 1))
    assert files_of(load_series(bench.patches)) == {"series", "0001-add.toml", "files/sub/new.py"}
    assert bench.apply() == ["1 file added, 1 replacement in 1 file"]
    assert (bench.tree / "sub" / "new.py").read_text() == "x = 2\n"
    with pytest.raises(PatchError, match=r"0001-add\.toml: sub/new\.py is not absent"):
        bench.apply()


def test_a_file_is_replaced_only_if_it_is_the_expected_one(bench: Bench) -> None:
    path = bench.file("old.py", b"old\n")
    (bench.patches / "files" / "old.py").write_text("new\n")
    digest = hashlib.sha256(b"old\n").hexdigest()
    bench.patch("0001-add.toml", f"[[add]]\nfile = 'old.py'\nreplaces = '{digest}'\n")
    bench.apply()
    assert path.read_text() == "new\n"
    with pytest.raises(PatchError, match=r"old\.py is not the file that this was written to replace"):
        bench.apply()
    path.unlink()
    with pytest.raises(PatchError, match=r"old\.py is not the file"):
        bench.apply()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[[replace]]\nfiles = ['a']\npattern = 'a'\ncount = 1\n", "replace 1: replacement: missing"),
        (rule("a", "a", "", 1).replace("count = 1", "count = '1'"), "count: '1' is not of the type int"),
        ("extra = 1\n", "extra: unknown key"),
        ("extra", "0001-wrong.toml: can't be read: "),
    ],
)
def test_a_wrong_patch_is_refused_when_it_is_read(bench: Bench, body: str, message: str) -> None:
    bench.patch("0001-wrong.toml", body)
    with pytest.raises(PatchError) as caught:
        load_series(bench.patches)
    assert message in caught.value.message

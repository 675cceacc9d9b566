"""The series of changes that is made to upstream's tree, checked whole before anything is written.

`patches/<version>/series` lists the entries in order. There are two kinds:

- `NNNN-name.patch`: a unified diff under a header. It applies exactly: a hunk may have moved by some
  lines, but every context line must be there as written.
- `NNNN-name.toml`: files of this project to add, and replacements by regular expression, each with
  the number of matches that it expects. For what is mechanical, and where a diff would repeat much of
  upstream's text.

Both open with the same four keys: what is wrong, how it shows (why), where upstream discusses it, and
the test that fails without the entry.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from unidiff.errors import UnidiffParseError
from unidiff.patch import Hunk, PatchedFile, PatchSet

from builder.util.errors import PatchError
from builder.util.toml import tomllib

HEADER_KEYS = ("what", "why", "upstream", "test")
_ENTRY_NAME = re.compile(r"\d{4}-[a-z0-9-]+\.(?:patch|toml)")
_HEADER_LINE = re.compile(r"(?P<key>[A-Z][a-z]+): (?P<value>.+)")
_DIFF_START = re.compile(r"^(?:diff --git |--- )", re.MULTILINE)
_REMEDY = "Build upstream's release that this series was written for, or with --no-patches."


@dataclass(frozen=True)
class Header:
    """Why an entry is there: one sentence or more for each key."""

    what: str
    why: str
    upstream: str
    test: str


@dataclass(frozen=True)
class Patch:
    """A unified diff; `diff` is its text from the first file line on."""

    name: str
    sha256: str
    header: Header
    diff: str


@dataclass(frozen=True)
class Rule:
    """One replacement: `count` is how many matches all files together must have."""

    files: tuple[str, ...]
    pattern: re.Pattern[str]
    replacement: str
    count: int


@dataclass(frozen=True)
class Addition:
    """A file of this project that goes into the tree.

    `replaces` is the sha256 of the one file that it may overwrite, empty where there must be none.
    """

    file: str
    content: str
    replaces: str


@dataclass(frozen=True)
class Rewrite:
    """Files to add, then replacements in order."""

    name: str
    sha256: str
    header: Header
    additions: tuple[Addition, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Applied:
    """An entry that was applied: for the build's record. `sha256` covers the files that it adds."""

    name: str
    sha256: str
    summary: str


class _Tree:
    """A tree of text files with changes held in memory until `write`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._changed: dict[str, str | None] = {}

    def read(self, file: str) -> str | None:
        """Take a checked relative path; return the text with its line ends as they are, None if absent."""
        if file in self._changed:
            return self._changed[file]
        path = self.root / file
        return path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else None

    def set(self, file: str, text: str | None) -> None:
        self._changed[file] = text

    def glob(self, pattern: str) -> list[str]:
        on_disk = {p.relative_to(self.root).as_posix() for p in self.root.glob(pattern) if p.is_file()}
        added = {file for file in self._changed if PurePosixPath(file).match(pattern)}
        return sorted(file for file in on_disk | added if self.read(file) is not None)

    def write(self) -> None:
        for file, text in self._changed.items():
            path = self.root / file
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text.encode("utf-8", "surrogateescape"))


def load_series(directory: Path) -> tuple[Patch | Rewrite, ...]:
    """Read the series of a folder.

    Args:
        directory: The folder of one upstream version; its `series` file names one entry a line, `#`
            begins a comment.

    Returns:
        The entries in order.

    Raises:
        PatchError: The series or an entry can't be read; the message names file and key.
    """
    series = directory / "series"
    if not series.is_file():
        raise PatchError(f"No patch series: {series} is missing.", "Restore it, or build with --no-patches.")
    names = [line.split("#")[0].strip() for line in series.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    for name in names:
        if not _ENTRY_NAME.fullmatch(name):
            raise PatchError(
                f"{series}: {name!r} is not a name of the form NNNN-name.patch or NNNN-name.toml."
            )
        if names.count(name) > 1:
            raise PatchError(f"{series}: {name} is listed twice.")
        if not (directory / name).is_file():
            raise PatchError(f"{series}: {name} is not in the folder.")
    return tuple(_load(directory / name) for name in names)


def apply_series(series: Sequence[Patch | Rewrite], tree: Path) -> list[Applied]:
    """Apply every entry in order, or change nothing.

    Args:
        series: What `load_series` returned.
        tree: The scratch copy of upstream's tree, which is changed in place.

    Returns:
        What was applied, in order.

    Raises:
        PatchError: An entry does not apply; the message names entry, file and hunk or rule. The tree
            is as it was.
    """
    work = _Tree(tree)
    applied = []
    for entry in series:
        apply = _apply_patch(entry, work) if isinstance(entry, Patch) else _apply_rewrite(entry, work)
        applied.append(Applied(entry.name, entry.sha256, apply))
    work.write()
    return applied


def _load(path: Path) -> Patch | Rewrite:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PatchError(f"{path.name}: not UTF-8: {error}.") from None
    if path.suffix == ".toml":
        return _load_rewrite(path, text)
    start = _DIFF_START.search(text)
    if start is None:
        raise PatchError(f"{path.name}: holds no diff.")
    header = _header(path.name, _header_lines(text[: start.start()]))
    return Patch(path.name, hashlib.sha256(raw).hexdigest(), header, text[start.start() :])


def _header_lines(text: str) -> dict[str, Any]:
    """Parse `Key: value` lines; a line that starts with a space goes on with the value before it."""
    found: dict[str, Any] = {}
    key = ""
    for line in text.splitlines():
        match = _HEADER_LINE.fullmatch(line)
        if match:
            key = match["key"].lower()
            found[key] = match["value"]
        elif key and line.startswith(" "):
            found[key] += " " + line.strip()
    return found


def _header(name: str, keys: dict[str, Any]) -> Header:
    for key in HEADER_KEYS:
        value = keys.get(key)
        if not isinstance(value, str) or not value.strip():
            raise PatchError(f"{name}: the header lacks {key!r}.", f"It needs {', '.join(HEADER_KEYS)}.")
    return Header(*(" ".join(keys[key].split()) for key in HEADER_KEYS))


def _load_rewrite(path: Path, text: str) -> Rewrite:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PatchError(f"{path.name}: {error}.") from None
    unknown = set(data) - {*HEADER_KEYS, "add", "replace"}
    if unknown:
        raise PatchError(f"{path.name}: unknown key {sorted(unknown)[0]!r}.")
    additions = tuple(_addition(path, number, item) for number, item in enumerate(data.get("add", []), 1))
    rules = tuple(_rule(path, number, item) for number, item in enumerate(data.get("replace", []), 1))
    if not additions and not rules:
        raise PatchError(f"{path.name}: neither adds nor replaces anything.")
    digest = hashlib.sha256(text.encode())
    for addition in additions:
        digest.update(b"\0" + addition.file.encode() + b"\0" + addition.content.encode())
    return Rewrite(path.name, digest.hexdigest(), _header(path.name, data), additions, rules)


def _addition(path: Path, number: int, item: dict[str, Any]) -> Addition:
    where = f"{path.name}: add {number}"
    _keys(where, item, required={"file": str}, optional={"source": str, "replaces": str})
    file = _checked_path(where, item["file"])
    source = path.parent / _checked_path(where, item.get("source", f"files/{file}"))
    if not source.is_file():
        raise PatchError(f"{where}: {source.name} is not among the files of the series.")
    return Addition(file, source.read_bytes().decode("utf-8"), item.get("replaces", ""))


def _rule(path: Path, number: int, item: dict[str, Any]) -> Rule:
    where = f"{path.name}: rule {number}"
    _keys(where, item, required={"files": list, "pattern": str, "replacement": str, "count": int})
    files = tuple(_checked_path(where, file) for file in item["files"])
    if not files or item["count"] < 1:
        raise PatchError(f"{where}: needs at least one file and a count of at least 1.")
    try:
        pattern = re.compile(item["pattern"], re.MULTILINE)
        pattern.sub(item["replacement"], "")
    except re.error as error:
        raise PatchError(f"{where}: {error}.") from None
    return Rule(files, pattern, item["replacement"], item["count"])


def _keys(
    where: str, item: dict[str, Any], required: dict[str, type], optional: dict[str, type] | None = None
) -> None:
    known = {**required, **(optional or {})}
    for key, value in item.items():
        if key not in known:
            raise PatchError(f"{where}: unknown key {key!r}.")
        if not isinstance(value, known[key]):
            raise PatchError(f"{where}: {key!r} must be of type {known[key].__name__}.")
    for key in required:
        if key not in item:
            raise PatchError(f"{where}: {key!r} is missing.")


def _checked_path(where: str, file: object) -> str:
    """Return the path if it is relative and stays inside."""
    if not isinstance(file, str) or not file or "\\" in file or "\0" in file:
        raise PatchError(f"{where}: {file!r} is not a path inside the tree.")
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or ".git" in path.parts:
        raise PatchError(f"{where}: {file!r} is not a path inside the tree.")
    return path.as_posix()


def _inside(where: str, work: _Tree, file: str) -> str:
    """Return the path if no symbolic link on it leads out of the tree."""
    root = work.root.resolve()
    if not (work.root / file).resolve().is_relative_to(root):
        raise PatchError(f"{where}: {file!r} leads out of the tree.")
    return file


def _apply_rewrite(rewrite: Rewrite, work: _Tree) -> str:
    for addition in rewrite.additions:
        file = _inside(rewrite.name, work, addition.file)
        before = work.read(file)
        found = hashlib.sha256(before.encode("utf-8", "surrogateescape")).hexdigest() if before else ""
        if found != addition.replaces:
            state = (
                "is not the file that this was written to replace" if before else "is not there to replace"
            )
            if before and not addition.replaces:
                state = "is there already"
            raise PatchError(f"{rewrite.name}: {file} {state}.", _REMEDY)
        work.set(file, addition.content)
    total, touched = 0, set()
    for number, rule in enumerate(rewrite.rules, 1):
        count = 0
        for file in _rule_files(rewrite, number, rule, work):
            text, matches = rule.pattern.subn(rule.replacement, work.read(file) or "")
            if matches:
                work.set(file, text)
                touched.add(file)
            count += matches
        if count != rule.count:
            raise PatchError(
                f"{rewrite.name}: rule {number} ({rule.pattern.pattern!r}) matches {count} times in "
                f"{', '.join(rule.files)}, not {rule.count}.",
                _REMEDY,
            )
        total += count
    return _summary(total, "replacement", len(touched), len(rewrite.additions))


def _rule_files(rewrite: Rewrite, number: int, rule: Rule, work: _Tree) -> Iterator[str]:
    for pattern in rule.files:
        files = work.glob(pattern)
        if not files:
            raise PatchError(f"{rewrite.name}: rule {number} finds no file {pattern}.", _REMEDY)
        for file in files:
            yield _inside(rewrite.name, work, file)


def _summary(changes: int, noun: str, files: int, added: int) -> str:
    parts = []
    if added:
        parts.append(f"{added} file{'s' * (added != 1)} added")
    if changes:
        parts.append(f"{changes} {noun}{'s' * (changes != 1)} in {files} file{'s' * (files != 1)}")
    return ", ".join(parts)


def _apply_patch(patch: Patch, work: _Tree) -> str:
    try:
        files = PatchSet(patch.diff)
    except UnidiffParseError as error:
        raise PatchError(f"{patch.name}: not a unified diff: {error}.") from None
    if not files:
        raise PatchError(f"{patch.name}: holds no hunk.")
    hunks = added = 0
    for file in files:
        if _apply_file(patch.name, file, work):
            added += 1
        else:
            hunks += len(file)
    return _summary(hunks, "hunk", len(files) - added, added)


def _stripped(name: str) -> str:
    return name[2:] if name.startswith(("a/", "b/")) else name


def _apply_file(name: str, diff: PatchedFile, work: _Tree) -> bool:
    """Apply the hunks of one file; return whether the file is new."""
    source, target = (_stripped(side.split("\t")[0].strip()) for side in (diff.source_file, diff.target_file))
    new, gone = source == "/dev/null", target == "/dev/null"
    file = _inside(name, work, _checked_path(name, source if gone else target))
    if not (new or gone) and source != target:
        raise PatchError(f"{name}: renames {source}, which is not supported.")
    text = work.read(file)
    if new:
        if text is not None:
            raise PatchError(f"{name}: {file} is there already.", _REMEDY)
        text = ""
    elif text is None:
        raise PatchError(f"{name}: {file} is not there.", _REMEDY)
    # Lines end at "\n" alone: a "\r" before it is part of the line, and is compared.
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    result: list[str] = []
    done = 0
    for number, hunk in enumerate(diff, 1):
        before, after = _sides(hunk)
        at = _place(lines, before, hunk, done)
        if at is None:
            raise PatchError(
                f"{name}: hunk {number} of {len(diff)} does not apply to {file} (near line "
                f"{hunk.source_start}): its lines are not there.",
                _REMEDY,
            )
        result += lines[done:at] + after
        done = at + len(before)
    result += lines[done:]
    if gone and result:
        raise PatchError(f"{name}: removes {file}, which holds more than the patch knows.", _REMEDY)
    work.set(file, None if gone else "".join(result))
    return new


def _sides(hunk: Hunk) -> tuple[list[str], list[str]]:
    """Return the lines that a hunk expects and those that it leaves."""
    before: list[str] = []
    after: list[str] = []
    last: tuple[list[str], ...] = ()
    for line in hunk:
        if line.line_type == "\\":  # "No newline at end of file" speaks of the line before it
            for side in last:
                side[-1] = side[-1].rstrip("\n")
            continue
        last = {" ": (before, after), "": (before, after), "-": (before,), "+": (after,)}[line.line_type]
        for side in last:
            side.append(line.value)
    return before, after


def _place(lines: list[str], before: list[str], hunk: Hunk, done: int) -> int | None:
    """Return the index nearest to the hunk's own at which its lines stand, not before `done`."""
    if not before:
        return done if hunk.source_start == 0 or not lines else min(hunk.source_start, len(lines))
    expected = hunk.source_start - 1
    starts = range(done, len(lines) - len(before) + 1)
    fits = [at for at in starts if lines[at] == before[0] and lines[at : at + len(before)] == before]
    return min(fits, key=lambda at: abs(at - expected), default=None)

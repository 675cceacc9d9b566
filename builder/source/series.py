"""Reads a series of patches.

`patches/<version>/series` lists the entries in order. There are two kinds:

- `NNNN-name.patch`: a unified diff under a header. It applies exactly: a hunk may have moved by some
  lines, but every context line must be there as written.
- `NNNN-name.toml`: files of this project to add, and replacements by regular expression, each with
  the number of matches that it expects. For mechanical changes, and where a diff would repeat much of
  upstream's text.

Both start with the same four keys: what is wrong, how it shows (why), where upstream discusses it, and
the test that fails without the entry.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from builder.util import toml
from builder.util.errors import PatchError

_NAME_MAX = 255  # bytes, on all common file systems
HEADER_KEYS = ("what", "why", "upstream", "test")
_ENTRY_NAME = re.compile(r"\d{4}-[a-z0-9-]+\.(?:patch|toml)")
_HEADER_LINE = re.compile(r"(?P<key>[A-Z][a-z]+): (?P<value>.+)")
_DIFF_START = re.compile(r"^(?:diff --git |--- )", re.MULTILINE)


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

    `replaces` is the SHA-256 of the one file that it may overwrite; empty where there must be none. `source`
    is where it lies in the folder of the series.
    """

    file: str
    content: str
    replaces: str
    source: str


@dataclass(frozen=True)
class Rewrite:
    """Files to add, then replacements in order; `sha256` covers the files too."""

    name: str
    sha256: str
    header: Header
    additions: tuple[Addition, ...]
    rules: tuple[Rule, ...]


Series = Sequence[Patch | Rewrite]


def load_series(directory: Path) -> Series:
    """Read the series of a folder and return its entries in order.

    Args:
        directory: The folder of one upstream version; its `series` file names one entry a line, `#`
            starts a comment.

    Raises:
        PatchError: The series or an entry can't be read; the message names file and key.
    """
    series = directory / "series"
    if not series.is_file():
        raise PatchError(f"{series}: not found.", "Restore it, or build with --no-patches.")
    lines = (line.split("#")[0].strip() for line in _text(series).splitlines())
    names = [line for line in lines if line]
    for name in names:
        if not _ENTRY_NAME.fullmatch(name):
            raise PatchError(f"{series}: {name!r} is not a name such as 0001-name.patch or 0001-name.toml.")
        if names.count(name) > 1:
            raise PatchError(f"{series}: {name} is listed twice.")
        if not (directory / name).is_file():
            raise PatchError(f"{series}: {name} is not in the folder.")
    return tuple(_load(directory / name) for name in names)


def files_of(series: Series) -> set[str]:
    """Return the paths of a series' files in its folder: the list itself, its entries, and what they add."""
    rewrites = (entry for entry in series if isinstance(entry, Rewrite))
    added = {addition.source for rewrite in rewrites for addition in rewrite.additions}
    return {"series", *(entry.name for entry in series), *added}


def checked_path(where: str, file: object) -> str:
    """Return a path of the tree if it is relative and stays inside.

    Args:
        where: The entry that names it.
        file: The path.

    Raises:
        PatchError: It is not such a path.
    """
    path = PurePosixPath(file) if isinstance(file, str) and file else PurePosixPath("/")
    long = any(len(os.fsencode(part)) > _NAME_MAX for part in path.parts)
    if path.is_absolute() or long or {"..", ".git"} & set(path.parts) or re.search(r"[\\\0]", str(path)):
        raise PatchError(f"{where}: {toml.shown(file)} is not a path inside the tree.")
    return path.as_posix()


def _load(path: Path) -> Patch | Rewrite:
    text = _text(path)
    if path.suffix == ".toml":
        return _load_rewrite(path, text)
    start = _DIFF_START.search(text)
    if start is None:
        raise PatchError(f"{path.name}: no diff found in it.")
    header = toml.Table(path.name, _header_lines(text[: start.start()]), PatchError)
    return Patch(path.name, hashlib.sha256(text.encode()).hexdigest(), _header(header), text[start.start() :])


def _text(path: Path) -> str:
    """Return a file's text, with its line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PatchError(f"{path.name}: can't be read as UTF-8: {error}.") from None


def _header_lines(text: str) -> dict[str, Any]:
    """Parse `Key: value` lines; a line that starts with a space continues the value before it."""
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


def _header(table: toml.Table) -> Header:
    for key in HEADER_KEYS:
        table.check(key, key in table.values, "missing", f"Required keys: {', '.join(HEADER_KEYS)}.")
    return Header(*(" ".join(table.text(key, r"(?s).*\S.*", "a sentence").split()) for key in HEADER_KEYS))


def _load_rewrite(path: Path, text: str) -> Rewrite:
    table = toml.parse(path.name, text, PatchError)
    table.keys(HEADER_KEYS, ("add", "replace"))
    additions = tuple(_addition(path.parent, item) for item in table.tables("add"))
    rules = tuple(_rule(item) for item in table.tables("replace"))
    if not additions and not rules:
        raise PatchError(f"{path.name}: neither adds nor replaces anything.")
    digest = hashlib.sha256(text.encode())
    for addition in additions:
        digest.update(b"\0" + addition.file.encode() + b"\0" + addition.content.encode())
    return Rewrite(path.name, digest.hexdigest(), _header(table), additions, rules)


def _addition(folder: Path, table: toml.Table) -> Addition:
    table.keys(("file",), ("source", "replaces"))
    file = checked_path(table.where, table.values["file"])
    source = checked_path(table.where, table.values.get("source", f"files/{file}"))
    table.check("source", (folder / source).is_file(), f"{source} is not among the files of the series")
    replaces = "replaces" in table.values
    return Addition(
        file,
        _text(folder / source),
        table.text("replaces", "[0-9a-f]{64}", "the SHA-256 of a file of upstream's") if replaces else "",
        source,
    )


def _rule(table: toml.Table) -> Rule:
    table.keys(("files", "pattern", "replacement", "count"))
    files = tuple(checked_path(table.where, file) for file in table.texts("files", '["csrc/*.cu"]'))
    for file in files:
        try:
            any(Path("/nowhere").glob(file))
        except (ValueError, NotImplementedError, IndexError) as error:
            raise table.fail("files", f"{file!r} is not a pattern of paths: {error}") from None
    count = table.number("count", 1, "a number of matches, at least 1")
    replacement = table.text("replacement")
    try:
        pattern = re.compile(table.text("pattern", "(?s).+", "a regular expression"), re.MULTILINE)
        pattern.sub(replacement, "")
    except (re.error, IndexError, OverflowError, RecursionError) as error:
        raise table.fail("pattern", f"{error}") from None
    return Rule(files, pattern, replacement, count)

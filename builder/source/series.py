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
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from builder.util import toml
from builder.util.errors import PatchError

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

    `replaces` is the SHA-256 of the one file that it may overwrite; empty where there must be none.
    """

    file: str
    content: str
    replaces: str


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
    lines = (line.split("#")[0].strip() for line in series.read_text(encoding="utf-8").splitlines())
    names = [line for line in lines if line]
    for name in names:
        if not _ENTRY_NAME.fullmatch(name):
            raise PatchError(f"{series}: {name!r} is not a name such as 0001-name.patch or 0001-name.toml.")
        if names.count(name) > 1:
            raise PatchError(f"{series}: {name} is listed twice.")
        if not (directory / name).is_file():
            raise PatchError(f"{series}: {name} is not in the folder.")
    return tuple(_load(directory / name) for name in names)


def checked_path(where: str, file: object) -> str:
    """Return a path of the tree if it is relative and stays inside.

    Args:
        where: The entry that names it.
        file: The path.

    Raises:
        PatchError: It is not such a path.
    """
    path = PurePosixPath(file) if isinstance(file, str) and file else PurePosixPath("/")
    if path.is_absolute() or {"..", ".git"} & set(path.parts) or re.search(r"[\\\0]", str(path)):
        raise PatchError(f"{where}: {file!r} is not a path inside the tree.")
    return path.as_posix()


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
        raise PatchError(f"{path.name}: no diff found in it.")
    header = toml.Table(path.name, _header_lines(text[: start.start()]), PatchError)
    return Patch(path.name, hashlib.sha256(raw).hexdigest(), _header(header), text[start.start() :])


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
    source = folder / checked_path(table.where, table.values.get("source", f"files/{file}"))
    table.check("source", source.is_file(), f"{source.name} is not among the files of the series")
    replaces = "replaces" in table.values
    return Addition(
        file,
        source.read_bytes().decode("utf-8"),
        table.text("replaces", "[0-9a-f]{64}", "the SHA-256 of a file of upstream's") if replaces else "",
    )


def _rule(table: toml.Table) -> Rule:
    table.keys(("files", "pattern", "replacement", "count"))
    files = tuple(checked_path(table.where, file) for file in table.texts("files", '["csrc/*.cu"]'))
    count = table.number("count", 1, "a number of matches, at least 1")
    replacement = table.text("replacement")
    try:
        pattern = re.compile(table.text("pattern", "(?s).+", "a regular expression"), re.MULTILINE)
        pattern.sub(replacement, "")
    except re.error as error:
        raise table.fail("pattern", str(error)) from None
    return Rule(files, pattern, replacement, count)

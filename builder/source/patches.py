"""Applies a series of patches to upstream's tree; all of it is checked before anything is written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unidiff.errors import UnidiffParseError
from unidiff.patch import Hunk, PatchedFile, PatchSet

from builder.source.series import Patch, Rewrite, Rule, Series, checked_path
from builder.util.deadline import deadline
from builder.util.errors import PatchError
from builder.util.limits import RULE_SECONDS

# What a diff may hold besides its hunks: nothing that changes a mode, makes a link, or renames.
_HEADER_LINE = re.compile(
    r"diff --git .+|index [0-9a-f]+\.\.[0-9a-f]+( 100(644|755))?|(new|deleted) file mode 100644|"
    r"(---|\+\+\+|\\) .+"
)
_HUNK_LINE = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@.*")
_REMEDY = "Build upstream's release that this series was written for, or with --no-patches."


@dataclass(frozen=True)
class Applied:
    """An entry that was applied, for the build's record; `sha256` covers the files that it adds."""

    name: str
    sha256: str
    summary: str


class _Tree:
    """A tree of text files with changes held in memory until `write`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._changed: dict[str, str | None] = {}

    def read(self, file: str) -> str | None:
        """Return the text of a file, with its line ends as they are; None if it is not there."""
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


def apply_series(series: Series, tree: Path, *, rule_seconds: float = RULE_SECONDS) -> list[Applied]:
    """Apply every entry in order, or change nothing; returns what was applied, in order.

    Args:
        series: What `load_series` returned.
        tree: The scratch copy of upstream's tree, which is changed in place.
        rule_seconds: How long one replacement may take in one file.

    Raises:
        PatchError: An entry does not apply; the message names entry, file, and hunk or replacement. The
            tree is as it was.
    """
    work = _Tree(tree)
    applied = []
    for entry in series:
        if isinstance(entry, Patch):
            summary = _apply_patch(entry, work)
        else:
            summary = _apply_rewrite(entry, work, rule_seconds)
        applied.append(Applied(entry.name, entry.sha256, summary))
    try:
        work.write()
    except OSError as error:
        raise PatchError(f"The patched files can't be written: {error}.") from error
    return applied


def _inside(where: str, work: _Tree, file: str) -> str:
    """Return the path if a file can be there, and no symbolic link on it leads out of the tree."""
    root = work.root.resolve()
    try:
        if not (work.root / file).resolve().is_relative_to(root):
            raise PatchError(f"{where}: {file!r} leads out of the tree.")
        if (work.root / file).is_dir():
            raise PatchError(f"{where}: {file!r} is a folder.")
        if any(work.read(above.as_posix()) is not None for above in PurePosixPath(file).parents):
            raise PatchError(f"{where}: {file!r} lies under a file.")
    except (OSError, ValueError, RuntimeError) as error:
        raise PatchError(f"{where}: {file!r} can't be a file: {error}.") from None
    return file


def _apply_rewrite(rewrite: Rewrite, work: _Tree, rule_seconds: float) -> str:
    for addition in rewrite.additions:
        file = _inside(rewrite.name, work, addition.file)
        before = work.read(file)
        found = hashlib.sha256(before.encode("utf-8", "surrogateescape")).hexdigest() if before else ""
        if found != addition.replaces:
            state = (
                "is not the file that this was written to replace" if before else "not found, so not replaced"
            )
            if before and not addition.replaces:
                state = "already exists"
            raise PatchError(f"{rewrite.name}: {file} {state}.", _REMEDY)
        work.set(file, addition.content)
    total, touched = 0, set()
    for number, rule in enumerate(rewrite.rules, 1):
        count = 0
        for file in _rule_files(rewrite, number, rule, work):
            try:
                with deadline(rule_seconds):
                    text, matches = rule.pattern.subn(rule.replacement, work.read(file) or "")
            except TimeoutError as error:
                raise PatchError(
                    f"{rewrite.name}: replace {number} ({rule.pattern.pattern!r}) in {file}: {error}.",
                    "Write a pattern that can match in one way only: no repetition of a repetition.",
                ) from None
            if matches:
                work.set(file, text)
                touched.add(file)
            count += matches
        if count != rule.count:
            raise PatchError(
                f"{rewrite.name}: replace {number} ({rule.pattern.pattern!r}) matches {count} times in "
                f"{', '.join(rule.files)}, not {rule.count}.",
                _REMEDY,
            )
        total += count
    return _summary(total, "replacement", len(touched), len(rewrite.additions))


def _rule_files(rewrite: Rewrite, number: int, rule: Rule, work: _Tree) -> Iterator[str]:
    for pattern in rule.files:
        files = work.glob(pattern)
        if not files:
            raise PatchError(f"{rewrite.name}: replace {number} finds no file {pattern}.", _REMEDY)
        for file in files:
            yield _inside(rewrite.name, work, file)


def _summary(changes: int, noun: str, files: int, added: int) -> str:
    parts = []
    if added:
        parts.append(f"{added} file{'s' * (added != 1)} added")
    if changes:
        parts.append(f"{changes} {noun}{'s' * (changes != 1)} in {files} file{'s' * (files != 1)}")
    return ", ".join(parts)


def _check_lines(patch: Patch) -> None:
    """Refuse a diff that has lines outside of its hunks which would be passed over."""
    before = after = 0
    for line in patch.diff.split("\n"):
        if before > 0 or after > 0:
            before -= line[:1] in {" ", "-", ""}
            after -= line[:1] in {" ", "+", ""}
        elif hunk := _HUNK_LINE.fullmatch(line):
            before, after = (int(count or 1) for count in hunk.groups())
        elif line.strip() and not _HEADER_LINE.fullmatch(line):
            raise PatchError(
                f"{patch.name}: {line[:80]!r} can't be applied.",
                "A diff changes lines of text files, which keep their names and modes.",
            )


def _apply_patch(patch: Patch, work: _Tree) -> str:
    try:
        _check_lines(patch)
        files = PatchSet(patch.diff)
    except (UnidiffParseError, ValueError) as error:
        raise PatchError(f"{patch.name}: not a unified diff: {error}.") from None
    if not files:
        raise PatchError(f"{patch.name}: no hunk found in it.")
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
    file = _inside(name, work, checked_path(name, source if gone else target))
    if not (new or gone) and source != target:
        raise PatchError(f"{name}: renames {source}, which is not supported.")
    text = work.read(file)
    if not diff and not new and not gone:
        raise PatchError(f"{name}: it has no hunk for {file}.")
    if new:
        if text is not None:
            raise PatchError(f"{name}: {file} already exists.", _REMEDY)
        text = ""
    elif text is None:
        raise PatchError(f"{name}: {file} not found.", _REMEDY)
    # Only "\n" ends a line: a "\r" before it is part of the line, and is compared.
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    result: list[str] = []
    done = 0
    for number, hunk in enumerate(diff, 1):
        before, after = _sides(hunk)
        at = _place(lines, before, hunk, done)
        if at is None:
            raise PatchError(
                f"{name}: hunk {number} of {len(diff)} does not apply to {file} (near line "
                f"{hunk.source_start}): its lines were not found.",
                _REMEDY,
            )
        result += lines[done:at] + after
        done = at + len(before)
    result += lines[done:]
    if gone and result:
        raise PatchError(f"{name}: removes {file}, which has other content than the patch.", _REMEDY)
    work.set(file, None if gone else "".join(result))
    return new


def _sides(hunk: Hunk) -> tuple[list[str], list[str]]:
    """Return the lines that a hunk expects and those that it leaves."""
    before: list[str] = []
    after: list[str] = []
    last: tuple[list[str], ...] = ()
    for line in hunk:
        if line.line_type == "\\":  # "No newline at end of file" is about the line before it
            for side in last:
                side[-1] = side[-1].rstrip("\n")
            continue
        last = {" ": (before, after), "": (before, after), "-": (before,), "+": (after,)}[line.line_type]
        for side in last:
            side.append(line.value)
    return before, after


def _place(lines: list[str], before: list[str], hunk: Hunk, done: int) -> int | None:
    """Return the index nearest to the hunk's own at which its lines are, not before `done`."""
    if hunk.source_start > len(lines):
        return None
    if not before:
        return hunk.source_start if hunk.source_start >= done else None
    expected = hunk.source_start - 1
    starts = range(done, len(lines) - len(before) + 1)
    fits = [at for at in starts if lines[at] == before[0] and lines[at : at + len(before)] == before]
    return min(fits, key=lambda at: abs(at - expected), default=None)

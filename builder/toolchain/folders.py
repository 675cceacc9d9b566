"""Folders that are made as a whole: with a marker, written last, of what they were made from.

A folder without its marker, or with another one, is made anew; nothing in it is repaired piece by piece.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from builder.util import files
from builder.util.log import say

_MARKER = ".made-from"


def is_made(folder: Path, inputs: str) -> bool:
    """Return whether a folder was made, wholly, from what a text says."""
    marker = folder / _MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == inputs


def make(folder: Path, inputs: str, fill: Callable[[Path], None]) -> bool:
    """Make a folder, unless it was made from the same inputs; returns whether it was made now.

    `fill` makes it at another path of the same disk. Where that fails, the folder is as it was; what a killed
    process left is removed by the next one.
    """
    part = folder.with_name(f".{folder.name}.part")
    with files.locked(folder.with_name(f".{folder.name}.lock"), lambda: say("  waiting for another build")):
        if is_made(folder, inputs):
            return False
        shutil.rmtree(part, ignore_errors=True)
        try:
            fill(part)
            (part / _MARKER).write_text(inputs, encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return True

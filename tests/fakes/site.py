"""Sites that the index's command writes, and what is in them."""

from __future__ import annotations

import html
import re
from pathlib import Path

from builder.publish import index

WHEELS_URL = "https://github.com/someone/wheels/releases/download/v1/"


def links(folder: Path) -> dict[str, dict[str, str]]:
    """Return the links of a folder's page, by their texts: the attributes of each."""
    page = (folder / "index.html").read_text(encoding="utf-8")
    return {
        text: {name: html.unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', attributes)}
        for attributes, text in re.findall(r"<a ([^>]*)>([^<]*)</a>", page)
    }


def write_site(wheelhouse: Path, out: Path, *arguments: str) -> Path:
    assert index.main(["--wheelhouse", str(wheelhouse), "--out", str(out), *arguments]) == 0
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

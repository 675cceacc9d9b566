"""The pages of a simple index, for pip and uv.

A page is made once, as PEP 691 has it, and written twice: as JSON, and as the HTML of PEP 503.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from builder.publish.listed_wheel import ListedWheel, newest_first
from builder.publish.markup import render

HTML_NAME = "index.html"
JSON_NAME = "index.v1_json"
# PEP 700 adds `versions` and `size`. Its `upload-time` is optional, and would differ from run to run.
_META = {"api-version": "1.1"}


def root_page(projects: Iterable[str]) -> dict[str, Any]:
    """Return an index's first page, which lists its projects."""
    return {"meta": _META, "projects": [{"name": name} for name in sorted(projects)]}


def project_page(project: str, wheels: Sequence[ListedWheel]) -> dict[str, Any]:
    """Return a project's page: its wheels, with the digests of their METADATA (PEP 658 and 714)."""
    versions = sorted({wheel.version for wheel in wheels}, key=Version)
    files = [_file(wheel) for wheel in newest_first(wheels)]
    return {"meta": _META, "name": project, "versions": versions, "files": files}


def _file(wheel: ListedWheel) -> dict[str, Any]:
    metadata = {"sha256": wheel.metadata_sha256}
    values = {
        "filename": wheel.filename,
        # A wheel in the site lies beside this page.
        "url": wheel.url.rpartition("/")[2] if wheel.beside_the_index else wheel.url,
        "hashes": {"sha256": wheel.sha256},
        "size": wheel.size_bytes,
        "core-metadata": metadata,
        "dist-info-metadata": metadata,
    }
    return {**values, "requires-python": wheel.requires_python} if wheel.requires_python else values


def write_page(folder: Path, page: dict[str, Any]) -> None:
    """Write a page into its folder, as HTML and as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HTML_NAME).write_text(render("simple.html", page=page), encoding="utf-8")
    text = json.dumps(page, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / JSON_NAME).write_text(text + "\n", encoding="utf-8")

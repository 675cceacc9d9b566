"""The package index: static files that pip and uv install from, and a page for people.

Each CUDA version has a folder, as PyTorch's index does, because no tag and no requirement of a wheel says
which CUDA version its torch must be built for:

    index.html, wheels.json             the page, and the same entries for programs
    cu130/                              an index: the address for pip's --extra-index-url and uv's --index
    cu130/sageattention/                the project's page: its wheels, with hashes (PEP 503)
    cu130/sageattention/….whl.metadata  METADATA on its own (PEP 658), for wheels that are served from here
    basic/                              the basic wheels, which are not in an index

Each page of an index is HTML (`index.html`), and JSON (`index.v1_json`, PEP 691) for servers that negotiate.
Each wheel has the time when it was published (PEP 700), which `wheels.json` keeps from one index to the next.
uv takes it from the HTML too, for `exclude-newer`; pip takes it from JSON alone, for `--uploaded-prior-to`.

The index lists only the PEP 600 wheel of a build. The basic wheel's tag, such as `linux_x86_64`, fits every
glibc: pip would take it where the PEP 600 wheel is refused, and the import would fail.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.version import Version

from builder.publish.entries import (
    METADATA_SUFFIX,
    IndexEntry,
    find_wheels,
    newest_first,
    read_entry,
    read_metadata,
)
from builder.publish.page import page_html, render
from builder.util import http
from builder.util.arguments import Parser, published_address, repository
from builder.util.errors import UsageError
from builder.util.files import ROOT, beside
from builder.util.log import say, warn
from builder.wheel.label import WheelError

WHEELS_JSON = "wheels.json"
_SCHEMA = 1
_NO_INDEX = (ValueError, LookupError, TypeError, OSError, WheelError)  # by reading another file as one
_META = {"api-version": "1.1"}  # PEP 700, which adds `versions`, `size` and `upload-time`


def main(argv: Sequence[str]) -> int:
    """Write the index of a wheelhouse, and return 0; where BuilderError is raised, nothing was written."""
    options = _parser().parse_args(argv)
    paths = find_wheels(options.wheels, options.wheelhouse)
    entries: list[IndexEntry] = []
    for path in paths:
        try:
            entries.append(read_entry(path))
        except UsageError as error:
            if options.wheels:
                raise
            warn(f"Left out: {error.message}")  # somebody's wheel, in the wheelhouse as a whole
    incomplete = [entry.filename for entry in entries if not entry.complete]
    if incomplete and not options.allow_incomplete:
        raise UsageError(
            f"These lack architectures of their target: {', '.join(incomplete)}.",
            "pip would prefer them to the complete ones. Build with --arch all, name the wheels to list, "
            "or pass --allow-incomplete.",
        )
    earlier = {entry.filename: entry for entry in _previous(options.previous)} if options.previous else {}
    replaced: list[IndexEntry] = []
    with contextlib.suppress(*_NO_INDEX):
        replaced = _parse((options.out / WHEELS_JSON).read_bytes())
    known = [*replaced, *earlier.values()]
    times = {(entry.filename, entry.sha256): entry.uploaded for entry in known}
    for entry in entries:
        old = earlier.get(entry.filename, entry)
        if old.sha256 != entry.sha256:
            warn(f"{entry.filename}: it replaces the one at {old.url}, which has a different SHA-256.")
        earlier[entry.filename] = dataclasses.replace(
            entry,
            # The `+` of a local version is percent-encoded: in an address it may be taken for a space.
            url=(options.base_url or f"{entry.folder}/") + quote(entry.filename),
            uploaded=times.get((entry.filename, entry.sha256)) or options.uploaded,
        )
    entries = newest_first(earlier.values())
    offered = [entry for entry in entries if entry.portable]
    if not offered:
        raise UsageError(
            "There is no PEP 600 wheel (manylinux) of this project to list.",
            "Build a target on a system whose glibc is no newer than the target's platform tag.",
        )
    page = page_html(entries, site_url=options.site_url or "", repository=options.repository or "")
    _write(options.out, page, entries, {path.name: path for path in paths})
    cuda_tags = sorted({entry.cuda for entry in offered})
    say(f"Wrote {options.out}: {len(offered)} wheels in {', '.join(cuda_tags)}.")
    say(f"Look at it with: python -m http.server --directory {options.out}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="nox -s index --", description="Write the package index and its page.")
    help_ = "wheels to list (default: the wheelhouse's)"
    parser.add_argument("wheels", nargs="*", metavar="WHEEL", help=help_)
    parser.add_argument("--wheelhouse", type=Path, default=ROOT / "wheelhouse", metavar="DIR")
    parser.add_argument("--out", type=Path, default=ROOT / "site", metavar="DIR", help="default: site/")
    for option, help_ in {
        "--base-url": "link to wheels under this address (a release's assets: "
        "https://github.com/OWNER/REPO/releases/download/TAG/) in place of copies beside the index",
        "--site-url": "where the site will be, for the install lines",
    }.items():
        parser.add_argument(option, type=published_address, metavar="URL", help=help_)
    help_ = f"keep the wheels of an earlier index: its {WHEELS_JSON} (404: there is none yet)"
    parser.add_argument("--previous", metavar="URL|FILE", help=help_)
    now = datetime.now(timezone.utc).isoformat()
    help_ = "when the wheels that no earlier index has were published: 2026-11-28T20:15:00Z (default: now)"
    parser.add_argument("--uploaded", type=_time, default=now, metavar="TIME", help=help_)
    name = os.environ.get("GITHUB_REPOSITORY") or None
    help_ = "for the page's links (default: GITHUB_REPOSITORY)"
    parser.add_argument("--repository", type=repository, default=name, metavar="OWNER/NAME", help=help_)
    help_ = "list wheels that lack some of their target's architectures"
    parser.add_argument("--allow-incomplete", action="store_true", help=help_)
    return parser


def _time(text: str) -> str:
    time = datetime.fromisoformat(re.sub("Z$", "+00:00", text))
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no time zone, such as the Z at its end")
    return f"{time.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _previous(place: str) -> list[IndexEntry]:
    """Return the entries of an earlier index; none where its address answers 404.

    Raises:
        DownloadError: The address does not answer.
        UsageError: It is no `wheels.json`; or its wheels are served from the site that is to be replaced.
    """
    remote = place.startswith(("http://", "https://"))
    try:
        entries = _parse(http.get(place) if remote else Path(place).read_bytes())
    except http.StatusError as error:
        if error.status != 404:
            raise
        say(f"{place} does not exist yet: this is the site's first index.")
        return []
    except _NO_INDEX as error:
        raise UsageError(
            f"{place}: it is not an index's {WHEELS_JSON}: {error}.",
            "Omit --previous, or give the right file.",
        ) from None
    for entry in entries:
        if entry.beside_the_index:
            raise UsageError(
                f"{place}: {entry.filename} has no address of its own: that site serves the file itself.",
                "Give the wheel's file too, and omit --previous.",
            )
    say(f"The earlier index has {len(entries)} wheels.")
    return entries


def _parse(document: bytes) -> list[IndexEntry]:
    values = json.loads(document)
    if values["schema"] != _SCHEMA:
        raise ValueError(f"its schema is not {_SCHEMA}")
    return [IndexEntry.from_json(entry) for entry in values["wheels"]]


def _write(out: Path, page: str, entries: Sequence[IndexEntry], paths: Mapping[str, Path]) -> None:
    """Write the site, whole or not at all; an earlier site there is replaced, any other folder left alone."""
    try:
        if out.exists() and not (out / WHEELS_JSON).is_file() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(
                f"{out} exists and is not an index: it has no {WHEELS_JSON}.",
                "Empty it, or give another folder with --out.",
            )
        with beside(out.absolute()) as site:
            site.mkdir()
            (site / "index.html").write_text(page, encoding="utf-8")
            _write_index(site, entries)
            values = {"schema": _SCHEMA, "wheels": [entry.as_json() for entry in entries]}
            (site / WHEELS_JSON).write_text(_json(values), encoding="utf-8")
            for entry in entries:
                if entry.beside_the_index:
                    wheel = site / entry.folder / entry.filename
                    wheel.parent.mkdir(exist_ok=True)  # `basic`, which no page made
                    shutil.copyfile(paths[entry.filename], wheel)
                    wheel.with_name(wheel.name + METADATA_SUFFIX).write_bytes(read_metadata(wheel))
    except OSError as error:
        raise UsageError(f"{out} can't be written: {error}.", "Give another folder with --out.") from error


def _write_index(site: Path, entries: Sequence[IndexEntry]) -> None:
    for cuda in {entry.cuda for entry in entries if entry.portable}:
        projects: dict[str, list[IndexEntry]] = {}
        for entry in entries:
            if entry.portable and entry.cuda == cuda:
                projects.setdefault(entry.project, []).append(entry)
        _write_page(site / cuda, {"meta": _META, "projects": [{"name": name} for name in sorted(projects)]})
        for project, files in projects.items():
            versions = sorted({entry.label.version for entry in files}, key=Version)
            page = {"meta": _META, "name": project, "versions": versions, "files": [*map(_file, files)]}
            _write_page(site / cuda / project, page)


def _file(entry: IndexEntry) -> dict[str, Any]:
    """Return a wheel as the page of its project lists it (PEP 691), with its METADATA's digest (PEP 714)."""
    metadata = {"sha256": entry.metadata_sha256}
    values = {
        "filename": entry.filename,
        # A wheel in the site lies beside this page.
        "url": entry.url.rpartition("/")[2] if entry.beside_the_index else entry.url,
        "hashes": {"sha256": entry.sha256},
        "size": entry.size_bytes,
        "core-metadata": metadata,
        "dist-info-metadata": metadata,
    }
    optional = {"requires-python": entry.requires_python, "upload-time": entry.uploaded}
    return {**values, **{key: value for key, value in optional.items() if value}}


def _write_page(folder: Path, page: dict[str, Any]) -> None:
    """Write a page of an index into its folder, as HTML and as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(render("simple.html", page=page), encoding="utf-8")
    (folder / "index.v1_json").write_text(_json(page), encoding="utf-8")


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

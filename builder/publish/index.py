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
import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from packaging.version import Version

from builder.publish.entries import (
    METADATA_SUFFIX,
    ForeignWheelError,
    IndexEntry,
    find_wheels,
    newest_first,
    read_entry,
    read_metadata,
)
from builder.util import http
from builder.util.arguments import Parser, published_address, repository
from builder.util.errors import UsageError
from builder.util.files import ROOT, beside
from builder.util.log import counted, say, warn

WHEELS_JSON = "wheels.json"
_SCHEMA = 1
_META = {"api-version": "1.1"}  # PEP 700, which adds `versions`, `size` and `upload-time`
TEMPLATES = Environment(
    loader=PackageLoader("builder.publish"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
# GPUs that people know by name, for the table's legend (NVIDIA's list of CUDA GPUs).
_GPUS = {
    "8.0": "A100, A30",
    "8.6": "RTX 30 series, A10, A40",
    "8.9": "RTX 40 series, L4, L40S",
    "9.0a": "H100, H200, GH200",
    "12.0": "RTX 50 series, RTX PRO Blackwell, GB10",
}
# The newest Python 3 that the picker offers for a wheel that is for newer ones too.
_NEWEST_PYTHON_MINOR = 14


def main(argv: Sequence[str]) -> int:
    """Write the index of a wheelhouse, and return 0; where BuilderError is raised, nothing was written."""
    options = _parser().parse_args(argv)
    paths = find_wheels(options.wheels, options.wheelhouse)
    entries: list[IndexEntry] = []
    for path in paths:
        try:
            entries.append(read_entry(path))
        except ForeignWheelError as error:
            if options.wheels:
                raise
            warn(f"Left out: {error.message}")
    incomplete = [entry.filename for entry in entries if not entry.complete]
    if incomplete and not options.allow_incomplete:
        remedy = "Build with --arch all, name other wheels, or pass --allow-incomplete: pip prefers these."
        raise UsageError(f"These lack architectures of their target: {', '.join(incomplete)}.", remedy)
    earlier = {entry.filename: entry for entry in _previous(options.previous)} if options.previous else {}
    replaced = options.out / WHEELS_JSON
    known = [*(_parse(replaced.read_bytes(), str(replaced)) if replaced.is_file() else []), *earlier.values()]
    times = {(entry.filename, entry.sha256): entry.uploaded for entry in known}
    for entry in entries:
        old = earlier.get(entry.filename, entry)
        if old.sha256 != entry.sha256:
            warn(f"{entry.filename}: it replaces the one at {old.url}, which has a different SHA-256.")
        earlier[entry.filename] = dataclasses.replace(
            entry,
            # The `+` of a local version is percent-encoded: in an address it may be taken for a space.
            url=(options.base_url or f"{entry.folder}/") + quote(entry.filename),
            uploaded=times.get((entry.filename, entry.sha256), options.uploaded),
        )
    entries = newest_first(earlier.values())
    offered = [entry for entry in entries if entry.portable]
    if not offered:
        remedy = "Build a target on a system whose glibc is no newer than the target's platform tag."
        raise UsageError("There is no PEP 600 wheel (manylinux) of this project to list.", remedy)
    texts = _indexes(offered)
    texts["index.html"] = _page(entries, offered, options.site_url, options.repository)
    texts[WHEELS_JSON] = _json({"schema": _SCHEMA, "wheels": [entry.as_json() for entry in entries]})
    folders = {entry.filename: entry.folder for entry in entries if entry.beside_the_index}
    try:
        _write(options.out, texts, {path: folders[path.name] for path in paths if path.name in folders})
    except OSError as error:
        raise UsageError(f"{options.out} can't be written: {error}.", "Choose another --out.") from error
    say(f"Wrote {counted(len(offered), 'wheel')}. See it: python -m http.server --directory {options.out}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="nox -s index --", description="Write the package index and its page.")
    add = parser.add_argument
    add("wheels", nargs="*", metavar="WHEEL", help="wheels to list (default: the wheelhouse's)")
    add("--wheelhouse", type=Path, default=ROOT / "wheelhouse", metavar="DIR")
    add("--out", type=Path, default=ROOT / "site", metavar="DIR", help="default: site/")
    help_ = "link to wheels under this address (a release's assets: "
    help_ += "https://github.com/OWNER/REPO/releases/download/TAG/) in place of copies beside the index"
    add("--base-url", type=published_address, metavar="URL", help=help_)
    help_ = "where the site will be, for the install lines"
    add("--site-url", type=published_address, metavar="URL", help=help_)
    help_ = f"keep the wheels of an earlier index: its {WHEELS_JSON} (404: there is none yet)"
    add("--previous", metavar="URL|FILE", help=help_)
    now = datetime.now(timezone.utc).isoformat()
    help_ = "when the wheels that no earlier index has were published: 2026-11-28T20:15:00Z (default: now)"
    add("--uploaded", type=_time, default=now, metavar="TIME", help=help_)
    help_ = "for the page's links (default: GITHUB_REPOSITORY)"
    name = os.environ.get("GITHUB_REPOSITORY") or None
    add("--repository", type=repository, default=name, metavar="OWNER/NAME", help=help_)
    help_ = "list wheels that lack some of their target's architectures"
    add("--allow-incomplete", action="store_true", help=help_)
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
    try:
        remote = place.startswith(("http://", "https://"))
        entries = _parse(http.get(place) if remote else Path(place).read_bytes(), place)
    except http.StatusError as error:
        if error.status != 404:
            raise
        say(f"{place} does not exist yet: this is the site's first index.")
        return []
    except OSError as error:
        raise UsageError(f"--previous {place}: {error.strerror}.") from None
    for entry in entries:
        if entry.beside_the_index:
            message = (
                f"{place}: {entry.filename} has no address of its own: that site serves the file itself."
            )
            raise UsageError(message, "Give the wheel's file too, and omit --previous.")
    say(f"The earlier index has {counted(len(entries), 'wheel')}.")
    return entries


def _parse(document: bytes, place: str) -> list[IndexEntry]:
    try:
        values = json.loads(document)
        if values["schema"] != _SCHEMA:
            raise ValueError(f"its schema is not {_SCHEMA}")
        return [IndexEntry.from_json(entry) for entry in values["wheels"]]
    except (ValueError, LookupError, TypeError) as error:
        message = f"{place}: it is not an index's {WHEELS_JSON}: {error!r}."
        raise UsageError(message, "Remove it, or give the right file.") from None


def _write(out: Path, texts: Mapping[str, str], wheels: Mapping[Path, str]) -> None:
    """Write the site, whole or not at all; an earlier site there is replaced, any other folder left alone.

    The texts are by their paths in the site; the wheels are copied, each into its folder.
    """
    if out.exists() and not (out / WHEELS_JSON).is_file() and (not out.is_dir() or any(out.iterdir())):
        message = f"{out} exists and is not an index: it has no {WHEELS_JSON}."
        raise UsageError(message, "Empty it, or give another folder with --out.")
    with beside(out.absolute()) as site:
        for name, text in texts.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text, encoding="utf-8")
        for wheel, folder in wheels.items():
            (site / folder).mkdir(exist_ok=True)  # `basic`, which no page made
            shutil.copyfile(wheel, site / folder / wheel.name)
            (site / folder / (wheel.name + METADATA_SUFFIX)).write_bytes(read_metadata(wheel))


def _indexes(offered: Sequence[IndexEntry]) -> dict[str, str]:
    """Return the pages of the indexes, in HTML (PEP 503) and JSON (PEP 691), by their paths in the site."""
    projects: dict[str, list[IndexEntry]] = {}  # by their folders: cu130/sageattention
    for entry in offered:
        projects.setdefault(entry.folder, []).append(entry)
    pages: dict[str, dict[str, Any]] = {}
    for folder, entries in projects.items():
        cuda, _, project = folder.partition("/")
        pages[cuda] = {"meta": _META, "projects": [{"name": project}]}
        versions = sorted({entry.label.version for entry in entries}, key=Version)
        files = [*map(_file, entries)]
        pages[folder] = {"meta": _META, "name": project, "versions": versions, "files": files}
    simple = TEMPLATES.get_template("simple.html")
    texts = {f"{folder}/index.html": simple.render(page=page) for folder, page in pages.items()}
    return texts | {f"{folder}/index.v1_json": _json(page) for folder, page in pages.items()}


def _file(entry: IndexEntry) -> dict[str, Any]:
    """Return a wheel as the page of its project lists it (PEP 691), with its METADATA's digest (PEP 714)."""
    metadata = {"sha256": entry.metadata_sha256}
    return {
        "filename": entry.filename,
        # A wheel in the site lies beside this page.
        "url": entry.url.rpartition("/")[2] if entry.beside_the_index else entry.url,
        "hashes": {"sha256": entry.sha256},
        "size": entry.size_bytes,
        "requires-python": entry.requires_python,
        "upload-time": entry.uploaded,
        "core-metadata": metadata,
        "dist-info-metadata": metadata,
    }


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _page(
    entries: Sequence[IndexEntry], offered: Sequence[IndexEntry], site_url: str, repository: str
) -> str:
    """Return the page for people: a picker, the table of wheels, and how to check one.

    It is one file that needs nothing else. Without script it shows the table and the install lines, but not
    the picker. A content security policy with the hashes of its own style and script keeps all else out.
    Wheels are shown in the given order.
    """
    folder = Path(__file__).with_name("templates")
    css, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "picker.js"))
    architectures = {name for entry in offered for name in entry.architectures}
    return TEMPLATES.get_template("page.html").render(
        css=Markup(css),  # noqa: S704 - a file of this project
        css_hash=_csp_hash(css),
        script=Markup(script),  # noqa: S704
        script_hash=_csp_hash(script),
        machines=" and ".join(sorted({entry.label.machine for entry in offered}, reverse=True)),
        newest=max((entry.release for entry in offered), key=Version),
        data=_picker_data(offered),
        offered=offered,
        basic=[entry for entry in entries if not entry.portable],
        gpus={name: gpus for name, gpus in _GPUS.items() if name in architectures},
        smoke_detail=_smoke_detail,
        site=site_url or "ADDRESS-OF-THIS-PAGE/",
        repository=repository,
    )


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _smoke_detail(test: Mapping[str, str]) -> str:
    """Return where a smoke test ran, and its counts where its report ends with them in brackets."""
    counts = re.search(r"\((.+)\)$", test["detail"])
    return ": ".join(part for part in (test["on"], counts[1] if counts else test["detail"]) if part)


def _picker_data(offered: Sequence[IndexEntry]) -> dict[str, Any]:
    """Return what the picker needs: for each wheel, which machine, Python, torch and CUDA it fits."""
    pythons = {entry.oldest_python for entry in offered}
    if any(entry.label.universal for entry in offered):
        pythons |= set(range(min(pythons), _NEWEST_PYTHON_MINOR + 1))
    return {
        "wheels": [
            {
                "cuda": entry.cuda,
                "machine": entry.label.machine,
                "requirement": f"{entry.project}=={entry.label.version}",
                "python": entry.oldest_python,
                "newerPython": entry.label.universal,
                "torch": entry.oldest_torch,
                "newerTorch": entry.label.universal,
                "architectures": " ".join(entry.architectures),
            }
            for entry in offered
        ],
        "machine": sorted({entry.label.machine for entry in offered}, reverse=True),
        "cuda": {entry.cuda: entry.label.cuda for entry in offered},
        "python": sorted(pythons, reverse=True),
        "torchIndex": "https://download.pytorch.org/whl/",
    }

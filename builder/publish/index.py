"""The package index: static files that pip and uv install from, and a page for people.

One folder a CUDA version, as PyTorch has it, since no tag and no requirement of a wheel can say which CUDA
its torch must be built for:

    index.html, wheels.json             the page, and the same facts for programs
    cu130/                              an index: the address for pip's --extra-index-url and uv's --index
    cu130/sageattention/                the project's page: its wheels, with hashes (PEP 503)
    cu130/sageattention/….whl.metadata  METADATA on its own (PEP 658), where the wheels are served from here
    basic/                              the basic wheels, which no index offers

Every index page is written twice: `index.html` (PEP 503), and `index.v1_json` (PEP 691). Which of them a
client gets is settled by content negotiation, by the `Accept` header against the `Content-Type` of the
answer. A plain file server or GitHub Pages does not negotiate and serves `index.html`, which pip and uv take
as well and which carries the same facts; a server that can (nginx's `map`, Apache's `MultiViews`) may serve
the JSON as `application/vnd.pypi.simple.v1+json`.

Of the two wheels of a build the index offers the PEP 600 one alone. The basic wheel's tag, `linux_x86_64`,
fits every Linux system, however old its glibc: pip would take it where the PEP 600 wheel is refused, and the
import would fail. It is listed on the page, to be installed by its address.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from packaging.version import Version

from builder.publish import catalogue
from builder.publish.catalogue import SmokeTest, Wheel
from builder.publish.page import Page, page_html
from builder.util.arguments import Parser
from builder.util.errors import DownloadError, UsageError
from builder.util.log import say, warn
from builder.util.paths import ROOT

FACTS = "wheels.json"
BASIC = "basic"
METADATA_SUFFIX = ".metadata"
SCHEMA = 1

HTML_NAME = "index.html"
JSON_NAME = "index.v1_json"
# PEP 700 adds `versions` and `size`; its `upload-time`, which no two runs share, may be left out.
API_VERSION = "1.1"

_TIMEOUT_SECONDS = 60


def main(argv: Sequence[str]) -> int:
    """Write the index from a wheelhouse.

    Args:
        argv: The command's arguments.

    Returns:
        0.

    Raises:
        BuilderError: Nothing was written.
    """
    options = _parser().parse_args(argv)
    wheels = [
        catalogue.read_wheel(path) for path in catalogue.find_wheels(options.wheels, options.wheelhouse)
    ]
    _refuse_incomplete(wheels, allowed=options.allow_incomplete)
    located = place(wheels, options.base_url)
    if options.previous:
        located = merge(located, read_facts(options.previous))
    offered = [wheel for wheel in located if wheel.portable]
    if not offered:
        raise UsageError(
            "There is no PEP 600 wheel (manylinux) to offer: only basic wheels were given.",
            "Build a target on a system whose glibc is no newer than the target's floor.",
        )
    for wheel in unpaired_basic(located):
        warn(f"{wheel.filename}: no PEP 600 wheel of this build is there, so only the page lists it.")
    page = Page(site_url=options.site_url or "", repository=options.repository or "")
    write_site(located, page, options.out)
    cuda_tags = sorted({wheel.cuda for wheel in offered})
    say(f"Wrote {options.out}: {len(offered)} wheels in {', '.join(cuda_tags)}.")
    say(f"Look at it with: python -m http.server --directory {options.out}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="nox -s index --", description="Write the package index and its page.")
    parser.add_argument(
        "wheels", nargs="*", metavar="WHEEL", help="wheels to list (default: the wheelhouse's)"
    )
    parser.add_argument("--wheelhouse", type=Path, default=ROOT / "wheelhouse", metavar="DIR")
    parser.add_argument("--out", type=Path, default=ROOT / "site", metavar="DIR", help="default: site/")
    parser.add_argument(
        "--base-url",
        type=_address,
        metavar="URL",
        help="link to wheels under this address (a release's assets: "
        "https://github.com/OWNER/REPO/releases/download/TAG/) in place of copies beside the index; "
        f"each wheel's {METADATA_SUFFIX} must lie there too, as `nox -s release` puts it",
    )
    parser.add_argument(
        "--previous",
        metavar="URL|FILE",
        help=f"keep the wheels of an earlier index: its {FACTS}; 404 means that this is the first",
    )
    parser.add_argument(
        "--site-url",
        type=_address,
        metavar="URL",
        help="where the site will be, for install lines without script",
    )
    parser.add_argument(
        "--repository",
        default=os.environ.get("GITHUB_REPOSITORY"),
        metavar="OWNER/NAME",
        help="the page links it (default: GITHUB_REPOSITORY)",
    )
    parser.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="list wheels that lack some of their target's architectures",
    )
    return parser


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http address without query")
    return text.rstrip("/") + "/"


def _refuse_incomplete(wheels: Iterable[Wheel], *, allowed: bool) -> None:
    incomplete = [wheel.filename for wheel in wheels if not wheel.complete]
    if incomplete and not allowed:
        raise UsageError(
            f"Not all of their target's architectures are in: {', '.join(incomplete)}.",
            "pip would prefer them to the complete ones. Build with --arch all, name the wheels to list, "
            "or say --allow-incomplete.",
        )


# --- where each wheel lies ------------------------------------------------------------------------


def place(wheels: Iterable[Wheel], base_url: str | None) -> list[Wheel]:
    """Give each wheel its address: under `base_url`, or relative to the site.

    The `+` of a local version is percent-encoded: in an address it may be taken for a space.
    """
    return [
        dataclasses.replace(wheel, url=(base_url or f"{_folder(wheel)}/") + quote(wheel.filename))
        for wheel in wheels
    ]


def _folder(wheel: Wheel) -> str:
    """The site's folder for a wheel and its METADATA."""
    return f"{wheel.cuda}/{wheel.project}" if wheel.portable else BASIC


def _is_local(wheel: Wheel) -> bool:
    return not wheel.url.startswith(("http://", "https://"))


def unpaired_basic(wheels: Sequence[Wheel]) -> list[Wheel]:
    """Basic wheels whose build has no PEP 600 wheel among the wheels."""
    builds = {(wheel.version, wheel.python) for wheel in wheels if wheel.portable}
    return [wheel for wheel in wheels if not wheel.portable and (wheel.version, wheel.python) not in builds]


# --- wheels.json: the facts, for programs and for the next index ----------------------------------


def facts_json(wheels: Sequence[Wheel]) -> str:
    """The content of `wheels.json`."""
    return _json({"schema": SCHEMA, "wheels": [_facts(wheel) for wheel in catalogue.newest_first(wheels)]})


def _facts(wheel: Wheel) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(wheel) if field.name not in ("path", "record")]
    values = {name: getattr(wheel, name) for name in names}
    return {**values, "smoke_test": dataclasses.asdict(wheel.smoke_test)}


def read_facts(place_: str) -> list[Wheel]:
    """The wheels of an earlier index.

    Args:
        place_: Address or path of its `wheels.json`.

    Raises:
        DownloadError: The address does not answer; a 404 is no error, but the first index of a site.
        UsageError: It is no `wheels.json`, or its wheels are served from the site that is to be replaced.
    """
    if place_.startswith(("http://", "https://")):
        text = _fetch(place_)
        if text is None:
            say(f"{place_} is not there yet: this is the site's first index.")
            return []
    else:
        try:
            text = Path(place_).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{place_}: can't be read: {error}.", f"Give an earlier index's {FACTS}."
            ) from error
    try:
        wheels = [_from_facts(values) for values in json.loads(text)["wheels"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{place_}: is not an index's {FACTS}: {error!r}.",
            "Leave --previous out, or give the right file.",
        ) from error
    for wheel in wheels:
        if _is_local(wheel):
            raise UsageError(
                f"{place_}: {wheel.filename} has no address of its own: that site serves it itself.",
                "Give that wheel's file too, and leave --previous out.",
            )
    return wheels


def _fetch(url: str) -> str | None:
    try:
        response = requests.get(url, timeout=_TIMEOUT_SECONDS)
        if response.status_code == requests.codes.not_found:
            return None
        response.raise_for_status()
    except requests.RequestException as error:
        raise DownloadError(
            f"{url} does not answer: {error}.",
            "Without it the index would lose the earlier wheels: try again.",
        ) from error
    return response.content.decode("utf-8", "replace")


def _from_facts(values: Mapping[str, Any]) -> Wheel:
    known = {field.name: values[field.name] for field in dataclasses.fields(Wheel) if field.name in values}
    architectures = tuple(map(str, values["architectures"]))
    return Wheel(
        **{
            **known,
            "architectures": architectures,
            "smoke_test": SmokeTest(**values["smoke_test"]),
            "path": None,
        }
    )


def merge(wheels: Sequence[Wheel], previous: Iterable[Wheel]) -> list[Wheel]:
    """The given wheels and those earlier ones that they do not replace; a file name is in an index once."""
    given = {wheel.filename: wheel for wheel in wheels}
    kept = []
    for wheel in previous:
        newer = given.get(wheel.filename)
        if newer is None:
            kept.append(wheel)
        elif newer.sha256 != wheel.sha256:
            warn(f"{wheel.filename}: replaces the one at {wheel.url}, which has other bytes.")
    return [*wheels, *kept]


# --- the simple index -----------------------------------------------------------------------------


def project_html(project: str, wheels: Sequence[Wheel]) -> str:
    """A project's page (PEP 503), with PEP 658 and PEP 714's metadata hashes."""
    lines = [_anchor(wheel) for wheel in catalogue.newest_first(wheels)]
    return _simple_html(f"Links for {project}", lines)


def _anchor(wheel: Wheel) -> str:
    metadata = f"sha256={wheel.metadata_sha256}"
    attributes = {
        "href": f"{_from_project_page(wheel)}#sha256={wheel.sha256}",
        "data-requires-python": wheel.requires_python,
        "data-core-metadata": metadata,
        "data-dist-info-metadata": metadata,
    }
    written = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items() if value)
    return f"<a {written}>{html.escape(wheel.filename)}</a><br>"


def project_json(project: str, wheels: Sequence[Wheel]) -> str:
    """A project's page (PEP 691, with PEP 700's sizes and versions)."""
    files = []
    for wheel in catalogue.newest_first(wheels):
        metadata = {"sha256": wheel.metadata_sha256}
        file: dict[str, Any] = {
            "filename": wheel.filename,
            "url": _from_project_page(wheel),
            "hashes": {"sha256": wheel.sha256},
            "size": wheel.size_bytes,
            "core-metadata": metadata,
            "dist-info-metadata": metadata,
        }
        if wheel.requires_python:
            file["requires-python"] = wheel.requires_python
        files.append(file)
    versions = sorted({wheel.version for wheel in wheels}, key=Version)
    return _json(
        {"meta": {"api-version": API_VERSION}, "name": project, "versions": versions, "files": files}
    )


def _from_project_page(wheel: Wheel) -> str:
    """A wheel's address as its project's page links it: local ones lie beside the page."""
    return wheel.url.rpartition("/")[2] if _is_local(wheel) else wheel.url


def root_html(projects: Iterable[str]) -> str:
    """An index's first page: its projects (PEP 503)."""
    return _simple_html("Simple index", [f'<a href="{name}/">{name}</a><br>' for name in sorted(projects)])


def root_json(projects: Iterable[str]) -> str:
    """An index's first page: its projects (PEP 691)."""
    return _json(
        {"meta": {"api-version": API_VERSION}, "projects": [{"name": name} for name in sorted(projects)]}
    )


def _simple_html(title: str, lines: Iterable[str]) -> str:
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta name="pypi:repository-version" content="{API_VERSION}">',
            f"<title>{html.escape(title)}</title>",
            "</head>",
            "<body>",
            f"<h1>{html.escape(title)}</h1>",
            *lines,
            "</body>",
            "</html>",
            "",
        ]
    )


def _json(values: object) -> str:
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


# --- the site's folder ----------------------------------------------------------------------------


def write_site(wheels: Sequence[Wheel], page: Page, out: Path) -> None:
    """Write the site, whole or not at all: into a new folder beside `out`, which then takes its place.

    Args:
        wheels: With their addresses; local ones are copied into the site.
        page: What the page says beside them.
        out: The site's folder. An earlier site there is replaced; any other folder is left alone.

    Raises:
        UsageError: `out` holds something else, or can't be written.
    """
    if out.exists() and not (out / FACTS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} is there and is no index (it has no {FACTS}).",
            "Empty it, or give another folder with --out.",
        )
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            fresh, old = Path(scratch) / "new", Path(scratch) / "old"
            _fill(fresh, wheels, page)
            if out.exists():
                out.rename(old)
            try:
                fresh.rename(out)
            except OSError:
                if old.exists():
                    old.rename(out)
                raise
    except OSError as error:
        raise UsageError(f"{out} can't be written: {error}.", "Give another folder with --out.") from error


def _fill(site: Path, wheels: Sequence[Wheel], page: Page) -> None:
    site.mkdir()
    for wheel in wheels:
        if _is_local(wheel) and wheel.path is not None:
            folder = site / _folder(wheel)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(wheel.path, folder / wheel.filename)
            (folder / (wheel.filename + METADATA_SUFFIX)).write_bytes(catalogue.read_metadata(wheel.path))
    offered = [wheel for wheel in wheels if wheel.portable]
    for cuda in {wheel.cuda for wheel in offered}:
        projects = {wheel.project for wheel in offered if wheel.cuda == cuda}
        _write_pages(site / cuda, root_html(projects), root_json(projects))
        for project in projects:
            listed = [wheel for wheel in offered if wheel.cuda == cuda and wheel.project == project]
            _write_pages(site / cuda / project, project_html(project, listed), project_json(project, listed))
    (site / FACTS).write_text(facts_json(wheels), encoding="utf-8")
    (site / HTML_NAME).write_text(page_html(wheels, page), encoding="utf-8")


def _write_pages(folder: Path, as_html: str, as_json: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HTML_NAME).write_text(as_html, encoding="utf-8")
    (folder / JSON_NAME).write_text(as_json, encoding="utf-8")

"""The package index: static files that pip and uv install from, and a page for people.

Each CUDA version has a folder, as PyTorch's index does, because no tag and no requirement of a wheel says
which CUDA version its torch must be built for:

    index.html, wheels.json             the page, and the same facts for programs
    cu130/                              an index: the address for pip's --extra-index-url and uv's --index
    cu130/sageattention/                the project's page: its wheels, with hashes (PEP 503)
    cu130/sageattention/….whl.metadata  METADATA on its own (PEP 658), for wheels that are served from here
    basic/                              the basic wheels, which are not in an index

Each page of an index is written as `index.html` (PEP 503) and as `index.v1_json` (PEP 691), with the same
facts. A plain file server or GitHub Pages serves `index.html`, which pip and uv accept. A server that
negotiates (nginx's `map`, Apache's `MultiViews`) may serve the JSON as `application/vnd.pypi.simple.v1+json`.

The index lists only the PEP 600 wheel of a build. The basic wheel's tag, such as `linux_x86_64`, fits every
glibc: pip would take it where the PEP 600 wheel is refused, and the import would fail. The page lists it, to
be installed by its address.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from builder.publish import catalogue
from builder.publish.catalogue import METADATA_SUFFIX
from builder.publish.facts import FACTS, facts_json, merge, read_facts
from builder.publish.listed_wheel import ListedWheel
from builder.publish.page import Page, page_html
from builder.publish.simple import HTML_NAME, project_page, root_page, write_page
from builder.util.arguments import Parser, published_address, repository
from builder.util.errors import UsageError
from builder.util.files import beside
from builder.util.log import say, warn
from builder.util.paths import ROOT


def main(argv: Sequence[str]) -> int:
    """Write the index of a wheelhouse, and return 0.

    Args:
        argv: The command's arguments.

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
        located = merge(located, read_facts(options.previous, {wheel.project for wheel in wheels}))
    offered = [wheel for wheel in located if wheel.portable]
    if not offered:
        raise UsageError(
            "There is no PEP 600 wheel (manylinux): only basic wheels were given.",
            "Build a target on a system whose glibc is no newer than the target's platform tag.",
        )
    for wheel in unpaired_basic(located):
        warn(f"{wheel.filename}: there is no PEP 600 wheel of this build, so only the page lists it.")
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
        type=published_address,
        metavar="URL",
        help="link to wheels under this address (a release's assets: "
        "https://github.com/OWNER/REPO/releases/download/TAG/) in place of copies beside the index; "
        f"each wheel's {METADATA_SUFFIX} must be there too; `nox -s release` uploads it",
    )
    parser.add_argument(
        "--previous",
        metavar="URL|FILE",
        help=f"keep the wheels of an earlier index: its {FACTS} (404: there is none yet)",
    )
    parser.add_argument(
        "--site-url",
        type=published_address,
        metavar="URL",
        help="where the site will be, for the install lines",
    )
    parser.add_argument(
        "--repository",
        type=repository,
        default=os.environ.get("GITHUB_REPOSITORY") or None,
        metavar="OWNER/NAME",
        help="for the page's links (default: GITHUB_REPOSITORY)",
    )
    parser.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="list wheels that lack some of their target's architectures",
    )
    return parser


def _refuse_incomplete(wheels: Iterable[ListedWheel], *, allowed: bool) -> None:
    incomplete = [wheel.filename for wheel in wheels if not wheel.complete]
    if incomplete and not allowed:
        raise UsageError(
            f"These lack architectures of their target: {', '.join(incomplete)}.",
            "pip would prefer them to the complete ones. Build with --arch all, name the wheels to list, "
            "or pass --allow-incomplete.",
        )


def place(wheels: Iterable[ListedWheel], base_url: str | None) -> list[ListedWheel]:
    """Return the wheels with their addresses: under `base_url`, or relative to the site.

    The `+` of a local version is percent-encoded: in an address it may be taken for a space.
    """
    return [
        dataclasses.replace(wheel, url=(base_url or f"{wheel.folder}/") + quote(wheel.filename))
        for wheel in wheels
    ]


def unpaired_basic(wheels: Sequence[ListedWheel]) -> list[ListedWheel]:
    """Return the basic wheels whose build has no PEP 600 wheel among the wheels."""

    def build(wheel: ListedWheel) -> tuple[str, str, str]:
        return wheel.version, wheel.python, wheel.machine

    builds = {build(wheel) for wheel in wheels if wheel.portable}
    return [wheel for wheel in wheels if not wheel.portable and build(wheel) not in builds]


def write_site(wheels: Sequence[ListedWheel], page: Page, out: Path) -> None:
    """Write the site, whole or not at all.

    Args:
        wheels: With their addresses. Those that the site serves itself are copied into it.
        page: What else the page says.
        out: The site's folder. An earlier site there is replaced; any other folder is left alone.

    Raises:
        UsageError: `out` holds something else, or can't be written.
    """
    try:
        if out.exists() and not (out / FACTS).is_file() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(
                f"{out} exists and is not an index: it has no {FACTS}.",
                "Empty it, or give another folder with --out.",
            )
        with beside(out.absolute()) as site:
            _fill(site, wheels, page)
    except OSError as error:
        raise UsageError(f"{out} can't be written: {error}.", "Give another folder with --out.") from error


def _fill(site: Path, wheels: Sequence[ListedWheel], page: Page) -> None:
    site.mkdir()
    for wheel in wheels:
        if wheel.beside_the_index and wheel.path is not None:
            folder = site / wheel.folder
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(wheel.path, folder / wheel.filename)
            (folder / (wheel.filename + METADATA_SUFFIX)).write_bytes(catalogue.read_metadata(wheel.path))
    offered = [wheel for wheel in wheels if wheel.portable]
    for cuda in {wheel.cuda for wheel in offered}:
        projects = {wheel.project for wheel in offered if wheel.cuda == cuda}
        write_page(site / cuda, root_page(projects))
        for project in projects:
            listed = [wheel for wheel in offered if wheel.cuda == cuda and wheel.project == project]
            write_page(site / cuda / project, project_page(project, listed))
    (site / FACTS).write_text(facts_json(wheels), encoding="utf-8")
    (site / HTML_NAME).write_text(page_html(wheels, page), encoding="utf-8")

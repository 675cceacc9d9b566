"""What people read: the index's page, and the notes of a release.

The page is one file that needs nothing else. Without script it shows the table and the install lines, but not
the picker. A content security policy with the hashes of its own style and script keeps all else out.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from packaging.version import Version

from builder.publish.entries import IndexEntry, newest_first
from builder.wheel.sbom import Sbom

_TEMPLATES = Path(__file__).resolve().parent / "templates"
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


def render(template: str, **values: object) -> str:
    """Return a template of `templates/` with its values filled in, escaped for HTML or Markdown."""
    markdown = template.endswith(".md")
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=not markdown,  # noqa: S701 - `finalize` escapes Markdown
        finalize=_escape_markdown if markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def _escape_markdown(value: object) -> object:
    """Return a text as one line in which nothing is Markdown or HTML."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return re.sub(r"[\\`*\[\]<>|~&#]|(?<!\w)@", r"\\\g<0>", " ".join(value.split()))


def page_html(entries: Sequence[IndexEntry], *, site_url: str, repository: str) -> str:
    """Return the page for people: a picker, the table of wheels, and how to check one.

    Args:
        entries: With their addresses, in the order in which they are shown; at least one of them portable.
        site_url: The site's address, with a slash at its end, or empty.
        repository: `owner/name` of this project's repository, or empty.
    """
    offered = [entry for entry in entries if entry.portable]
    css, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "picker.js"))
    architectures = {name for entry in offered for name in entry.architectures}
    return render(
        "page.html",
        css=Markup(css),  # noqa: S704 - a file of this project
        css_hash=_csp_hash(css),
        script=Markup(script),  # noqa: S704
        script_hash=_csp_hash(script),
        machines=" and ".join(sorted({entry.machine for entry in offered}, reverse=True)),
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
    """Return what the picker needs: for each wheel, which machine, Python, torch and CUDA it fits.

    Wheels with a tag or requirement of another form than this project's are only in the table.
    """
    choices: list[dict[str, Any]] = [
        {
            "cuda": entry.cuda,
            "machine": entry.machine,
            "requirement": f"{entry.project}=={entry.label.version}",
            "python": entry.oldest_python[0],
            "newerPython": entry.oldest_python[1],
            "torch": entry.oldest_torch[0],
            "newerTorch": entry.oldest_torch[1],
            "architectures": " ".join(entry.architectures),
        }
        for entry in offered
        if entry.oldest_python and entry.oldest_torch
    ]
    pythons = {choice["python"] for choice in choices}
    if any(choice["newerPython"] for choice in choices):
        pythons |= set(range(min(pythons), _NEWEST_PYTHON_MINOR + 1))
    return {
        "wheels": choices,
        "machine": sorted({choice["machine"] for choice in choices}, reverse=True),
        "cuda": {entry.cuda: entry.label.cuda for entry in offered},
        "python": sorted(pythons, reverse=True),
        "torchIndex": "https://download.pytorch.org/whl/",
    }


def release_notes(
    entries: Sequence[IndexEntry], sboms: Sequence[Sbom], *, repository: str, tag: str, index_url: str
) -> str:
    """Return Markdown that says what a release holds, what it was made from, and how to check that.

    Without the package index's address, the notes say to install a wheel by its own.
    """
    ordered = newest_first(entries)
    portable = [entry for entry in ordered if entry.portable]
    basic = [entry for entry in ordered if not entry.portable]
    patches = {
        patch.name.rpartition("/")[2]: patch.properties.get("summary", "")
        for sbom in sboms
        for patch in sbom.of_kind("patch")
    }
    builds = set()
    for sbom in sboms:
        nvcc = next((tool.version for tool in sbom.of_kind("build-tool") if "nvcc" in tool.name), "")
        target = sbom.subject.properties.get("target", "")
        builds.add((target, sbom.tool_version("torch"), nvcc, sbom.tool_version("g++")))
    return render(
        "notes.md",
        versions=", ".join(dict.fromkeys(entry.release for entry in ordered)),
        machines=" and ".join(sorted({entry.machine for entry in ordered}, reverse=True)),
        entries=ordered,
        portable=portable,
        basic=basic,
        sources={sbom.source.url or sbom.source.sha256: sbom.source for sbom in sboms}.values(),
        patches=patches,
        builds=sorted(builds),
        repository=repository,
        address=f"https://github.com/{repository}/releases/download/{quote(tag)}/",
        index_url=index_url,
    )

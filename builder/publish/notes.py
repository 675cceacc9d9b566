"""Writes a release's notes from its wheels and their SBOMs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from builder.publish.entries import IndexEntry, human_size, newest_first, newest_of_each_cuda
from builder.wheel.sbom import Sbom

_BASIC = (
    "Basic wheels, with nothing bundled. Install one by its address: their tag does not say which glibc they "
    "need."
)
_CHECK = (
    "Each file's SHA-256 is in `SHA256SUMS`, and each wheel holds an SBOM and the patches. The JSON file "
    "beside a wheel is the record of its build."
)


def release_notes(
    entries: Sequence[IndexEntry], sboms: Iterable[Sbom], *, repository: str, tag: str, index_url: str = ""
) -> str:
    """Return Markdown that says what a release holds, what it was made from, and how to check that.

    Args:
        entries: The release's wheels.
        sboms: Their SBOMs.
        repository: `owner/name`.
        tag: The release's tag.
        index_url: The package index's address; if it is empty, wheels are installed by their address.
    """
    ordered = newest_first(entries)
    portable = [entry for entry in ordered if entry.portable]
    basic = [entry for entry in ordered if not entry.portable]
    machines = sorted({entry.machine for entry in ordered}, reverse=True)
    versions = ", ".join(dict.fromkeys(entry.release for entry in ordered))
    address = f"https://github.com/{repository}/releases/download/{quote(tag)}/"
    if index_url:
        install = _index_lines(portable or basic, index_url.rstrip("/"))
    else:
        install = _code(f'python -m pip install "{address}{quote((portable or basic)[0].filename)}"')
    check = _code(
        "sha256sum --check --ignore-missing SHA256SUMS",
        f"gh attestation verify FILE.whl --repo {repository}",
        f"nox -s reproduce-TARGET -- --against {address}FILE.whl",
    )
    parts = [f"Wheels of SageAttention {versions} for Linux {' and '.join(machines)}."]
    parts += ["## Install", install, "## Wheels", _wheel_table(portable)]
    if basic:
        parts += [_BASIC, _wheel_table(basic)]
    parts += ["## Smoke tests", _smoke_tests(ordered), "## What they were made from", *_provenance(sboms)]
    parts += ["## Check", _CHECK, check]
    return "\n\n".join(part for part in parts if part) + "\n"


def _index_lines(entries: Sequence[IndexEntry], site: str) -> str:
    lines = []
    for newest in newest_of_each_cuda(entries):
        requirement = f'"{newest.project}=={newest.release}"'
        lines += [
            f"# a torch that is built for CUDA {newest.label.cuda}",
            f"python -m pip install {requirement} --extra-index-url {site}/{newest.cuda}/",
            f"uv pip install {requirement} --index {site}/{newest.cuda}/",
        ]
    return f"{_code(*lines)}\n\nThe line for your own versions: {site}/"


def _wheel_table(entries: Sequence[IndexEntry]) -> str:
    if not entries:
        return ""
    rows = [
        [
            f"`{entry.filename}`",
            entry.human_python,
            entry.human_torch,
            entry.label.cuda,
            ", ".join(entry.architectures) or "not stated",
            human_size(entry.size_bytes),
        ]
        for entry in entries
    ]
    return _table(["File", "Python", "torch", "CUDA", "GPU architectures", "Size"], rows)


def _smoke_tests(entries: Sequence[IndexEntry]) -> str:
    """Return a table with a row for each wheel, also for those that were not tested."""
    rows = [
        [f"`{entry.filename}`", test["outcome"], _plain(test["on"]), _plain(test["detail"])]
        for entry in entries
        for test in [entry.smoke_test]
    ]
    return _table(["File", "Result", "On", "Report"], rows)


def _provenance(sboms: Iterable[Sbom]) -> list[str]:
    """Return what the wheels were made from: the sources, the patches, and the tools of each target."""
    sources, patches, builds = set(), set(), set()
    for sbom in sboms:
        source = sbom.source
        place = source.url or source.purl or source.properties.get("source", "")
        digest = f", SHA-256 `{source.sha256}`" if source.sha256 else ""
        verified = "" if sbom.verified else ", **not verified**"
        sources.add(f"- SageAttention {_plain(source.version)}: {_plain(place)}{digest}{verified}")
        for patch in sbom.of_kind("patch"):
            summary = _plain(patch.properties.get("summary", ""))
            patches.add(f"- `{patch.name.rpartition('/')[2]}`: {summary}")
        nvcc = [tool.version for tool in sbom.of_kind("build-tool") if "nvcc" in tool.name]
        tools = [sbom.tool_version("torch"), *nvcc[:1], sbom.tool_version("g++")]
        builds.add((sbom.subject.properties.get("target", ""), *tools))
    listed = "With these patches:\n\n" + "\n".join(sorted(patches)) if patches else "No patches."
    table = _table(["Target", "Built with torch", "nvcc", "g++"], sorted(builds))
    return ["\n".join(sorted(sources)), listed, table]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Return a text as one line in which nothing is Markdown or HTML."""
    return re.sub(r"[\\`*\[\]<>|~&#]|(?<!\w)@", r"\\\g<0>", " ".join(text.split()))


def _code(*lines: str) -> str:
    return "\n".join(["```sh", *lines, "```"])

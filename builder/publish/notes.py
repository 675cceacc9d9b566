"""Writes a release's notes from its wheels and their SBOMs."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from builder.publish.entries import IndexEntry, human_size, newest_first, newest_of_each_cuda
from builder.publish.page import render
from builder.wheel.sbom import Sbom


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
        newest_of_each_cuda=newest_of_each_cuda(portable or basic),
        human_size=human_size,
        sources={sbom.source.url or sbom.source.sha256: sbom.source for sbom in sboms}.values(),
        patches=patches,
        builds=sorted(builds),
        repository=repository,
        address=f"https://github.com/{repository}/releases/download/{quote(tag)}/",
        index_url=index_url,
    )

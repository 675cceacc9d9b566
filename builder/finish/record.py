"""Makes the JSON record beside each wheel: what went into it, what the build cost, and its digest.

The field names are an interface: the index, the release notes and the audit read them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from builder.compile.ccache import Stats
from builder.compile.pep517 import Compiled
from builder.finish.sbom import Bill
from builder.source.obtain import Source
from builder.source.patches import Applied
from builder.target.selection import Selection
from builder.target.targets import Target
from builder.toolchain.cuda_home import Toolchain
from builder.toolchain.materials import Material
from builder.util.digest import file_sha256
from builder.wheel.wheelfile import Wheel

SCHEMA = 1
IMPORTED = "import"  # among the checks of a wheel that its build could import
_SHOWN = 120  # characters of a value in a message


def make_record(
    *,
    target: Target,
    selection: Selection,
    source: Source,
    applied: Sequence[Applied],
    toolchain: Toolchain,
    torch_version: str,
    compiled: Compiled,
    jobs: int,
    cache: Stats,
    fingerprint: str,
    durations_seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Return the record of one build; `for_wheel` completes it for each of its wheels.

    Args:
        target: What was built.
        selection: Architectures that it was built for.
        source: What it was built from.
        applied: Patches, in order.
        toolchain: The compilers.
        torch_version: The torch that was built with: `2.11.0+cu130`.
        compiled: The finished build.
        jobs: Compiler processes that ran at once.
        cache: The compiler cache's hits and misses.
        fingerprint: Digest of all that goes into the build.
        durations_seconds: Wall time of each step.
    """
    return {
        "schema": SCHEMA,
        "fingerprint": fingerprint,
        "target": target.name,
        "python": target.python_tag,
        "abi": target.abi,
        "cuda": toolchain.cuda_version,
        "torch": {"built_with": torch_version, "requirement": target.torch_requirement},
        "architectures": [str(architecture) for architecture in selection.architectures],
        "complete": selection.complete,
        "source": {
            "kind": source.kind,
            "location": source.location,
            "version": source.version,
            "sha256": source.sha256,
            "verified": source.verified,
            "tag": source.tag,
            "commit": source.commit,
            "obtained_from": source.obtained_from,
        },
        "patches": [
            {"name": patch.name, "sha256": patch.sha256, "summary": patch.summary} for patch in applied
        ],
        "toolchain": {
            "origin": toolchain.origin,
            "nvcc": toolchain.nvcc_version,
            "host_compiler": toolchain.gxx.version,
            "components": [
                {
                    "name": part.name,
                    "version": part.version,
                    "sha256": part.sha256 or None,
                    "purl": part.purl or None,
                }
                for part in toolchain.components
            ],
        },
        "built_on": {"libc": "-".join(platform.libc_ver()), "machine": platform.machine()},
        "cost": {
            "jobs": jobs,
            "seconds": round(compiled.seconds, 1),
            "cpu_seconds": round(compiled.cpu_seconds, 1),
            "peak_process_memory_bytes": compiled.peak_memory_bytes,
            "compiler_cache": asdict(cache),
        },
        "durations_seconds": {name: round(seconds, 1) for name, seconds in durations_seconds.items()},
    }


def for_wheel(
    record: Mapping[str, Any],
    wheel: Path,
    *,
    bundled: Iterable[Mapping[str, str]],
    checks: Iterable[str],
    wheels_of_build: int,
) -> dict[str, Any]:
    """Return a build's record, completed for one of its wheels.

    Args:
        record: What `make_record` returned.
        wheel: The finished wheel.
        bundled: Name and SHA-256 of each library that the wheel bundles.
        checks: The checks that it passed.
        wheels_of_build: How many wheels the build made.
    """
    return {
        **record,
        "wheels_of_build": wheels_of_build,
        "wheel": {
            "name": wheel.name,
            "sha256": file_sha256(wheel),
            "size_bytes": wheel.stat().st_size,
            "bundled": [dict(library) for library in bundled],
            "checks": list(checks),
        },
    }


def disagreements(record: Mapping[str, Any], wheel: Wheel, sbom: Bill) -> list[str]:
    """Return where a wheel's record says something else than its SBOM, a phrase each; empty if they agree.

    Args:
        record: The wheel's record, from wherever.
        wheel: The wheel.
        sbom: Its SBOM.
    """

    def recorded(*keys: str) -> object:
        value: object = record
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def each(value: object, *keys: str) -> object:
        if not isinstance(value, list) or not all(isinstance(part, Mapping) for part in value):
            return value
        return sorted(tuple(str(part.get(key)) for key in keys) for part in value)

    patches = [part.name.rpartition("/")[2] for part in sbom.materials if part.kind == "patch"]
    source = next((part for part in sbom.materials if part.kind == "source"), Material("", ""))
    libraries = [part for part in sbom.materials if part.kind == "library"]
    compared: dict[str, tuple[object, object]] = {
        "wheel.name": (recorded("wheel", "name"), wheel.path.name),
        "wheel.sha256": (recorded("wheel", "sha256"), file_sha256(wheel.path)),
        "target": (recorded("target"), sbom.subject.fact("target")),
        "abi": (recorded("abi"), sbom.subject.fact("abi")),
        "torch.requirement": (recorded("torch", "requirement"), sbom.subject.fact("torch")),
        "architectures": (recorded("architectures"), sbom.subject.fact("architectures").split()),
        "source.kind": (recorded("source", "kind"), source.fact("source")),
        "source.version": (recorded("source", "version"), source.version),
        "source.sha256": (recorded("source", "sha256"), source.sha256),
        "source.verified": (recorded("source", "verified"), source.fact("verified") == "true"),
        # Their digests differ: the record's cover the files that a patch adds.
        "patches": (each(recorded("patches"), "name"), sorted((name,) for name in patches)),
        "wheel.bundled": (
            each(recorded("wheel", "bundled"), "name", "sha256"),
            sorted((part.fact("path"), part.fact("original-sha256")) for part in libraries),
        ),
    }
    known_tools = {(part.name, part.version, part.sha256 or "None") for part in sbom.materials}
    tools = each(recorded("toolchain", "components"), "name", "version", "sha256")
    strange = [tool for tool in tools if tool not in known_tools] if isinstance(tools, list) else tools
    compared["toolchain.components"] = (strange, [])
    return [
        f"{name} is {_short(said)}, and its SBOM says {_short(known)}"
        for name, (said, known) in compared.items()
        if said != known
    ]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

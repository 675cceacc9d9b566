"""Writes a release's notes from the records of its wheels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from builder.publish.listed_wheel import ListedWheel, newest_first, newest_of_each_cuda

_BASIC = (
    "Basic wheels, with nothing bundled. Install one by its address: their tag does not say which glibc they "
    "need."
)
_CHECK = (
    "Each file's SHA-256 is in `SHA256SUMS`, and each wheel holds an SBOM and the patches. The JSON file "
    "beside a wheel is the record of its build."
)


def release_notes(wheels: Sequence[ListedWheel], *, repository: str, tag: str, index_url: str = "") -> str:
    """Return Markdown that says what a release holds, what it was made from, and how to check that.

    Args:
        wheels: The release's wheels, with their records.
        repository: `owner/name`.
        tag: The release's tag.
        index_url: The package index's address; if it is empty, wheels are installed by their address.
    """
    ordered = newest_first(wheels)
    portable = [wheel for wheel in ordered if wheel.portable]
    basic = [wheel for wheel in ordered if not wheel.portable]
    machines = sorted({wheel.machine for wheel in ordered}, reverse=True)
    versions = ", ".join(dict.fromkeys(wheel.release for wheel in ordered))
    parts = [
        f"Wheels of SageAttention {versions} for Linux {' and '.join(machines)}.",
        "## Install",
        _install(portable or basic, repository, tag, index_url),
        "## Wheels",
        _wheel_table(portable),
    ]
    if basic:
        parts += [_BASIC, _wheel_table(basic)]
    parts += ["## Smoke tests", _smoke_tests(ordered)]
    parts += ["## What they were made from", _sources(ordered), _patches(ordered), _builds(ordered)]
    parts += [
        "## Check",
        _CHECK,
        _code(
            "sha256sum --check --ignore-missing SHA256SUMS",
            f"gh attestation verify FILE.whl --repo {repository}",
            f"nox -s reproduce-TARGET -- --against {_address(repository, tag)}FILE.whl",
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _install(wheels: Sequence[ListedWheel], repository: str, tag: str, index_url: str) -> str:
    if not wheels:
        return ""
    if not index_url:
        first = wheels[0]
        return _code(f'python -m pip install "{_address(repository, tag)}{quote(first.filename)}"')
    site = index_url.rstrip("/")
    lines = []
    for newest in newest_of_each_cuda(wheels):
        wanted = f'"{newest.project}=={newest.release}"'
        lines += [
            f"# a torch that is built for CUDA {newest.human_cuda}",
            f"python -m pip install {wanted} --extra-index-url {site}/{newest.cuda}/",
            f"uv pip install {wanted} --index {site}/{newest.cuda}/",
        ]
    return f"{_code(*lines)}\n\nThe line for your own versions: {site}/"


def _address(repository: str, tag: str) -> str:
    return f"https://github.com/{repository}/releases/download/{quote(tag)}/"


def _wheel_table(wheels: Sequence[ListedWheel]) -> str:
    if not wheels:
        return ""
    rows = [
        [
            f"`{wheel.filename}`",
            wheel.human_python,
            wheel.human_torch,
            wheel.human_cuda,
            ", ".join(wheel.architectures) or "not stated",
            wheel.human_size,
        ]
        for wheel in wheels
    ]
    return _table(["File", "Python", "torch", "CUDA", "GPU architectures", "Size"], rows)


def _smoke_tests(wheels: Sequence[ListedWheel]) -> str:
    """Return a table with a row for each wheel, also for those that were not tested."""
    rows = [
        [f"`{wheel.filename}`", test.outcome, _plain(test.on), _plain(test.detail)]
        for wheel in wheels
        for test in [wheel.smoke_test]
    ]
    return _table(["File", "Result", "On", "Report"], rows)


def _sources(wheels: Sequence[ListedWheel]) -> str:
    lines = []
    for wheel in wheels:
        source = wheel.recorded("source")
        if not source:
            lines.append(f"- `{wheel.filename}`: not recorded, and **not verified**")
            continue
        verified = "" if wheel.verified else ", **not verified**"
        version, location, sha256 = (_plain(source.get(key)) for key in ("version", "location", "sha256"))
        digest = f", SHA-256 `{sha256}`" if sha256 else ""
        lines.append(f"- SageAttention {version}: {location}{digest}{verified}")
    return "\n".join(dict.fromkeys(lines))


def _patches(wheels: Sequence[ListedWheel]) -> str:
    found: dict[tuple[str, str], str] = {}
    for wheel in wheels:
        patches = wheel.record.get("patches")
        for patch in patches if isinstance(patches, list) else []:
            if isinstance(patch, dict):
                key = (_plain(patch.get("name")), _plain(patch.get("sha256")))
                found[key] = _plain(patch.get("summary"))
    if not found:
        return "No patches."
    lines = [f"- `{name}`: {summary}" for (name, _), summary in sorted(found.items())]
    return "With these patches:\n\n" + "\n".join(lines)


def _builds(wheels: Sequence[ListedWheel]) -> str:
    rows: dict[tuple[str, ...], None] = {}
    for wheel in wheels:
        tools, torch = wheel.recorded("toolchain"), wheel.recorded("torch")
        if tools or torch:
            row = [
                wheel.record.get("target"),
                torch.get("built_with"),
                tools.get("nvcc"),
                tools.get("host_compiler"),
            ]
            rows[tuple(_plain(value) or "not stated" for value in row)] = None
    return _table(["Target", "Built with torch", "nvcc", "g++"], rows) if rows else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    written = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in written)


def _plain(value: object) -> str:
    """Return what a record or report says as one line in which nothing is Markdown or HTML."""
    text = " ".join(str("" if value is None else value).split())
    return re.sub(r"[\\`*\[\]<>|~&#]|(?<!\w)@", r"\\\g<0>", text)


def _code(*lines: str) -> str:
    return "\n".join(["```sh", *lines, "```"])

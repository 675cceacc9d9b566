"""Edits METADATA of a finished wheel: licence, project and description.

Sources: PEP 639 (licence expression and files), and the PyPA "Core metadata specifications".
"""

from __future__ import annotations

from collections.abc import Iterable

from packaging.licenses import canonicalize_license_expression

from builder.finish.provenance import OPENING

# How NVIDIA's own packages of the CUDA runtime name its terms.
RUNTIME_LICENSE = "LicenseRef-NVIDIA-Proprietary"

_VERSION = (2, 4)  # the first with License-Expression and License-File
_LABEL = "Wheel build"
_WRITTEN_ANEW = {
    *("License", "License-Expression", "License-File", "Metadata-Version", "Description-Content-Type")
}


def license_expression(source: str, *, runtime: bool) -> str:
    """Return the SPDX expression of a wheel (PEP 639).

    Args:
        source: That of what was compiled.
        runtime: Whether the CUDA runtime is bundled.
    """
    expression = source
    if runtime:
        expression = f"({source})" if " OR " in source else source
        expression += f" AND {RUNTIME_LICENSE}"
    return str(canonicalize_license_expression(expression))


def edit_metadata(
    metadata: bytes, expression: str, license_files: Iterable[str], about: tuple[str, str], project_url: str
) -> bytes:
    """Return METADATA with licence, project and description of a build; all else stays as it is.

    `License` and the licence classifiers are removed: a licence expression replaces them (PEP 639).

    Args:
        metadata: The file's bytes.
        expression: SPDX.
        license_files: Paths under `*.dist-info/licenses/`.
        about: Two lines for the top of the description.
        project_url: Address to link; empty for none.

    Returns:
        The new bytes; editing them again changes nothing.
    """
    head, _, body = metadata.decode("utf-8", "surrogateescape").replace("\r\n", "\n").partition("\n\n")
    fields = _fields(head)
    old = dict(fields)
    kept = [
        (name, value)
        for name, value in fields
        if name not in _WRITTEN_ANEW
        and not (name == "Classifier" and value.startswith("License ::"))
        and not (name == "Project-URL" and value.startswith(f"{_LABEL},"))
    ]
    version = max(tuple(map(int, old.get("Metadata-Version", "2.1").split("."))), _VERSION)
    new = [("Metadata-Version", ".".join(map(str, version))), *kept, ("License-Expression", expression)]
    new += [("License-File", name) for name in license_files]
    new += [("Project-URL", f"{_LABEL}, {project_url}")] if project_url else []
    new.append(("Description-Content-Type", old.get("Description-Content-Type", "text/markdown")))
    if body.startswith(OPENING):
        body = body.partition("\n\n")[2]
    lines = [f"{name}: {value}" for name, value in new]
    text = "\n".join(lines) + "\n\n" + "\n".join(about) + "\n\n" + body
    return text.encode("utf-8", "surrogateescape")


def _fields(head: str) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for line in head.split("\n"):
        if line[:1] in {" ", "\t"} and fields:
            name, value = fields[-1]
            fields[-1] = (name, f"{value}\n{line}")
        elif line:
            name, _, value = line.partition(":")
            fields.append((name, value.strip()))
    return fields

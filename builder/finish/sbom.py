"""Writes and reads the software bill of materials in a wheel.

It is CycloneDX 1.6 in `*.dist-info/sboms/` (PEP 770). Equal builds give equal bytes: the serial number is a
digest of the content, and the time is SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import (
    Component,
    ComponentScope,
    ComponentType,
    Diff,
    Patch,
    PatchClassification,
    Pedigree,
)
from cyclonedx.model.license import LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from builder.toolchain.materials import Material
from builder.wheel.wheelfile import Wheel

SBOM_NAME = "sageattention.cdx.json"
# Prefix of the properties that this project writes.
_PROPERTY = "sageattention-wheel"

_TYPES = {
    "source": ComponentType.LIBRARY,
    "patch": ComponentType.FILE,
    "patch-file": ComponentType.FILE,
    "build-tool": ComponentType.APPLICATION,
    "extension": ComponentType.FILE,
    "library": ComponentType.LIBRARY,
    "file": ComponentType.FILE,
}


def make_sbom(subject: Material, materials: Iterable[Material], *, made_by: Material, epoch: int) -> bytes:
    """Return the bill of materials of a wheel, as JSON; the same bytes for the same arguments.

    Args:
        subject: The wheel as a package.
        materials: What went into it. The source and the patches also become the subject's pedigree.
        made_by: The tool that built it.
        epoch: Its time, seconds since 1970.
    """
    ordered = sorted(set(materials))
    sources = [part for part in ordered if part.kind == "source"]
    root = _component(subject, ComponentType.LIBRARY)
    root.pedigree = Pedigree(
        ancestors=[_component(part, ref=f"ancestor:{part.name}") for part in sources],
        patches=[
            Patch(type=PatchClassification.UNOFFICIAL, diff=Diff(url=XsUri(part.name)))
            for part in ordered
            if part.kind == "patch"
        ],
    )
    tool = _component(made_by, ComponentType.APPLICATION)
    components = [_component(part) for part in ordered]
    digest = hashlib.sha256(repr((subject, ordered, made_by, epoch)).encode()).hexdigest()
    bom = Bom(
        components=components,
        metadata=BomMetaData(
            component=root,
            timestamp=datetime.fromtimestamp(epoch, tz=timezone.utc),
            tools=ToolRepository(components=[tool]),
        ),
        serial_number=uuid5(NAMESPACE_URL, digest),
    )
    bom.register_dependency(root, components)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return text.encode() + b"\n"


def _component(part: Material, kind: ComponentType | None = None, ref: str = "") -> Component:
    return Component(
        type=kind or _TYPES[part.kind],
        name=part.name,
        version=part.version or None,
        bom_ref=ref or f"{part.kind}:{part.name}{'@' if part.version else ''}{part.version}",
        scope=ComponentScope.EXCLUDED if part.kind == "build-tool" else None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)] if part.sha256 else None,
        licenses=[LicenseExpression(value=part.license)] if part.license else None,
        purl=PackageURL.from_string(part.purl) if part.purl else None,
        external_references=[
            ExternalReference(type=ExternalReferenceType.SOURCE_DISTRIBUTION, url=XsUri(part.url))
        ]
        if part.url
        else None,
        properties=[Property(name=f"{_PROPERTY}:kind", value=part.kind)]
        + [Property(name=f"{_PROPERTY}:{name}", value=value) for name, value in part.properties],
    )


class Bill(NamedTuple):
    """What a bill of materials says.

    Attributes:
        subject: The whole that it is of; with its Package URL.
        sources: What the subject's pedigree says that it descends from.
        materials: The components: kind, name, version, SHA-256, Package URL and properties.
    """

    subject: Material
    sources: tuple[Material, ...]
    materials: tuple[Material, ...]


def read_sbom(data: bytes) -> Bill:
    """Return what a bill of materials in JSON says.

    Raises:
        ValueError: It is not a CycloneDX document, or a value in it is not of the type that it has to be.
    """
    try:
        document = _object(json.loads(data, object_pairs_hook=_without_doubles))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if document.get("bomFormat") != "CycloneDX":
        raise ValueError("not a CycloneDX document")
    subject = _object(_object(document.get("metadata", {})).get("component", {}))
    ancestors = _objects(_object(subject.get("pedigree", {})), "ancestors")
    return Bill(
        _read_component(subject),
        tuple(map(_read_component, ancestors)),
        tuple(map(_read_component, _objects(document, "components"))),
    )


def _read_component(part: Mapping[str, Any]) -> Material:
    hashes = {_text(entry, "alg"): _text(entry, "content") for entry in _objects(part, "hashes")}
    properties = _without_doubles(
        [
            (_text(entry, "name").removeprefix(f"{_PROPERTY}:"), _text(entry, "value"))
            for entry in _objects(part, "properties")
        ]
    )
    return Material(
        kind=properties.pop("kind", ""),
        name=_text(part, "name"),
        version=_text(part, "version"),
        sha256=hashes.get("SHA-256", "").lower(),
        purl=_text(part, "purl"),
        properties=tuple(sorted(properties.items())),
    )


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"it says something twice: {', '.join(sorted(name for name, _ in pairs))[:200]}")
    return found


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"not an object: {str(value)[:100]}")
    return value


def _objects(part: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = part.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"{key} is not a list of objects")
    return [_object(entry) for entry in value]


def _text(part: Mapping[str, Any], key: str) -> str:
    value = part.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a text: {str(value)[:100]}")
    return value


def own_sbom(wheel: Wheel) -> Bill | None:
    """Return what a wheel's own SBOM says; None where it has none.

    Raises:
        ValueError: It is not a bill of materials.
        WheelError: It is damaged.
    """
    name = wheel.in_dist_info(f"sboms/{SBOM_NAME}")
    return read_sbom(wheel.read(name)) if name in wheel.names else None


def listed_in_sbom(wheel: Wheel) -> list[str]:
    """Return the names of the files that a wheel's SBOM has to list: all but RECORD and the SBOM itself."""
    unlisted = {wheel.in_dist_info(name) for name in ("RECORD", f"sboms/{SBOM_NAME}")}
    return [name for name in wheel.names if name not in unlisted]


def sbom_problems(
    materials: Sequence[Material], files: Mapping[str, str], *, must_list: Iterable[str]
) -> list[str]:
    """Return how a bill of materials and a wheel's content differ, one sentence each; empty if they agree.

    Args:
        materials: The components that `read_sbom` returned.
        files: Archive name -> SHA-256 of every file of the wheel.
        must_list: Archive names that have to be in it.
    """
    problems: list[str] = []
    in_wheel = {
        part.fact("path") or part.name: part
        for part in materials
        if part.kind in {"extension", "library", "patch", "patch-file", "file"}
    }
    for name, part in sorted(in_wheel.items()):
        if name not in files:
            problems.append(f"{name} is in the SBOM and not in the wheel")
        elif part.sha256 != files[name]:
            problems.append(f"{name} has a different SHA-256 in the SBOM")
    problems += [
        f"{name} is in the wheel and not in the SBOM" for name in sorted(must_list) if name not in in_wheel
    ]
    places = Counter(part.fact("path") or f"{part.kind} {part.name}" for part in materials)
    return problems + [f"the SBOM lists {place} twice" for place, count in places.items() if count > 1]


def without_build_paths(data: bytes) -> bytes:
    """Return auditwheel's own SBOM without what differs from folder to folder.

    Its references end in a digest of the path that a library was copied from. Here they end in a digest of
    their place in the list. All else stays.

    Raises:
        ValueError: It is not a JSON object.
    """
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    new_names: dict[str, str] = {}
    for number, part in enumerate(_objects(document, "components")):
        old = _text(part, "bom-ref")
        base, _, digest = old.partition("#")
        if digest:
            new_names[old] = f"{base}#{hashlib.sha256(f'{number} {base}'.encode()).hexdigest()}"
    text = json.dumps(document, indent=2, sort_keys=True)
    for old, new in new_names.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    return text.encode() + b"\n"

"""Writes and reads the software bill of materials in a wheel: what it was made from, and with what.

It is CycloneDX 1.6 in `*.dist-info/sboms/` (PEP 770). Equal builds give equal bytes: the serial number is a
digest of the content, and the time is SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from uuid import NAMESPACE_URL, uuid5

from cyclonedx import model
from cyclonedx.model import component as cdx
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.license import LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from builder.wheel.label import WheelError
from builder.wheel.wheelfile import Wheel

SBOM_NAME = "sageattention.cdx.json"
_PROPERTY = "sageattention-wheel:"  # before the names of the properties that this project writes
_TYPES = {
    "source": cdx.ComponentType.LIBRARY,
    "library": cdx.ComponentType.LIBRARY,
    "wheel": cdx.ComponentType.LIBRARY,
    "build-tool": cdx.ComponentType.APPLICATION,
}  # all others are files


@dataclass(frozen=True)
class Component:
    """Something that went into a wheel, or that a wheel was made with.

    Attributes:
        kind: `source`, `patch`, `patch-file` (what a patch adds), `build-tool`, `extension` (a library that
            was compiled), `library` (a bundled one), `file`, or `wheel`.
        name: What it is called; for files of the wheel their name in it.
        version: Empty without one.
        sha256: Of its bytes, or of an installed package's files; empty if not known.
        purl: Package URL; empty without one.
        license: SPDX expression; empty if it isn't ours to say.
        url: Where it came from; empty if it came from no address.
        properties: Further facts.
    """

    kind: str
    name: str
    version: str = ""
    sha256: str = ""
    purl: str = ""
    license: str = ""
    url: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The name in the wheel of a file of it."""
        return self.properties.get("path", self.name)


@dataclass(frozen=True)
class Sbom:
    """What a bill of materials says.

    Attributes:
        subject: The wheel itself, with the properties `abi`, `architectures`, `cuda`, `target` and `torch`.
        components: What went into it.
    """

    subject: Component
    components: tuple[Component, ...] = ()

    def of_kind(self, kind: str) -> list[Component]:
        """Return the components of a kind, sorted by name."""
        return [component for component in self.components if component.kind == kind]

    @property
    def source(self) -> Component:
        """What was compiled; nameless where nothing says it."""
        return next(iter(self.of_kind("source")), Component("source", ""))

    @property
    def verified(self) -> bool:
        """Whether the source was the pinned release."""
        return self.source.properties.get("verified") == "true"

    def tool_version(self, name: str) -> str:
        """Return the version of a build tool, such as `g++`; empty where it is not listed."""
        return next((tool.version for tool in self.of_kind("build-tool") if tool.name == name), "")


def read(wheel: Wheel) -> Sbom | None:
    """Return a wheel's own SBOM; None where it has none."""
    name = wheel.in_dist_info(f"sboms/{SBOM_NAME}")
    if name not in wheel.names:
        return None
    try:
        return parse(wheel.read(name))
    except ValueError as error:
        raise WheelError(f"{wheel.path.name}: its SBOM can't be read: {error}.") from error


def parse(data: bytes) -> Sbom:
    """Return what a bill of materials in JSON says; ValueError if it is not a CycloneDX document."""
    try:
        document = json.loads(data)
        if document["bomFormat"] != "CycloneDX":
            raise ValueError("its bomFormat is another")
        bom: Bom = Bom.from_json(document)  # type: ignore[attr-defined]  # from the library's decorator
        subject = bom.metadata.component
        parts = sorted(map(_from_cyclonedx, bom.components), key=lambda part: (part.name, part.version))
        return Sbom(_from_cyclonedx(subject) if subject else Component("", ""), tuple(parts))
    except Exception as error:  # the library raises whatever a wrong type leads to
        raise ValueError(f"not a CycloneDX document: {error}") from error


def serialize(
    subject: Component, components: Iterable[Component], *, made_by: Component, epoch: int
) -> bytes:
    """Return a bill of materials as JSON; the same bytes for the same arguments, in whatever order.

    The source and the patches among the components also become the subject's pedigree. The epoch is the
    document's time, in seconds since 1970.
    """
    parts = list(components)
    root = _to_cyclonedx(subject)
    unofficial = cdx.PatchClassification.UNOFFICIAL
    diffs = [cdx.Diff(url=model.XsUri(each.name)) for each in parts if each.kind == "patch"]
    root.pedigree = cdx.Pedigree(
        ancestors=[_to_cyclonedx(each, f"ancestor:{each.name}") for each in parts if each.kind == "source"],
        patches=[cdx.Patch(type=unofficial, diff=diff) for diff in diffs],
    )
    stated = sorted(json.dumps(asdict(part), sort_keys=True) for part in (subject, *parts, made_by))
    digest = hashlib.sha256(json.dumps([epoch, *stated]).encode()).hexdigest()
    bom = Bom(
        components=[_to_cyclonedx(part) for part in parts],
        metadata=BomMetaData(
            component=root,
            timestamp=datetime.fromtimestamp(epoch, tz=timezone.utc),
            tools=ToolRepository(components=[_to_cyclonedx(made_by)]),
        ),
        serial_number=uuid5(NAMESPACE_URL, digest),
    )
    bom.register_dependency(root, bom.components)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return text.encode() + b"\n"


def problems(sbom: Sbom, files: Mapping[str, str]) -> list[str]:
    """Return how an SBOM and a wheel's files (name -> SHA-256) differ, one sentence each; empty if not."""
    kinds = {"extension", "library", "patch", "patch-file", "file"}
    listed = {part.path: part.sha256 for part in sbom.components if part.kind in kinds}
    unlisted = (".dist-info/RECORD", f".dist-info/sboms/{SBOM_NAME}")  # which can't be listed
    sentences = []
    for name in sorted(listed.keys() | files.keys()):
        if name not in files:
            sentences.append(f"{name} is in the SBOM and not in the wheel")
        elif name not in listed and not name.endswith(unlisted):
            sentences.append(f"{name} is in the wheel and not in the SBOM")
        elif name in listed and listed[name] != files[name]:
            sentences.append(f"{name} has a different SHA-256 in the SBOM")
    return sentences


def _to_cyclonedx(part: Component, ref: str = "") -> cdx.Component:
    sha256 = model.HashType(alg=model.HashAlgorithm.SHA_256, content=part.sha256) if part.sha256 else None
    kind, url = model.ExternalReferenceType.SOURCE_DISTRIBUTION, model.XsUri(part.url)
    properties = {"kind": part.kind, **part.properties}
    return cdx.Component(
        type=_TYPES.get(part.kind, cdx.ComponentType.FILE),
        name=part.name,
        version=part.version or None,
        bom_ref=ref or f"{part.kind}:{part.name}{'@' if part.version else ''}{part.version}",
        scope=cdx.ComponentScope.EXCLUDED if part.kind == "build-tool" else None,
        hashes=[sha256] if sha256 else (),
        licenses=[LicenseExpression(value=part.license)] if part.license else (),
        purl=PackageURL.from_string(part.purl) if part.purl else None,
        external_references=[model.ExternalReference(type=kind, url=url)] if part.url else (),
        properties=[model.Property(name=_PROPERTY + name, value=value) for name, value in properties.items()],
    )


def _from_cyclonedx(part: cdx.Component) -> Component:
    properties = {each.name.removeprefix(_PROPERTY): each.value or "" for each in part.properties}
    sha256 = [each.content for each in part.hashes if each.alg == model.HashAlgorithm.SHA_256]
    return Component(
        kind=properties.pop("kind", ""),
        name=part.name,
        version=part.version or "",
        sha256="".join(sha256[:1]),
        purl=str(part.purl or ""),
        license="".join(each.value for each in part.licenses if isinstance(each, LicenseExpression)),
        url="".join(str(reference.url) for reference in part.external_references),
        properties=properties,
    )

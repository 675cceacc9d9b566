"""Checks of where the wheel comes from: its SBOM, the report beside it, its licences, its project."""

from __future__ import annotations

from builder.check.checks.audited_wheel import ERROR, HOUSE_RULE, WARNING, AuditedWheel, Found
from builder.check.checks.symbols import owner_of_copy
from builder.finish.store import read_record, record_path
from builder.util.files import file_sha256
from builder.wheel.libraries import CUDA_RUNTIME
from builder.wheel.sbom import SBOM_NAME, parse, problems


def sbom(audited: AuditedWheel) -> Found:
    """The wheel has an SBOM that lists all that it contains."""
    wheel, contents = audited.wheel, audited.contents
    folder = wheel.in_dist_info("sboms/")
    boms = [name for name in contents if name.startswith(folder)]
    for name in boms:
        try:
            parse(wheel.read(name))
        except ValueError as error:
            yield ERROR, f"{name}: {error}"
    own = f"{folder}{SBOM_NAME}"
    if own not in boms:
        missing = own if boms or audited.ours else "SBOM"
        yield HOUSE_RULE, f"it contains no {missing}: nothing says what it was made from"
    if audited.sbom is None:
        return
    for problem in problems(audited.sbom, {name: part.sha256 for name, part in contents.items()}):
        yield ERROR, problem
    kinds = {component.path: component.kind for component in audited.sbom.components}
    for name in audited.libraries:
        if kinds.get(name) == "file":
            yield ERROR, f"the SBOM doesn't say what library {name} is"
    source = audited.sbom.source
    if not source.name:
        yield ERROR, "the SBOM names no source"
    elif not audited.sbom.verified:
        yield WARNING, f"built from an unverified source: {source.properties.get('location') or source.name}"


def build_record(audited: AuditedWheel) -> Found:
    """The report beside the wheel, where there is one, is of this wheel."""
    wheel = audited.wheel.path
    path = record_path(wheel)
    if audited.ours and path.exists():
        record = read_record(wheel)
        if not record:
            yield ERROR, f"{path.name} is not the record of a build"
        elif record.get("sha256", sha256 := file_sha256(wheel)) != sha256:
            yield ERROR, f"{path.name} is of a wheel with another SHA-256, {record['sha256']}"


def licence(audited: AuditedWheel) -> Found:
    """The licence expression is right, and the licence texts are there."""
    wheel, contents = audited.wheel, audited.contents
    expression = wheel.metadata.get("license_expression", "")
    for problem in audited.metadata_problems("license"):
        yield ERROR, problem
    if not expression:
        yield HOUSE_RULE, "METADATA has no License-Expression"
    if not any("licen" in name.lower() for name in contents if name.startswith(wheel.dist_info)):
        yield HOUSE_RULE, "it contains no licence text"
    licenses = wheel.in_dist_info("licenses/")
    for name in contents:
        if name.startswith(licenses) and not contents[name].size_bytes:
            yield ERROR, f"{name} is empty"
    for name in wheel.metadata.get("license_files", []):
        if not contents.keys() & {f"{licenses}{name}", wheel.in_dist_info(name)}:
            yield ERROR, f"License-File: {name} is not in it"
    if bundled := [name for name in contents if owner_of_copy(name) is CUDA_RUNTIME]:
        if "LicenseRef-NVIDIA" not in expression:
            yield HOUSE_RULE, f"{bundled[0]} is NVIDIA's, and the licence expression doesn't say so"
        if not any(name.startswith(f"{licenses}nvidia") for name in contents):
            yield HOUSE_RULE, f"{bundled[0]} is NVIDIA's, and its licence text is not in it"


def description(audited: AuditedWheel) -> Found:
    """METADATA links the project that built the wheel."""
    if audited.ours and not audited.linked:
        yield WARNING, "METADATA doesn't link the project that built it (builder/target/project.toml)"

"""Checks of where the wheel comes from: its SBOM, its licences, its project."""

from __future__ import annotations

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement

from builder.check.checks.audited_wheel import ERROR, HOUSE_RULE, WARNING, AuditedWheel, Found
from builder.check.checks.evidence import owner_of_copy
from builder.finish.core_metadata import RUNTIME_LICENSE
from builder.finish.sbom import SBOM_NAME, read_sbom, sbom_problems
from builder.target.architectures import join
from builder.wheel.fatbin import cubin_architectures
from builder.wheel.libraries import CUDA_RUNTIME


def sbom(audited: AuditedWheel) -> Found:
    """The wheel has an SBOM that matches what it contains."""
    wheel, contents = audited.wheel, audited.contents
    folder = wheel.in_dist_info("sboms/")
    boms = [name for name in contents if name.startswith(folder)]
    if not boms:
        yield HOUSE_RULE, "it contains no SBOM: nothing says what it was made from"
    for name in boms:
        try:
            read_sbom(wheel.read(name))
        except ValueError as error:
            yield ERROR, f"{name}: {error}"
    if f"{folder}{SBOM_NAME}" not in boms or not audited.materials:
        return
    patches = wheel.in_dist_info("patches/")
    must_list = [*audited.libraries, *(name for name in contents if name.startswith(patches))]
    files = {name: part.sha256 for name, part in contents.items()}
    for problem in sbom_problems(audited.materials, files, must_list=must_list):
        yield ERROR, problem
    for part in audited.materials:
        if part.kind == "extension" and (extension := audited.extensions.get(part.name)):
            cubins = join(cubin_architectures(extension.codes), " ")
            if part.fact("architectures") != cubins:
                yield ERROR, f"{part.name} has cubins for {cubins}, and the SBOM says otherwise"
        if part.kind == "source" and part.fact("verified") != "true":
            yield WARNING, f"built from an unverified source: {part.fact('location') or part.name}"
    required = str(audited.torch or "").replace(" ", "")
    if (told := audited.provenance.get("torch")) and required and Requirement(told) != Requirement(required):
        yield ERROR, f"the SBOM says {told}, and METADATA requires {required}"


def licence(audited: AuditedWheel) -> Found:
    """The licence expression is right, and the licence texts are there."""
    wheel, contents = audited.wheel, audited.contents
    expression = str(wheel.metadata["License-Expression"] or "")
    if not expression:
        yield HOUSE_RULE, "METADATA has no License-Expression"
    else:
        try:
            canonicalize_license_expression(expression)
        except InvalidLicenseExpression as error:
            yield ERROR, f"License-Expression: {error}"
    if not any("licen" in name.lower() for name in contents if name.startswith(wheel.dist_info)):
        yield HOUSE_RULE, "it contains no licence text"
    for name in wheel.metadata.get_all("License-File", []):
        if not contents.keys() & {wheel.in_dist_info(f"licenses/{name}"), wheel.in_dist_info(name)}:
            yield ERROR, f"License-File: {name} is not in it"
    bundled = [name for name in contents if owner_of_copy(name) is CUDA_RUNTIME]
    if bundled and RUNTIME_LICENSE not in expression:
        yield HOUSE_RULE, f"{bundled[0]} is NVIDIA's, and the licence expression doesn't say so"


def description(audited: AuditedWheel) -> Found:
    """METADATA links the project that built the wheel."""
    links = [str(entry) for entry in audited.wheel.metadata.get_all("Project-URL", [])]
    if audited.provenance and not any(link.startswith("Wheel build,") for link in links):
        yield WARNING, "METADATA doesn't link the project that built it (builder/target/project.toml)"

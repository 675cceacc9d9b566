"""Checks of where the wheel comes from: its SBOM, its licences, its project."""

from __future__ import annotations

from urllib.parse import unquote

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.version import Version

from builder.check.checks.audited_wheel import ERROR, HOUSE_RULE, WARNING, AuditedWheel, Found
from builder.check.checks.evidence import owner_of_copy
from builder.finish.core_metadata import RUNTIME_LICENSE
from builder.finish.finalize import RUNTIME_LICENSE_FILE
from builder.finish.provenance import OPENING, UNVERIFIED, VERIFIED, count_of_patches
from builder.finish.record import disagreements
from builder.finish.sbom import SBOM_NAME, listed_in_sbom, read_sbom, sbom_problems
from builder.finish.wheelhouse import read_record, record_path
from builder.target.architectures import join
from builder.target.upstream import PATCHES_DIR, load_release
from builder.wheel.fatbin import cubin_architectures
from builder.wheel.libraries import CUDA_RUNTIME


def sbom(audited: AuditedWheel) -> Found:
    """The wheel has an SBOM that matches what it contains."""
    wheel, contents = audited.wheel, audited.contents
    folder = wheel.in_dist_info("sboms/")
    boms = [name for name in contents if name.startswith(folder)]
    for name in boms:
        try:
            read_sbom(wheel.read(name))
        except ValueError as error:
            yield ERROR, f"{name}: {error}"
    own = f"{folder}{SBOM_NAME}"
    if own not in boms:
        missing = own if boms or audited.ours else "SBOM"
        yield HOUSE_RULE, f"it contains no {missing}: nothing says what it was made from"
        return
    files = {name: part.sha256 for name, part in contents.items()}
    for problem in sbom_problems(audited.bill.materials, files, must_list=listed_in_sbom(wheel)):
        yield ERROR, problem
    kinds = {part.fact("path") or part.name: part.kind for part in audited.bill.materials}
    for name in audited.libraries:
        if kinds.get(name) == "file":
            yield ERROR, f"the SBOM doesn't say what library {name} is"
    for part in audited.bill.materials:
        if part.kind == "extension" and (extension := audited.extensions.get(part.name)):
            cubins = join(cubin_architectures(extension.codes), " ")
            if part.fact("architectures") != cubins:
                yield ERROR, f"{part.name} has cubins for {cubins}, and the SBOM says otherwise"
    told, required = audited.provenance.fact("torch"), str(audited.torch or "")
    if told.replace(" ", "") != required.replace(" ", ""):
        # The unpatched release requires no torch, whatever it is built for.
        yield (
            ERROR if required else HOUSE_RULE,
            f"the SBOM says {told or 'no torch'}, and METADATA requires {required or 'none'}",
        )
    file_name = unquote(audited.provenance.purl.partition("?file_name=")[2])
    if file_name != wheel.path.name:
        yield ERROR, f"the SBOM is of {file_name or 'a file without a name'}"
    subject = audited.provenance
    said = (subject.name, subject.version, subject.fact("abi"))
    abi = "stable" if audited.stable else "native"
    if said != (wheel.name.distribution, wheel.name.version.replace("_", "."), abi):
        yield ERROR, f"the SBOM is of {subject.name} {subject.version}, abi {said[2] or 'not said'}"
    yield from _source(audited)


def _source(audited: AuditedWheel) -> Found:
    sources = [part for part in audited.bill.materials if part.kind == "source"]
    if len(sources) != 1 or audited.bill.sources != (sources[0],):
        yield ERROR, "the SBOM has to name one source, and the same in its pedigree"
        return
    (source,) = sources
    if Version(audited.wheel.name.version.replace("_", "+", 1)).public != source.version:
        yield (
            ERROR,
            f"the SBOM's source is version {source.version}, and the wheel {audited.wheel.name.version}",
        )
    if source.fact("verified") != "true":
        yield WARNING, f"built from an unverified source: {source.fact('location') or source.name}"
        return
    tag = source.purl.removeprefix("pkg:github/thu-ml/sageattention@")
    if tag not in {path.name for path in PATCHES_DIR.iterdir()}:
        yield ERROR, f"the SBOM says that the source is verified, and no release {tag!r} is pinned here"
        return
    release = load_release(PATCHES_DIR / tag)
    if (source.sha256, source.fact("commit")) != (release.sha256, release.commit):
        yield ERROR, f"the SBOM says verified, and its source isn't the pinned release {release.tag}"


def build_record(audited: AuditedWheel) -> Found:
    """The record beside the wheel, where there is one, says what its SBOM says."""
    path = record_path(audited.wheel.path)
    if not audited.ours or not path.exists():
        return
    record = read_record(audited.wheel.path)
    if record is None:
        yield ERROR, f"{path.name} is not the record of a build"
        return
    for difference in disagreements(record, audited.wheel, audited.bill):
        yield ERROR, f"in {path.name}, {difference}"


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
    for name in contents:
        if name.startswith(wheel.in_dist_info("licenses/")) and not contents[name].size_bytes:
            yield ERROR, f"{name} is empty"
    for name in wheel.metadata.get_all("License-File", []):
        if not contents.keys() & {wheel.in_dist_info(f"licenses/{name}"), wheel.in_dist_info(name)}:
            yield ERROR, f"License-File: {name} is not in it"
    bundled = [name for name in contents if owner_of_copy(name) is CUDA_RUNTIME]
    if bundled and RUNTIME_LICENSE not in expression:
        yield HOUSE_RULE, f"{bundled[0]} is NVIDIA's, and the licence expression doesn't say so"
    if bundled and wheel.in_dist_info(f"licenses/{RUNTIME_LICENSE_FILE}") not in contents:
        yield HOUSE_RULE, f"{bundled[0]} is NVIDIA's, and it contains no {RUNTIME_LICENSE_FILE}"


def description(audited: AuditedWheel) -> Found:
    """METADATA links the project that built the wheel, and says of it what the SBOM says."""
    if not audited.ours:
        return
    links = [str(entry) for entry in audited.wheel.metadata.get_all("Project-URL", [])]
    if not any(link.startswith("Wheel build,") for link in links):
        yield WARNING, "METADATA doesn't link the project that built it (builder/target/project.toml)"
    told, kinds = audited.provenance, [part.kind for part in audited.bill.materials]
    verified = [part.fact("verified") for part in audited.bill.sources] == ["true"]
    claims = [VERIFIED if verified else UNVERIFIED, f" {count_of_patches(kinds.count('patch'))})"]
    claims += [f" for CUDA {told.fact('cuda')},"]
    claims += [f" compute capabilities {told.fact('architectures').replace(' ', ', ')}."]
    if audited.wheel.read(audited.wheel.in_dist_info("METADATA")).count(OPENING.encode()) > 1:
        yield HOUSE_RULE, "METADATA describes the wheel more than once"
    for claim in claims:
        if claim not in audited.description:
            yield HOUSE_RULE, f"METADATA's description doesn't say {claim.strip(' ).,')!r}, as the SBOM does"

"""Checks of METADATA, WHEEL and the file's name: who it is, what it is for and what it requires."""

from __future__ import annotations

import re

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.check.checks.audited_wheel import ERROR, HOUSE_RULE, WARNING, AuditedWheel, Found, listed
from builder.check.checks.evidence import stable_torch_symbols, torch_functions, unlimited_python_symbols
from builder.target.architectures import join
from builder.target.selection import Selection
from builder.target.targets import local_version

# Fields of METADATA that installers read once, and versions of the formats that they accept.
_ONCE = (
    *("Metadata-Version", "Name", "Version", "Requires-Python", "License-Expression"),
    *("Wheel-Version", "Root-Is-Purelib", "Build"),
)
_OTHERS = {"torch", "triton", "nvidia", "numpy"}
_FLOORS = {">=", "==", "~="}
_UPSTREAM_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "12.0")


def names(audited: AuditedWheel) -> Found:
    """METADATA, WHEEL and the file's name agree, and the wheel installs one package."""
    wheel, metadata = audited.wheel, audited.wheel.metadata
    name, version = str(metadata["Name"] or ""), str(metadata["Version"] or "")
    if canonicalize_name(name) != canonicalize_name(wheel.name.distribution):
        yield ERROR, f"METADATA has the name {name!r} and the file name has {wheel.name.distribution!r}"
    if wheel.dist_info != f"{wheel.name.distribution}-{wheel.name.version}.dist-info":
        yield ERROR, f"the folder {wheel.dist_info} is not named for the file"
    if wheel.name.build:
        yield HOUSE_RULE, f"its name has the build tag {wheel.name.build}, which installers prefer to none"
    if str(wheel.wheel_metadata["Build"] or "") != wheel.name.build:
        yield ERROR, "the file WHEEL has a build tag unlike the file name's"
    yield from _fields(audited)
    try:
        if Version(version) != Version(wheel.name.version.replace("_", "+", 1)):
            yield ERROR, f"METADATA has the version {version} and the file name has {wheel.name.version}"
    except ValueError:
        yield ERROR, f"METADATA has the version {version[:200]!r}, which is not a version (PEP 440)"
    tags = {str(tag) for tag in wheel.wheel_metadata.get_all("Tag", [])}
    if tags != {str(tag) for tag in wheel.name.tags}:
        yield ERROR, f"the file WHEEL has the tags {', '.join(sorted(tags)) or 'none'}, unlike the file name"
    if str(wheel.wheel_metadata["Root-Is-Purelib"]).strip().lower() == "true" and audited.libraries:
        yield ERROR, "the file WHEEL says that it is pure Python, and it contains shared libraries"
    own = {wheel.dist_info, wheel.name.distribution, f"{wheel.name.distribution}.libs"}
    for entry in sorted({member.split("/")[0] for member in wheel.names} - own):
        level = ERROR if entry.lower() in _OTHERS else HOUSE_RULE
        yield level, f"it installs {entry} beside {wheel.name.distribution}"


def _fields(audited: AuditedWheel) -> Found:
    """What METADATA and WHEEL say at most once, and the versions of their formats."""
    metadata, wheel = audited.wheel.metadata, audited.wheel.wheel_metadata
    for field in _ONCE:
        if len([*metadata.get_all(field, []), *wheel.get_all(field, [])]) > 1:
            yield ERROR, f"METADATA or WHEEL has the field {field} more than once"
    for field, file, known in (
        ("Metadata-Version", metadata, "2"),
        ("Wheel-Version", wheel, "1"),
    ):
        value = str(file[field] or "").strip()
        if re.fullmatch(rf"{known}\.\d+", value) is None:
            yield ERROR, f"{field} is {value or 'missing'}; installers read {known}.x"


def version(audited: AuditedWheel) -> Found:
    """The local version says what the wheel is for, as the SBOM does."""
    label, name, found = audited.label, audited.wheel.name, audited.architectures
    told = audited.provenance
    if (cuda := told.fact("cuda")) and cuda != label.cuda:
        yield ERROR, f"the version {name.version} disagrees with the SBOM, which says CUDA {cuda}"
    if audited.expect is not None:
        chosen = tuple(sorted(found))
        selection = Selection(chosen, "", chosen == audited.expect.architectures)
        expected = local_version(audited.expect, selection)
        if name.local_version != expected:
            yield ERROR, f"the version {name.version} should end in +{expected}, by its target and its cubins"
        return
    capabilities = {architecture.capability for architecture in found}
    lacking = [text for text in _UPSTREAM_ARCHITECTURES if text not in capabilities]
    if found and lacking and not label.architectures:
        only = join(sorted(found))
        yield (
            HOUSE_RULE,
            f"it contains code only for {only}, and its version doesn't say so (no {', '.join(lacking)})",
        )
    if not label.cuda:
        yield HOUSE_RULE, f"the version {name.version} doesn't say which CUDA it is for"
    if not label.torch and not label.universal:
        yield HOUSE_RULE, f"the version {name.version} doesn't say which torch it is for"
    if label.universal != audited.stable and (label.universal or label.torch):
        yield ERROR, f"the version {name.version} disagrees with the tag's ABI, {name.abi}"


def requirement(audited: AuditedWheel) -> Found:
    """The wheel requires the torch that its symbols need, and a Python that fits its tag."""
    torch = audited.torch
    yield from _others(audited)
    if audited.expect is not None and (torch is None or not _same(torch, audited.expect.torch_requirement)):
        yield ERROR, f"requires {torch or 'no torch'}, and the target says {audited.expect.torch_requirement}"
    elif torch is None and not audited.unstable:
        yield HOUSE_RULE, "METADATA requires no torch"
    if audited.stable:
        yield from _stable(audited)
    elif audited.unstable:
        series = pinned_series(torch.specifier) if torch is not None else ""
        if not series:
            count = sum(map(len, audited.unstable.values()))
            where = "libtorch's C++ interface, which changes with each torch version"
            instead = f"requires {torch or 'no torch'} instead of torch==X.Y.*"
            yield ERROR, f"uses {count} symbols of {where}, and {instead}"
        elif audited.label.torch and audited.label.torch != series:
            yield ERROR, f"requires torch {series} and its version says {audited.label.torch}"
    if torch is not None:
        yield from _functions(audited, torch.specifier)
    yield from _python(audited)


def _functions(audited: AuditedWheel, allowed: SpecifierSet) -> Found:
    """The oldest torch that is allowed has each function of torch's C interface that is used."""
    floors = [Version(clause.version.removesuffix(".*")) for clause in allowed if clause.operator in _FLOORS]
    known = torch_functions()
    for name, library in audited.named_libraries:
        used = stable_torch_symbols(library)
        for symbol in used:
            if symbol in known and floors and Version(known[symbol]) > max(floors):
                has = f"which torch has from {known[symbol]} on, and the wheel is for {max(floors)} too"
                yield ERROR, f"{name} uses {symbol}, {has}"
        if unknown := tuple(symbol for symbol in used if symbol not in known):
            yield HOUSE_RULE, f"{name} uses what is not known of torch's C interface: {listed(unknown)}"


def _others(audited: AuditedWheel) -> Found:
    """Requirements beside the one on torch, and those that no package index accepts."""
    names: list[str] = []
    for line in map(str, audited.wheel.metadata.get_all("Requires-Dist", [])):
        try:
            other = Requirement(line)
        except InvalidRequirement:
            yield ERROR, f"Requires-Dist: {line[:200]!r} is not a requirement (PEP 508)"
            continue
        if other.url:
            yield ERROR, f"requires {other.name} from an address: {other.url}"
        names.append(str(canonicalize_name(other.name)))
        if names[-1] != "torch":
            yield HOUSE_RULE, f"requires {other} besides torch"
    if names.count("torch") > 1:
        yield ERROR, "requires torch more than once"


def _same(requirement: Requirement, text: str) -> bool:
    other = Requirement(text)
    return requirement.specifier == other.specifier and requirement.marker is None and not requirement.extras


def _stable(audited: AuditedWheel) -> Found:
    for name, symbols in sorted(audited.unstable.items()):
        where = "libtorch's C++ interface, which a stable wheel may not use"
        yield ERROR, f"{name} uses symbols of {where}: {listed(symbols)}"
    oldest = min(map(int, re.findall(r"cp3(\d+)", audited.wheel.name.python)), default=0)
    for name, library in audited.named_libraries:
        if "libtorch_python.so" in library.needed:
            yield ERROR, f"{name} needs libtorch_python.so, which is built for one Python"
        try:
            symbols = unlimited_python_symbols(library, (3, oldest))
        except ImportError:
            yield ERROR, f"{name} uses symbols of CPython; install abi3info to check them"
            continue
        if symbols:
            yield ERROR, f"{name} uses what CPython's limited API of 3.{oldest} lacks: {listed(symbols)}"
    torch = audited.torch
    if torch is not None and not any(clause.operator in _FLOORS for clause in torch.specifier):
        yield ERROR, f"requires {torch}, without the oldest torch whose stable interface it uses"
    elif torch is not None and pinned_series(torch.specifier):
        yield WARNING, f"requires {torch}: one torch only, though its ABI is stable"


def pinned_series(specifier: SpecifierSet) -> str:
    """Return the one torch series that a requirement allows: `2.11` of `==2.11.*`; empty for several."""
    for clause in specifier:
        parts = clause.version.removesuffix(".*").split(".")
        if (clause.operator == "==" and len(parts) >= 2) or (clause.operator == "~=" and len(parts) == 3):
            return ".".join(parts[:2])
    return ""


def _python(audited: AuditedWheel) -> Found:
    text = str(audited.wheel.metadata["Requires-Python"] or "")
    numbers = re.findall(r"cp3(\d+)", audited.wheel.name.python)
    try:
        excluded = [f"cp3{number}" for number in numbers if f"3.{number}" not in SpecifierSet(text)]
    except ValueError:
        yield ERROR, f"Requires-Python: {text[:200]!r} is not a version specifier"
        return
    if audited.stable and "3.99" not in SpecifierSet(text):
        yield ERROR, f"Requires-Python: {text} excludes newer Pythons, which its ABI is for"
    for tag in excluded:
        yield ERROR, f"Requires-Python: {text} excludes the Python of its own tag, {tag}"

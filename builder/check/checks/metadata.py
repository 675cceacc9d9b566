"""Checks of METADATA, WHEEL and the file's name: who it is, what it is for and what it requires."""

from __future__ import annotations

import re

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from builder.check.checks.audited_wheel import ERROR, HOUSE_RULE, AuditedWheel, Found, listed
from builder.check.checks.symbols import python_symbols, stable_torch_symbols, torch_functions
from builder.target.architectures import Selection
from builder.target.targets import local_version

_OTHERS = {"torch", "triton", "nvidia", "numpy"}
_FLOORS = {">=", ">", "==", "~="}


def names(audited: AuditedWheel) -> Found:
    """METADATA, WHEEL and the file's name agree, and the wheel installs one package."""
    wheel, label, metadata = audited.wheel, audited.label, audited.wheel.metadata
    for problem in audited.metadata_problems():
        if not problem.startswith(("license", "requires")):
            yield ERROR, f"METADATA: {problem}"
    name, version = metadata.get("name", ""), metadata.get("version", "")
    if canonicalize_name(name) != canonicalize_name(label.distribution):
        yield ERROR, f"METADATA has the name {name!r} and the file name has {label.distribution!r}"
    if wheel.dist_info != f"{label.distribution}-{label.version}.dist-info":
        yield ERROR, f"the folder {wheel.dist_info} is not named for the file"
    try:
        differ = Version(version) != Version(label.version.replace("_", "+", 1))
    except InvalidVersion:
        differ = True
    if differ:
        yield ERROR, f"METADATA has the version {version} and the file name has {label.version}"
    tags = {str(tag) for tag in wheel.wheel_metadata.get_all("Tag", [])}
    if tags != {str(tag) for tag in label.tags}:
        yield ERROR, f"the file WHEEL has the tags {', '.join(sorted(tags)) or 'none'}, unlike the file name"
    if str(wheel.wheel_metadata["Root-Is-Purelib"]).strip().lower() == "true" and audited.libraries:
        yield ERROR, "the file WHEEL says that it is pure Python, and it contains shared libraries"
    own = {wheel.dist_info, label.distribution, f"{label.distribution}.libs"}
    for entry in sorted({member.split("/")[0] for member in wheel.names} - own):
        level = ERROR if entry.lower() in _OTHERS else HOUSE_RULE
        yield level, f"it installs {entry} beside {label.distribution}"


def version(audited: AuditedWheel) -> Found:
    """The local version says what the wheel is for."""
    label = audited.label
    if audited.expect is not None:
        chosen = tuple(sorted(audited.architectures))
        selection = Selection(chosen, "", chosen == audited.expect.architectures)
        expected = local_version(audited.expect, selection)
        if label.local_version != expected:
            yield (
                ERROR,
                f"the version {label.version} should end in +{expected}, by its target and its cubins",
            )
    elif label.universal != audited.stable and (label.universal or label.torch):
        yield ERROR, f"the version {label.version} disagrees with the tag's ABI, {label.abi}"


def requirement(audited: AuditedWheel) -> Found:
    """The wheel requires the torch that its symbols need, and a Python that fits its tag."""
    torch = audited.torch
    for problem in audited.metadata_problems("requires"):
        yield ERROR, problem
    yield from _others(audited)
    if audited.expect is not None and (torch is None or not _same(torch, audited.expect.torch_requirement)):
        yield ERROR, f"requires {torch or 'no torch'}, and the target says {audited.expect.torch_requirement}"
    elif torch is None and not audited.unstable:
        yield HOUSE_RULE, "METADATA requires no torch"
    for name, library in audited.named_libraries:
        if symbols := python_symbols(library):
            level = ERROR if audited.stable else HOUSE_RULE
            yield level, f"{name} uses symbols of CPython, so it is for one Python: {listed(symbols)}"
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
        yield from _functions(audited, torch)
    yield from _python(audited)


def _functions(audited: AuditedWheel, torch: Requirement) -> Found:
    """Each torch that is allowed has each function of torch's C interface that is used."""
    known = torch_functions()
    for name, library in audited.named_libraries:
        used = stable_torch_symbols(library)
        if too_new := [symbol for symbol in used if symbol in known and _allows_older(torch, known[symbol])]:
            series = max((known[symbol] for symbol in too_new), key=Version)
            yield (
                ERROR,
                f"{name} uses {listed(too_new)}, for which torch {series} is needed; requires {torch}",
            )
        if unknown := [symbol for symbol in used if symbol not in known]:
            yield HOUSE_RULE, f"{name} uses what is not known of torch's C interface: {listed(unknown)}"


def _allows_older(torch: Requirement, series: str) -> bool:
    major, minor = series.split(".")
    last_release_before = f"{major}.{int(minor) - 1}.99"
    return bool(torch.specifier) and torch.specifier.contains(last_release_before)


def _others(audited: AuditedWheel) -> Found:
    """Requirements beside the one on torch."""
    for line in audited.wheel.metadata.get("requires_dist", []):
        try:
            other = Requirement(line)
        except InvalidRequirement:
            continue  # a problem of METADATA
        if canonicalize_name(other.name) != "torch":
            yield HOUSE_RULE, f"requires {other} besides torch"
        if other.url:
            yield ERROR, f"requires {other.name} from an address: {other.url}"


def _same(requirement: Requirement, text: str) -> bool:
    other = Requirement(text)
    return requirement.specifier == other.specifier and requirement.marker is None and not requirement.extras


def _stable(audited: AuditedWheel) -> Found:
    for name, symbols in sorted(audited.unstable.items()):
        where = "libtorch's C++ interface, which a stable wheel may not use"
        yield ERROR, f"{name} uses symbols of {where}: {listed(symbols)}"
    for name, library in audited.named_libraries:
        if "libtorch_python.so" in library.needed:
            yield ERROR, f"{name} needs libtorch_python.so, which is built for one Python"
    torch = audited.torch
    if torch is not None and not any(clause.operator in _FLOORS for clause in torch.specifier):
        yield ERROR, f"requires {torch}, without the oldest torch whose stable interface it uses"


def pinned_series(specifier: SpecifierSet) -> str:
    """Return the one torch series that a requirement allows: `2.11` of `==2.11.*`; empty for several."""
    for clause in specifier:
        parts = clause.version.removesuffix(".*").split(".")
        if (clause.operator == "==" and len(parts) >= 2) or (clause.operator == "~=" and len(parts) == 3):
            return ".".join(parts[:2])
    return ""


def _python(audited: AuditedWheel) -> Found:
    text = audited.wheel.metadata.get("requires_python", "")
    try:
        allowed = SpecifierSet(text)
    except InvalidSpecifier:
        return  # a problem of METADATA
    if audited.stable and "3.99" not in allowed:
        yield ERROR, f"Requires-Python: {text} excludes newer Pythons, which its ABI is for"
    for number in re.findall(r"cp3(\d+)", audited.label.python):
        if f"3.{number}" not in allowed:
            yield ERROR, f"Requires-Python: {text} excludes the Python of its own tag, cp3{number}"

"""Checks of the GPU code: which architectures each extension contains, and which it should contain."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from builder.check.checks.audited_wheel import (
    ERROR,
    EXTENSIONS,
    HOUSE_RULE,
    LEAST,
    ONLY,
    WARNING,
    AuditedWheel,
    Found,
)
from builder.check.checks.symbols import stem
from builder.target.architectures import Architecture, join
from builder.util.errors import ArchitectureError
from builder.wheel.fatbin import cubin_architectures, ptx_architectures


def architectures(audited: AuditedWheel) -> Found:
    """Each extension is there, and contains the cubins for the architectures that the wheel claims."""
    try:
        claimed = claimed_architectures(audited)
    except ArchitectureError as error:
        yield ERROR, error.message
        return
    if not audited.extensions:
        yield ERROR, "no library in it contains GPU code"
    for path, part in audited.extensions.items():
        name, cubins = PurePosixPath(path).name, frozenset(cubin_architectures(part.codes))
        if not cubins:
            yield ERROR, f"{name} contains no GPU code"
        expected = expected_architectures(stem(path), claimed)
        if expected is not None and (missing := expected - cubins):
            yield ERROR, f"{name} has no cubin for {join(sorted(missing))}"
        base = Architecture.parse(LEAST.get(stem(path), "9.0a"))
        for container in sorted({code.container for code in part.codes}):
            own = [code for code in part.codes if code.container == container]
            file = f"the {container + 1}. of its source files"
            if lacking := cubins - set(cubin_architectures(own)):
                yield HOUSE_RULE, f"{name} has no cubin for {join(sorted(lacking))} of {file}"
            # Code with a suffix runs on no newer GPU, as PTX neither.
            if base in claimed and not base.feature and base not in ptx_architectures(own):
                yield HOUSE_RULE, f"{name} has no PTX for {base} of {file}, so newer GPUs can't run it"
        if extra := cubins - claimed:
            yield WARNING, f"{name} has cubins beyond what the wheel claims: {join(sorted(extra))}"
        if any(code.debug for code in part.codes):
            yield ERROR, f"{name} has GPU code made for a debugger (-G), which is many times slower"
    if missing := claimed - audited.architectures:
        yield ERROR, f"no extension has a cubin for {join(sorted(missing))}"
    present = {stem(name) for name in audited.extensions}
    wanted = {name for name in EXTENSIONS if expected_architectures(name, claimed)}
    for name in sorted(wanted - present) if present & EXTENSIONS else ():
        yield ERROR, f"the extension {name} is missing"


def expected_architectures(name: str, claimed: Collection[Architecture]) -> frozenset[Architecture] | None:
    """Return the cubins that an extension must contain; None for a name that is not one of SageAttention's.

    Args:
        name: The extension's, without endings: `_qattn_sm89`.
        claimed: The architectures that the wheel is for.
    """
    if name in ONLY:
        return frozenset(claimed) & {Architecture.parse(ONLY[name])}
    if name in LEAST:
        least = Architecture.parse(LEAST[name])
        return frozenset(architecture for architecture in claimed if architecture >= least)
    return None


def claimed_architectures(audited: AuditedWheel) -> frozenset[Architecture]:
    """Return what a wheel says it is for: by its version, its SBOM, its target, or at last its cubins.

    Raises:
        ArchitectureError: One of them is not an architecture.
    """
    if audited.label.architectures:
        return frozenset(Architecture.parse(f"sm_{number}") for number in audited.label.architectures)
    properties = audited.sbom.subject.properties if audited.sbom else {}
    if stated := properties.get("architectures"):
        return frozenset(map(Architecture.parse, stated.split()))
    return frozenset(audited.expect.architectures) if audited.expect is not None else audited.architectures

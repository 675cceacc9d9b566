"""Compares libraries with what a manylinux tag promises (PEP 600), by auditwheel's own policies."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from auditwheel.architecture import Architecture  # type: ignore[import-untyped]
from auditwheel.libc import Libc  # type: ignore[import-untyped]
from auditwheel.policy import Policy, WheelPolicies  # type: ignore[import-untyped]

from builder.target.machines import MACHINES, machine_of
from builder.util.errors import RepairError
from builder.wheel.elf import SharedLibrary


def load_policy(tag: str) -> Policy:
    """Return the promise of a tag, such as `manylinux_2_34_x86_64` or `manylinux2014_x86_64`.

    Raises:
        RepairError: auditwheel has no such tag.
    """
    machine = machine_of(tag)
    try:
        return _policies(machine.name if machine else "").get_policy_by_name(tag)
    except (LookupError, ValueError):
        raise RepairError(
            f"{tag} is not a platform tag that auditwheel knows.", "Use one such as manylinux_2_34_x86_64."
        ) from None


def too_new(library: SharedLibrary, policy: Policy) -> list[str]:
    """Return the symbol versions that a library requires and a policy lacks.

    Each is a phrase: `GLIBC_2.38 of libc.so.6 (__isoc23_strtol)`.
    """
    phrases = []
    for soname, versions in library.versions.items():
        for version in versions:
            prefix, _, number = version.partition("_")
            if number not in policy.symbol_versions.get(prefix, {number}):
                symbols = [symbol.name for symbol in library.undefined if symbol.version == version]
                shown = ", ".join(symbols[:3] + ["..."] * (len(symbols) > 3))
                phrases.append(f"{version} of {soname}" + f" ({shown})" * bool(symbols))
    return phrases


def way_out(policy: Policy) -> str:
    """Return what to do about symbols that are too new, in one sentence."""
    image = "_".join(policy.name.split("_")[:3])
    return f"Build in the {image} image (docker compose up), or on a system with that glibc or an older one."


def reached_tag(libraries: Iterable[SharedLibrary]) -> str:
    """Return the oldest manylinux tag whose symbol versions satisfy all libraries; empty if none does."""
    libraries = tuple(libraries)
    for machine in MACHINES:
        if all(library.machine == machine.elf for library in libraries):
            policies = _policies(machine.name)
            required: dict[str, set[str]] = {}
            for library in libraries:
                for soname, versions in library.versions.items():
                    required.setdefault(soname, set()).update(versions)
            policy = policies.versioned_symbols_policy(required)
            return "" if policy == policies.linux else policy.name
    return ""


@lru_cache
def _policies(machine: str) -> WheelPolicies:
    return WheelPolicies(libc=Libc.GLIBC, arch=Architecture(machine))

"""Says what a manylinux tag promises (PEP 600), and which symbols of a library break that promise.

The figures are auditwheel's own, from the policy file of the pinned package, so that the check before a
repair agrees with the repair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from builder.target.machines import MACHINES, machine_of
from builder.util.errors import RepairError
from builder.wheel.elf import SharedLibrary

_TAG = re.compile(r"manylinux_(?P<major>\d+)_(?P<minor>\d+)_(?P<machine>\w+)")
# First g++ whose libstdc++ has the version (libstdc++ manual, "ABI Policy and Guidelines").
_FIRST_GXX = {
    "GLIBCXX_3.4.30": "12",
    "GLIBCXX_3.4.31": "13",
    "GLIBCXX_3.4.32": "13.2",
    "GLIBCXX_3.4.33": "14",
    "GLIBCXX_3.4.34": "15",
}


@dataclass(frozen=True)
class Policy:
    """One manylinux tag's promise.

    Attributes:
        tag: `manylinux_2_34_x86_64`.
        glibc: `(2, 34)`.
        versions: Prefix (`GLIBC`, `GLIBCXX`, `CXXABI`, ...) -> the versions of it that may be required.
        libraries: SONAMEs that every such system has.
    """

    tag: str
    glibc: tuple[int, int]
    versions: Mapping[str, frozenset[str]]
    libraries: frozenset[str]


@dataclass(frozen=True)
class Violation:
    """A symbol version that a policy doesn't have.

    Attributes:
        library: SONAME of the library that it is required of: `libc.so.6`.
        version: `GLIBC_2.38`.
        symbols: The symbols that have it.
        newest: The newest version of the same prefix that the policy has: `GLIBC_2.34`.
    """

    library: str
    version: str
    symbols: tuple[str, ...]
    newest: str

    def __str__(self) -> str:
        named = f" ({', '.join(self.symbols[:3])}{', ...' if len(self.symbols) > 3 else ''})"
        return f"{self.version} of {self.library}{named if self.symbols else ''}, beyond {self.newest}"


def load_policy(tag: str) -> Policy:
    """Return the promise of a PEP 600 tag, or of one of its older names (`manylinux2014_x86_64`).

    If auditwheel has no policy for its glibc, the next older policy counts, with the glibc versions up to
    that one.

    Raises:
        RepairError: It is not such a tag, or older than every policy.
    """
    machine = machine_of(tag)
    known = _policies(machine.name) if machine else ()
    for policy, aliases in known:
        if tag == policy.tag or tag in aliases:
            return policy
    match = _TAG.fullmatch(tag)
    if match is None or not known:
        names = " or ".join(one.name for one in MACHINES)
        raise RepairError(
            f"{tag} is not a manylinux tag for {names}.", "Use one such as manylinux_2_34_x86_64."
        )
    glibc = (int(match["major"]), int(match["minor"]))
    older = [policy for policy, _ in known if policy.glibc <= glibc]
    if not older:
        raise RepairError(f"{tag}: no policy is that old.", f"The oldest is {known[0][0].tag}.")
    base = older[-1]
    newer = {f"{glibc[0]}.{minor}" for minor in range(base.glibc[1], glibc[1] + 1)}
    versions = {**base.versions, "GLIBC": base.versions["GLIBC"] | newer}
    return Policy(tag, glibc, versions, base.libraries)


def violations(library: SharedLibrary, policy: Policy) -> tuple[Violation, ...]:
    """Return the symbol versions that a library requires and the policy doesn't have."""
    found: list[Violation] = []
    for needed, versions in library.versions.items():
        for version in versions:
            prefix, _, number = version.partition("_")
            allowed = policy.versions.get(prefix)
            if allowed is not None and number not in allowed:
                newest = f"{prefix}_{max(allowed, key=_sort_key)}" if allowed else f"no {prefix}"
                symbols = tuple(symbol.name for symbol in library.undefined if symbol.version == version)
                found.append(Violation(needed, version, symbols, newest))
    return tuple(found)


def reached_tag(libraries: Iterable[SharedLibrary]) -> str:
    """Return the oldest manylinux tag whose symbol versions satisfy all libraries; empty if none does."""
    examined = tuple(libraries)
    for machine in MACHINES:
        if all(library.machine == machine.elf for library in examined):
            for policy, _ in _policies(machine.name):
                if not any(violations(library, policy) for library in examined):
                    return policy.tag
    return ""


def way_out(found: Iterable[Violation], policy: Policy) -> str:
    """Return what to do about symbols that are too new, in one sentence."""
    image = "_".join(policy.tag.split("_")[:3])
    glibc = ".".join(map(str, policy.glibc))
    ways = [f"Build in the {image} image (docker compose up)"]
    versions = {violation.version for violation in found}
    too_new = sorted((v for v in versions if v in _FIRST_GXX), key=lambda v: _sort_key(v.partition("_")[2]))
    if any(version.startswith("GLIBC_") for version in versions):
        ways.append(f"on a system with glibc {glibc} or older")
    if too_new:
        ways.append(f"with a g++ older than {_FIRST_GXX[too_new[0]]}")
    elif any(version.startswith(("GLIBCXX_", "CXXABI_", "GCC_")) for version in versions):
        ways.append("with an older g++")
    return ", or ".join(ways) + "."


def _sort_key(version: str) -> tuple[int, ...]:
    # Names without numbers (`ABI_DT_RELR`, `TM_1`) sort below all others.
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)*", version) else ()


@lru_cache
def _policies(machine: str) -> tuple[tuple[Policy, tuple[str, ...]], ...]:
    """A machine's policies from the oldest glibc to the newest, with their other names."""
    text = (files("auditwheel.policy") / "manylinux-policy.json").read_text(encoding="utf-8")
    table: list[dict[str, Any]] = json.loads(text)
    found: list[tuple[Policy, tuple[str, ...]]] = []
    for entry in table:
        match = _TAG.fullmatch(f"{entry['name']}_{machine}")
        if match is None or machine not in entry["symbol_versions"]:
            continue
        symbol_versions: dict[str, list[str]] = entry["symbol_versions"][machine]
        policy = Policy(
            tag=match[0],
            glibc=(int(match["major"]), int(match["minor"])),
            versions={prefix: frozenset(numbers) for prefix, numbers in symbol_versions.items()},
            libraries=frozenset(entry["lib_whitelist"]),
        )
        found.append((policy, tuple(f"{alias}_{machine}" for alias in entry["aliases"])))
    return tuple(sorted(found, key=lambda item: item[0].glibc))

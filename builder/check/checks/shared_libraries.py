"""Checks of the shared libraries: what they need, what is bundled, where they search, what they contain."""

from __future__ import annotations

import re
from os.path import normpath
from pathlib import PurePosixPath

from builder.check.checks.audited_wheel import (
    ERROR,
    HOUSE_RULE,
    LEAST,
    NOTE,
    ONLY,
    WARNING,
    AuditedWheel,
    Found,
    listed,
)
from builder.check.checks.symbols import owner_of_copy, stem
from builder.target.machines import machine_of
from builder.util.errors import RepairError
from builder.wheel.libraries import (
    CUDA_RUNTIME,
    DRIVER,
    PYTHON,
    TORCH,
    TORCH_CUDA,
    load_policy,
    owner_of,
    reached_tag,
    too_new,
    way_out,
)

_EXTENSION_SUFFIX = re.compile(r"\.cpython-(?P<number>\d+)(?:-[\w-]+)?\.so")


def tag(audited: AuditedWheel) -> Found:
    """The libraries fit the wheel's tag, and the tag fits the target."""
    for platform in audited.platforms:
        if audited.libraries and not re.match("(many|musl)?linux", platform):
            yield ERROR, f"it has shared libraries for Linux, and the tag says {platform}"
        if platform.startswith("manylinux"):
            try:
                policy = load_policy(platform)
            except RepairError as error:
                yield ERROR, error.message
                continue
            for name, library in audited.named_libraries:
                for symbols in too_new(library, policy):
                    yield ERROR, f"{name} needs {symbols}; {way_out(policy)}"
    if audited.label.platform.startswith("linux_"):
        yield NOTE, f"its symbols fit {reached_tag(audited.libraries.values()) or 'no manylinux tag'}"
    machines = {machine for machine in map(machine_of, audited.platforms) if machine}
    for name, library in audited.named_libraries:
        if others := sorted(machine.name for machine in machines if machine.elf != library.machine):
            yield ERROR, f"{name} is for {library.machine}, and the tag says {', '.join(others)}"
        match = _EXTENSION_SUFFIX.search(name)
        if match and f"cp{match['number']}" not in audited.label.abi.split("."):
            yield ERROR, f"{name} is for CPython {match['number']}, and the tag says {audited.label.abi}"
    if (expect := audited.expect) is not None:
        allowed = [expect.wheel_tag(end) for end in (f"linux_{expect.machine.name}", expect.platform_tag)]
        if audited.label.tag not in allowed:
            yield ERROR, f"the target {expect.name} makes wheels tagged {' or '.join(allowed)}"


def libraries(audited: AuditedWheel) -> Found:
    """Each library that is needed is in the wheel, or something else provides it."""
    for name, library in audited.named_libraries:
        for soname in library.needed:
            needs = f"{name} needs {soname}"
            major, cuda = soname.rpartition(".")[2], audited.label.cuda
            other_cuda = cuda and major.isdigit() and major != cuda.split(".")[0]
            if owner_of_copy(soname) is CUDA_RUNTIME and other_cuda:
                yield ERROR, f"{needs}, and the wheel is for CUDA {cuda}"
            if soname in audited.inside:
                continue
            owner = owner_of(soname, audited.system_libraries)
            if owner is None:
                yield ERROR, f"{needs}, which neither torch nor the driver nor the system provides"
            elif owner is PYTHON:
                yield ERROR, f"{needs}: {PYTHON.why}"
            elif owner is DRIVER:
                yield HOUSE_RULE, f"{needs}: it can't be imported where there is no driver"
            elif owner is CUDA_RUNTIME and audited.label.platform.startswith("manylinux"):
                yield HOUSE_RULE, f"{needs}, which the tag {audited.label.platform} doesn't promise"


def bundled(audited: AuditedWheel) -> Found:
    """The wheel contains SageAttention's libraries and the CUDA runtime, and no torch or driver."""
    names = [(PurePosixPath(name).name, owner_of_copy(name)) for name in audited.contents]
    for owner in (TORCH, DRIVER, TORCH_CUDA, PYTHON):
        if copies := [name for name, brought_by in names if brought_by is owner]:
            level = WARNING if owner is TORCH_CUDA else ERROR
            yield level, f"it contains its own copy of {owner.name}: {', '.join(copies)}: {owner.why}"
    for name in audited.libraries:
        if stem(name) not in LEAST | ONLY and owner_of_copy(name) is None:
            yield HOUSE_RULE, f"{name} is not a library of SageAttention"


def stack(audited: AuditedWheel) -> Found:
    """No library asks for an executable stack."""
    for name, library in audited.named_libraries:
        if library.executable_stack:
            yield ERROR, f"{name} makes the process's stack executable; newer systems refuse to load it"


def debug(audited: AuditedWheel) -> Found:
    """No library has debug sections."""
    for name, library in audited.named_libraries:
        if library.debug_sections:
            yield HOUSE_RULE, f"{name} has debug sections ({listed(library.debug_sections)})"


def rpath(audited: AuditedWheel) -> Found:
    """Libraries are searched for only inside the wheel."""
    folders = {str(parent) for name in audited.contents for parent in PurePosixPath(name).parents}
    for name, library in audited.libraries.items():
        for entry in (*library.rpath, *library.runpath):
            origin = re.match(r"\$(?:ORIGIN|\{ORIGIN\})(?=/|$)", entry)
            if origin is None:
                yield ERROR, f"{name} searches {entry or 'the current folder'} for libraries"
                continue
            place = normpath(f"{PurePosixPath(name).parent}/{entry[origin.end() :]}")
            if place not in folders:
                level = ERROR if place.startswith("..") else HOUSE_RULE
                yield level, f"{name} searches {entry} for libraries, which is not in the wheel"

"""Checks of the file and of what lies in it: RECORD, paths of the build machine, size."""

from __future__ import annotations

import re

from builder.check.checks.audited_wheel import ERROR, HOUSE_RULE, AuditedWheel, Found, listed
from builder.wheel.wheelfile import record_problems

_ASSET_BYTES = 2 * 1024**3 - 1  # GitHub's limit for a file of a release
_LARGEST_BYTES = 60 * 10**6  # larger ones are built wrongly: all wheels of this project are far smaller


def record(audited: AuditedWheel) -> Found:
    """RECORD has the right digest for each file, and each library can be read."""
    for problem in (*record_problems(audited.wheel), *audited.unreadable):
        yield ERROR, problem


def files(audited: AuditedWheel) -> Found:
    """No file is left over from a build, or something else than its name says."""
    for name, part in audited.contents.items():
        if name.endswith((".pyc", ".pyo")):
            yield HOUSE_RULE, f"{name} is byte code, which Python runs in place of the source"
        if re.search(r"\.so(\.\d+)*$", name) and not part.elf:
            yield ERROR, f"{name} is not a shared library"


def paths(audited: AuditedWheel) -> Found:
    """No file contains a path of the machine that built it."""
    for name, part in audited.contents.items():
        # Upstream's README and the patches are text that people wrote.
        written = name.startswith(audited.wheel.in_dist_info("patches/")) or name.endswith(
            ("/METADATA", ".md", ".txt", "/LICENSE")
        )
        if part.build_paths and not written:
            count = len(part.build_paths)
            where = f"{count} path{'s' * (count > 1)} of the machine that built it"
            yield HOUSE_RULE, f"{name} contains {where}: {listed(part.build_paths, 2)}"


def size(audited: AuditedWheel) -> Found:
    """A release can hold the wheel, and the wheel is not unusually large."""
    size_bytes = audited.wheel.path.stat().st_size
    if size_bytes > _ASSET_BYTES:
        yield ERROR, f"{size_bytes / 1e9:.2f} GB is more than a release can hold (2 GiB)"
    elif size_bytes > _LARGEST_BYTES:
        yield HOUSE_RULE, f"{size_bytes / 1e6:.1f} MB is more than {_LARGEST_BYTES / 1e6:.0f} MB"

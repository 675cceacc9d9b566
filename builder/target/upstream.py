"""The pinned release of SageAttention that a target builds, as `patches/<tag>/upstream.toml` describes it.

The file is beside the patches because it changes with them: a patch series is for one release. Beside it,
`upstream.sha256` lists each file of the release that a build reads, as `sha256sum` prints it. A source whose
files are these is the release, wherever it comes from.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from builder.target.architectures import Architecture
from builder.util import toml
from builder.util.errors import TargetError
from builder.util.files import ROOT

PATCHES_DIR = ROOT / "patches"
FILE_NAME = "upstream.toml"
SUMS_NAME = "upstream.sha256"
BY_CONTENT = "{sha256}"  # in the address of a mirror that has each file at an address of its own


@dataclass(frozen=True)
class Release:
    """One upstream release.

    Attributes:
        version: As upstream's `setup.py` has it.
        revision: Of the patches beside this file: raised when what a wheel does changes.
        commit: The commit that `tag` names.
        url: Address of the source archive, and `sha256` its digest.
        mirrors: Further addresses of it, or with `{sha256}` in it, of each of its files.
        source_date_epoch: The commit's time in seconds since 1970, for reproducible archives.
        license: SPDX expression.
        architectures: What the source, with the patches beside this file, compiles for.
        files: SHA-256 of each file that a build reads, by its path.
    """

    version: str
    revision: int
    tag: str
    commit: str
    url: str
    sha256: str
    source_date_epoch: int
    license: str
    architectures: tuple[Architecture, ...]
    files: Mapping[str, str]
    mirrors: tuple[str, ...] = ()


@lru_cache
def load_release(patches_dir: Path) -> Release:
    """Return the release that a folder of patches, such as `patches/v2.2.0`, is for."""
    path = patches_dir / FILE_NAME
    values = toml.load(path, TargetError)
    lines = (patches_dir / SUMS_NAME).read_text(encoding="utf-8").splitlines()
    files = {line[66:]: line[:64] for line in lines}
    return toml.convert(Release, values, path, TargetError, files=files)


@lru_cache
def build_constants(patches_dir: Path) -> Mapping[str, Any]:
    """Return the constants of `build_extensions.py`, which decides what is compiled, and how.

    `ARCHITECTURES` has the lowest CUDA version that compiles each architecture, `WITH_PTX` those whose PTX
    goes along. The file is only read: what it imports is there in a build alone.
    """
    constants = {}
    for node in ast.parse((patches_dir / "files" / "build_extensions.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                constants[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # not a literal
    return constants

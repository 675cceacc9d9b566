"""Installs Python environments: torch for the target's CUDA version, and the compiler's packages.

torch comes from the target's package index, or from the default index if that one can't be reached. Either
way the torch that was installed decides: its `torch.version.cuda` has to equal the target's.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.util import process
from builder.util.errors import TorchEnvironmentError
from builder.util.limits import REACHABLE_SECONDS
from builder.util.log import say, warn
from builder.util.paths import ROOT

_LOCK = ROOT / "builder" / "constraints.txt"


@dataclass(frozen=True)
class InstalledTorch:
    """The torch of an environment, as its `torch/version.py` says.

    Attributes:
        version: With its local version, where it has one: `2.11.0+cu130`.
        cuda: The CUDA version that it is built for, `13.0`; None for one without CUDA.
    """

    version: str
    cuda: str | None


def install(target: Target, options: BuildOptions, python: Path) -> str:
    """Install the target's torch and the packages of its CUDA compiler into an environment, in one command.

    Nothing happens if they are already installed. With `--cuda-home` the compiler's packages are omitted.

    Args:
        target: What will be built.
        options: `torch_index` and `cuda_home` count.
        python: The environment's Python.

    Returns:
        torch's own version: `2.11.0+cu130`.

    Raises:
        TorchEnvironmentError: It can't be installed, or is built for a different CUDA version.
    """
    site_packages = _site_packages(python)
    wanted = [f"torch=={target.torch}", *(() if options.cuda_home else target.toolchain_packages)]
    there = installed_torch(site_packages)
    fits = there is not None and not why_not_torch(there, target)
    if there and fits and not unmet(site_packages, wanted):
        say(f"  torch {there.version}, built for CUDA {there.cuda}: already installed")
        return there.version
    if there and not fits:
        # Installers keep a torch of the right version, whatever CUDA it is built for.
        _pip(python, "uninstall", ["torch"])
    _install_from(_choose_index(target, options), target, options, python, wanted)
    return check_torch(site_packages, target).version


def make_clean_venv(
    path: Path, python: str | Path, requirements: Sequence[str], torch_index: str | None = None
) -> Path:
    """Make a virtual environment that holds only what is asked for.

    Args:
        path: Its folder; an older one is replaced.
        python: A version (`3.12`) or the path of a Python.
        requirements: What is installed: requirements, or paths of wheels.
        torch_index: Package index for torch, tried before the default one; None is the default one.

    Returns:
        The venv's Python.

    Raises:
        TorchEnvironmentError: The venv can't be made, or something can't be installed.
    """
    if _has_uv():
        made = _call(
            [sys.executable, "-m", "uv", "venv", "--quiet", "--clear", "--python", str(python), str(path)]
        )
    else:
        made = _call([str(_interpreter(python)), "-m", "venv", "--clear", str(path)])
    if made != 0:
        raise TorchEnvironmentError(
            f"No virtual environment with Python {python} could be made in {path}.",
            f"Install Python {python} with its venv module.",
        )
    executable = path / "bin" / "python"
    index = torch_index if torch_index and not why_unreachable(torch_index) else None
    if requirements and _pip_install(executable, requirements, index) != 0:
        raise TorchEnvironmentError(
            f"{' '.join(map(str, requirements))} could not be installed for Python {python}; see above.",
            "Check that the package index can be reached, and has such a version for this Python.",
        )
    return executable


def install_wheel(python: Path, wheel: Path) -> None:
    """Install a wheel into an environment that meets its requirements, in place of an older one.

    Args:
        python: The environment's Python.
        wheel: The wheel.

    Raises:
        TorchEnvironmentError: It does not fit this Python, or the environment does not meet its requirements.
    """
    again = (
        ["--reinstall-package", wheel.name.split("-")[0]] if _has_uv() else ["--force-reinstall", "--no-deps"]
    )
    if _pip_install(python, [*again, wheel], None) != 0:
        raise TorchEnvironmentError(
            f"{wheel.name} can't be installed; see above.", "Check that it is for this Python."
        )


def installed_torch(site_packages: Path) -> InstalledTorch | None:
    """Return what `torch/version.py` says of an installed torch, without importing it, which takes seconds.

    Args:
        site_packages: The folder that torch is installed in.

    Returns:
        Its versions; None if there is no torch.
    """
    try:
        module = ast.parse((site_packages / "torch" / "version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
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
    if not isinstance(version, str):
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
    """Return which requirements an environment does not meet, including those of their extras.

    Args:
        site_packages: The environment's packages.
        requirements: Such as `cuda-toolkit[nvcc]==13.0.2`.

    Returns:
        The unmet ones; those of an extra as the package with the extra has them.
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
        inner = [Requirement(text) for text in distribution.requires or ()]
        for extra in requirement.extras:
            queue += [
                other
                for other in inner
                if other.marker
                and other.marker.evaluate({"extra": extra})
                and not other.marker.evaluate({"extra": ""})
            ]
    return missing


def why_unreachable(index: str) -> str:
    """Return why a package index can't serve torch; empty if it can.

    Args:
        index: Its address.
    """
    try:
        with requests.get(f"{index.rstrip('/')}/torch/", timeout=REACHABLE_SECONDS, stream=True) as answer:
            return "" if answer.ok else f"it answers {answer.status_code} {answer.reason}"
    except requests.ConnectionError:
        return "no connection"
    except requests.RequestException as error:
        return type(error).__name__


def _choose_index(target: Target, options: BuildOptions) -> str | None:
    """Return the index for torch; None for the default one."""
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


def _install_from(
    index: str | None, target: Target, options: BuildOptions, python: Path, wanted: Sequence[str]
) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as constraints:
        # Without the hashes: with one of them, pip asks for the hash of every package, torch too.
        constraints.write(re.sub(r" \\\n +--hash=\S+", "", _LOCK.read_text(encoding="utf-8")))
        constraints.flush()
        pinned = ["--constraint", constraints.name]
        if _pip_install(python, [*pinned, *wanted], index) == 0:
            return
        if index is not None and not options.torch_index:
            # Its pages can be reached and its files can't: they may be on a different host.
            warn(f"{index} does not deliver torch {target.torch}; installing it from the default index")
            if _pip_install(python, [*pinned, *wanted], None) == 0:
                return
    raise TorchEnvironmentError(
        f"{' and '.join(wanted)} could not be installed; see above.",
        "Check that a package index can be reached, and that the disk has room (up to 7 GB).",
    )


def _pip_install(python: Path, requirements: Iterable[str | Path], index: str | None) -> int:
    """Install into an environment and return the exit status."""
    source: list[str] = []
    if index and _has_uv():
        # The best version of all indexes, as pip does. By uv's own rule an index that mirrors one of the
        # compiler's packages in other versions would hide those of the default index.
        source = ["--index", index, "--index-strategy", "unsafe-best-match"]
    elif index:
        source = ["--extra-index-url", index]
    return _pip(python, "install", [*source, *map(str, requirements)])


def _pip(python: Path, command: str, arguments: Sequence[str]) -> int:
    """Run a pip command for an environment: with uv, or with its own pip if there is no uv."""
    if _has_uv():
        return _call([sys.executable, "-m", "uv", "pip", command, "--python", str(python), *arguments])
    sure = ["--yes"] if command == "uninstall" else []
    return _call([str(python), "-m", "pip", command, *sure, *arguments])


def _has_uv() -> bool:
    return importlib.util.find_spec("uv") is not None


def _interpreter(python: str | Path) -> Path:
    """Return a Python for `-m venv`, without uv to find one by its version."""
    return Path(f"python{python}") if isinstance(python, str) and python[:1].isdigit() else Path(python)


def _site_packages(python: Path) -> Path:
    if python.absolute() == Path(sys.executable).absolute():
        return Path(sysconfig.get_path("purelib"))
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    try:
        return Path(process.run([python, "-c", code]).output.strip())
    except process.CommandError as error:
        raise TorchEnvironmentError(f"{python}: {error.message}", "Give an environment's Python.") from None


def _call(command: Sequence[str]) -> int:
    """Run a command whose output the user sees, and return its exit status."""
    try:
        return process.show(command)
    except process.CommandError as error:
        warn(error.message)
        return 127

"""Finds out what is tested on what: the wheel, torch, the driver, the GPU; or why nothing can be tested."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.smoketest.attention.kernels import MODULE_FUNCTIONS
from builder.smoketest.report.outcome import ExitCode, Row, Status


@dataclass
class Found:
    """What the environment contains.

    Attributes:
        ending: Set where the test can't go on, with the reason in ``line``.
        rows: One for each import that was tried.
    """

    values: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    ending: ExitCode | None = None
    line: str = ""

    def end(self, code: ExitCode, line: str) -> Found:
        """Stop here."""
        self.ending, self.line = code, line
        return self


def look(*, device: str, import_only: bool) -> Found:
    """Import what is needed, with a row for each import, and see whether the GPU can be used.

    Args:
        device: ``cuda:0``, or ``cpu`` for a stand-in.
        import_only: Don't use the GPU.
    """
    found = Found()
    start = time.monotonic()
    found.values["python"] = platform.python_version()
    found.values["platform"] = platform.platform()
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        found.rows.append(_row("torch", f"{type(error).__name__}: {error}"))
        return found.end(ExitCode.TORCH_NOT_IMPORTABLE, f"torch can't be imported: {error}")
    found.rows.append(_row("torch", seconds=time.monotonic() - start))
    found.values |= {"torch": torch.__version__, "torch_cuda": torch.version.cuda}
    found.values["c_compiler"] = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    found.values["triton"] = _version("triton")
    found.values |= wheel_values()
    _import_package(found)
    if found.ending is not None or import_only or device == "cpu":
        return found
    return _look_at_gpu(found, torch, device)


def _import_package(found: Found) -> None:
    start = time.monotonic()
    try:
        package = importlib.import_module("sageattention")
    except Exception as error:
        found.rows.append(_row("sageattention", f"{type(error).__name__}: {error}"))
        code = ExitCode.SAGEATTENTION_NOT_IMPORTABLE
        line = f"sageattention can't be imported: {type(error).__name__}: {error}{_hint(str(error))}"
        if other := other_python():
            code = ExitCode.WHEEL_FOR_ANOTHER_PYTHON
            line = f"the wheel's modules are for {other}, and this is {sys.implementation.cache_tag}"
        found.end(code, line)
        return
    found.values["location"] = str(Path(package.__file__ or "").parent)
    found.rows.append(_row("sageattention", seconds=time.monotonic() - start))
    present = compiled_files()
    for name in MODULE_FUNCTIONS:
        found.rows.append(_import_compiled(name, present.get(name, [])))


def _import_compiled(name: str, files: list[str]) -> Row:
    names = MODULE_FUNCTIONS[name]
    try:
        module = importlib.import_module(f"sageattention.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"sageattention.{name}" and not files:
            return _row(name, "the wheel has no such module", Status.NOT_APPLICABLE)
        return _row(name, f"{error}{_hint(str(error))}")
    except Exception as error:
        return _row(name, f"{type(error).__name__}: {error}{_hint(str(error))}")
    missing = [one for one in names if not callable(getattr(module, one, None))]
    if missing:
        return _row(name, f"lacks {', '.join(missing)}")
    return _row(name, figures={"functions": float(len(names))})


def _hint(message: str) -> str:
    if "undefined symbol" in message:
        return " (the wheel was built for another torch)"
    if "libcudart" in message:
        return " (the wheel was built for another CUDA version than torch's)"
    if "libcuda.so" in message:
        return " (it needs the driver's library to be imported)"
    return ""


def _row(name: str, reason: str = "", status: Status | None = None, **more: Any) -> Row:
    status = status or (Status.FAIL if reason else Status.PASS)
    case = "import and names" if name in MODULE_FUNCTIONS else "import"
    return Row(f"import/{name}", "import", name, case, status, reason, **more)


def compiled_files(folder: Path | None = None) -> dict[str, list[str]]:
    """Return the compiled files of the installed package: module name to file names.

    Args:
        folder: The package's folder; that of the installed package by default.
    """
    folder = folder or _package_folder()
    files: dict[str, list[str]] = {}
    if folder is None:
        return files
    for path in sorted([*folder.glob("*.so"), *folder.glob("lib/*.so")]):
        files.setdefault(path.name.split(".")[0], []).append(path.name)
    return files


def other_python(folder: Path | None = None) -> str:
    """Return the Python that the package's modules are built for, if it is a different one; empty otherwise.

    Read from the file names (``_fused.cpython-311-x86_64-linux-gnu.so``), PEP 3149.
    """
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    for name, files in compiled_files(folder).items():
        tagged = [file for file in files if ".cpython-" in file]
        if tagged and not any(file == name + suffix for file in files for suffix in suffixes):
            return "-".join(tagged[0].split(".")[1].split("-")[:2])
    return ""


def _package_folder() -> Path | None:
    try:
        spec = importlib.machinery.PathFinder.find_spec("sageattention", sys.path)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


def wheel_values() -> dict[str, Any]:
    """Return version, tags, requirements and origin of the installed wheel, as its metadata has them."""
    try:
        distribution = importlib.metadata.distribution("sageattention")
    except importlib.metadata.PackageNotFoundError:
        return {"wheel_version": None}
    wheel = distribution.read_text("WHEEL") or ""
    tags = [line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:")]
    requirements = [str(one) for one in distribution.requires or []]
    return {
        "wheel_version": distribution.version,
        "wheel_tags": tags,
        "wheel_requires": requirements,
        "wheel_requires_python": distribution.metadata["Requires-Python"],
        "wheel_origin": _origin(distribution.read_text("direct_url.json")),
        "soabi": sysconfig.get_config_var("SOABI"),
    }


def _origin(direct_url: str | None) -> Any:
    """Return the archive that was installed and its hash (PEP 610), where the installer recorded them."""
    if not direct_url:
        return None
    try:
        values = json.loads(direct_url)
    except ValueError:
        return None
    return {"url": values.get("url"), **(values.get("archive_info") or {})}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _look_at_gpu(found: Found, torch: Any, device: str) -> Found:
    start = time.monotonic()
    if torch.version.cuda is None:
        return found.end(ExitCode.TORCH_WITHOUT_CUDA, f"torch {torch.__version__} is built without CUDA")
    found.values["driver"] = next(iter(ask_nvidia_smi("driver_version")), None)
    try:
        torch.cuda.init()
        index = torch.device(device).index or 0
        properties = torch.cuda.get_device_properties(index)
        torch.zeros(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except Exception as error:
        code = ending_of_cuda(str(error))
        return found.end(code, explain_cuda(code, str(error), found.values))
    capability = (properties.major, properties.minor)
    found.values |= {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "capability": f"{capability[0]}.{capability[1]}",
        "gpu_memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
    }
    missing = kernels_missing(torch, device)
    found.values["gpu_ready_s"] = round(time.monotonic() - start, 3)
    if missing:
        return found.end(
            ExitCode.GPU_NOT_IN_WHEEL,
            f"the wheel has no code for {properties.name} "
            f"(compute capability {found.values['capability']}): {missing.splitlines()[0]}",
        )
    return found


def kernels_missing(torch: Any, device: str) -> str:
    """Try a small quantisation kernel; return the error if the wheel has no code for the GPU, else nothing.

    All kernel functions but the Triton ones go through that compiled module, which is built for every
    architecture of a wheel. If it has no code but ``sageattn`` still works (through Triton), the wheel can
    be tested.
    """
    try:
        fused = importlib.import_module("sageattention._fused")
    except Exception:
        return ""
    source = torch.ones((1, 1, 64, 64), dtype=torch.float16, device=device)
    out = torch.full((1, 1, 64, 64), 77, dtype=torch.int8, device=device)
    scale = torch.full((1, 1, 1), float("nan"), dtype=torch.float32, device=device)
    quantised = _error_of(torch, device, lambda: fused.quant_per_block_int8_cuda(source, out, scale, 64, 1))
    if "no kernel image" not in quantised:
        return ""
    sageattn = importlib.import_module("sageattention").sageattn
    return quantised if _error_of(torch, device, lambda: sageattn(source, source, source)) else ""


def _error_of(torch: Any, device: str, call: Callable[[], Any]) -> str:
    """Return the error of a call, or of the operation after it; empty if there is none."""
    try:
        call()
        torch.zeros(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def ending_of_cuda(message: str) -> ExitCode:
    """Return the exit code for an error of CUDA's start-up."""
    low = message.lower()
    if "driver" in low and ("too old" in low or "insufficient" in low):
        return ExitCode.DRIVER_TOO_OLD
    if "no kernel image" in low:
        return ExitCode.GPU_NOT_IN_WHEEL
    return ExitCode.NO_GPU


def explain_cuda(code: ExitCode, message: str, values: dict[str, Any]) -> str:
    """Return a line that explains an error of CUDA's start-up."""
    first = next((line.strip() for line in message.splitlines() if line.strip()), "no message")
    torch = f"torch {values.get('torch')} (CUDA {values.get('torch_cuda')})"
    if code is ExitCode.DRIVER_TOO_OLD:
        driver = " ".join(filter(None, ("the driver", values.get("driver"))))
        return f"{driver} is too old for {torch}: {first}"
    if code is ExitCode.GPU_NOT_IN_WHEEL:
        return f"{torch} itself has no code for this GPU: {first}"
    return f"{torch} sees no GPU: {first}"


def ask_nvidia_smi(query: str, *arguments: str) -> list[str]:
    """Return what ``nvidia-smi`` answers for each GPU; empty where it can't be asked."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []

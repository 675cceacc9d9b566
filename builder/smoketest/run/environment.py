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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.smoketest.attention.kernels import MODULE_FUNCTIONS
from builder.smoketest.report import ExitCode, Row, Status


@dataclass
class Environment:
    """What is tested on what; `ending` is set where the test can't go on, with the reason in `line`."""

    values: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    ending: ExitCode | None = None
    line: str = ""

    def end(self, code: ExitCode, line: str) -> Environment:
        """Stop here."""
        self.ending, self.line = code, line
        return self

    def add(self, name: str, reason: str = "", status: Status | None = None, **more: Any) -> None:
        """Add the row of an import: failed where there is a reason."""
        status = status or (Status.FAIL if reason else Status.PASS)
        case = "import and names" if name in MODULE_FUNCTIONS else "import"
        self.rows.append(Row(f"import/{name}", "import", name, case, status, reason, **more))


def look(*, device: str, import_only: bool) -> Environment:
    """Import what is needed, with a row for each import, and see whether the GPU can be used.

    Args:
        device: ``cuda:0``, or ``cpu`` for a fake package.
        import_only: Don't use the GPU.
    """
    env = Environment()
    start = time.monotonic()
    env.values |= {"python": platform.python_version(), "platform": platform.platform()}
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        env.add("torch", f"{type(error).__name__}: {error}")
        return env.end(ExitCode.TORCH_NOT_IMPORTABLE, f"torch can't be imported: {error}")
    env.add("torch", seconds=time.monotonic() - start)
    env.values |= {"torch": torch.__version__, "torch_cuda": torch.version.cuda}
    env.values["c_compiler"] = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    try:
        env.values["triton"] = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        env.values["triton"] = None
    env.values |= _wheel()
    _import_package(env)
    if env.ending is not None or import_only or device == "cpu":
        return env
    return _look_at_gpu(env, torch, device)


def _import_package(env: Environment) -> None:
    start = time.monotonic()
    try:
        package = importlib.import_module("sageattention")
    except Exception as error:
        env.add("sageattention", f"{type(error).__name__}: {error}")
        if other := other_python():
            line = f"the wheel's modules are for {other}, and this is {sys.implementation.cache_tag}"
            env.end(ExitCode.WHEEL_FOR_ANOTHER_PYTHON, line)
        else:
            line = f"sageattention can't be imported: {type(error).__name__}: {error}{_hint(str(error))}"
            env.end(ExitCode.SAGEATTENTION_NOT_IMPORTABLE, line)
        return
    env.values["location"] = str(Path(package.__file__ or "").parent)
    env.add("sageattention", seconds=time.monotonic() - start)
    present = compiled_files()
    for name, functions in MODULE_FUNCTIONS.items():
        try:
            module = importlib.import_module(f"sageattention.{name}")
        except Exception as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name == f"sageattention.{name}"
            if absent and name not in present:
                env.add(name, "the wheel has no such module", Status.NOT_APPLICABLE)
            else:
                env.add(name, f"{type(error).__name__}: {error}{_hint(str(error))}")
            continue
        missing = [function for function in functions if not callable(getattr(module, function, None))]
        reason = f"lacks {', '.join(missing)}" if missing else ""
        env.add(name, reason, figures={"functions": float(len(functions))})


def _hint(message: str) -> str:
    if "undefined symbol" in message:
        return " (the wheel was built for another torch)"
    if "libcudart" in message:
        return " (the wheel was built for another CUDA version than torch's)"
    if "libcuda.so" in message:
        return " (it needs the driver's library to be imported)"
    return ""


def compiled_files(folder: Path | None = None) -> dict[str, list[str]]:
    """Return the compiled files of the installed package, or of a folder: module name to file names."""
    if folder is None:
        try:
            spec = importlib.machinery.PathFinder.find_spec("sageattention", sys.path)
        except (ImportError, ValueError):
            spec = None
        folder = Path(spec.origin).parent if spec and spec.origin else None
    files: dict[str, list[str]] = {}
    for path in sorted([*folder.glob("*.so"), *folder.glob("lib/*.so")]) if folder else []:
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


def _wheel() -> dict[str, Any]:
    """Return version, tags, requirements and origin of the installed wheel, as its metadata has them."""
    try:
        distribution = importlib.metadata.distribution("sageattention")
    except importlib.metadata.PackageNotFoundError:
        return {"wheel_version": None}
    wheel = distribution.read_text("WHEEL") or ""
    # The archive that was installed and its hash (PEP 610), where the installer recorded them.
    origin = json.loads(distribution.read_text("direct_url.json") or "null")
    return {
        "wheel_version": distribution.version,
        "wheel_tags": [
            line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:")
        ],
        "wheel_requires": [str(one) for one in distribution.requires or []],
        "wheel_requires_python": distribution.metadata["Requires-Python"],
        "wheel_origin": origin and {"url": origin.get("url"), **(origin.get("archive_info") or {})},
        "soabi": sysconfig.get_config_var("SOABI"),
    }


def _look_at_gpu(env: Environment, torch: Any, device: str) -> Environment:
    start = time.monotonic()
    if torch.version.cuda is None:
        return env.end(ExitCode.TORCH_WITHOUT_CUDA, f"torch {torch.__version__} is built without CUDA")
    env.values["driver"] = _driver()
    try:
        torch.cuda.init()
        properties = torch.cuda.get_device_properties(torch.device(device).index or 0)
        torch.zeros(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except Exception as error:
        return env.end(*explain_cuda(str(error), env.values))
    capability = f"{properties.major}.{properties.minor}"
    env.values |= {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "capability": capability,
        "gpu_memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
    }
    # Older GPUs than all kernels have torch's attention.
    missing = _kernels_missing(torch, device) if properties.major >= 8 else ""
    env.values["gpu_ready_s"] = round(time.monotonic() - start, 3)
    if missing:
        gpu = f"{properties.name} (compute capability {capability})"
        line = f"the wheel has no code for {gpu}: {missing.splitlines()[0]}"
        return env.end(ExitCode.GPU_NOT_IN_WHEEL, line)
    return env


def _kernels_missing(torch: Any, device: str) -> str:
    """Try a small quantisation kernel; return the error if the wheel has no code for the GPU, else nothing.

    That compiled module is built for every architecture of a wheel.
    """
    source = torch.ones((1, 1, 64, 64), dtype=torch.float16, device=device)
    out = torch.full((1, 1, 64, 64), 77, dtype=torch.int8, device=device)
    scale = torch.full((1, 1, 1), float("nan"), dtype=torch.float32, device=device)
    try:
        fused = importlib.import_module("sageattention._fused")
        fused.quant_per_block_int8_cuda(source, out, scale, 64, 1)
        torch.cuda.synchronize(device)
    except Exception as error:
        return str(error) if "no kernel image" in str(error) else ""
    return ""


def explain_cuda(message: str, values: dict[str, Any]) -> tuple[ExitCode, str]:
    """Return the exit code for an error of CUDA's start-up, and a line that explains it."""
    first = next((line.strip() for line in message.splitlines() if line.strip()), "no message")
    torch = f"torch {values.get('torch')} (CUDA {values.get('torch_cuda')})"
    low = message.lower()
    if "driver" in low and ("too old" in low or "insufficient" in low):
        driver = " ".join(filter(None, ("the driver", values.get("driver"))))
        return ExitCode.DRIVER_TOO_OLD, f"{driver} is too old for {torch}: {first}"
    if "no kernel image" in low:
        return ExitCode.GPU_NOT_IN_WHEEL, f"{torch} itself has no code for this GPU: {first}"
    return ExitCode.NO_GPU, f"{torch} sees no GPU: {first}"


def _driver() -> str | None:
    """Return the driver's version; None where it can't be asked."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(output.split()), None)

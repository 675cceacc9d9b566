"""Runs the PEP 517 build of the source tree, and says why it failed; the compiler's output goes to a log."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.compile import kill_tree
from builder.target.architectures import Selection
from builder.target.targets import Target, local_version
from builder.toolchain.cuda_home import Toolchain
from builder.util.errors import CompileError, OutOfMemoryError
from builder.util.log import detail, say

# What the user's environment may pass on to the build. All else stays out: a NVCC_APPEND_FLAGS, CPATH or
# LIBRARY_PATH that nobody remembers would change the wheel without a trace. So would the user's HOME: in
# ~/.pydistutils.cfg are options of setuptools.
_PASSED_ON = (
    *("USER", "LOGNAME", "TERM", "COLUMNS", "NO_COLOR", "TMPDIR", "TMP", "TEMP"),
    *("CI", "GITHUB_ACTIONS", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),
)
# Lines for the user: ninja's steps, and ptxas's of matrix instructions that wait for each other (C7511).
_FOR_THE_USER = re.compile(r"\[\d+/\d+\] |ptxas info\s*: \(C75")
_TAIL_LINES = 30
# The kernel ends a process that finds no memory with SIGKILL; ninja, g++, nvcc and shells each report it
# otherwise.
_NO_MEMORY = re.compile(
    r"signal 9\b|code=137\b|(?-i:\bKilled\b)|std::bad_alloc|out of memory|memory exhausted|"
    r"cannot allocate memory|memory allocation failure",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Compiled:
    """A finished PEP 517 build: the wheel, and what it cost."""

    wheel: Path
    seconds: float  # wall time
    cpu_seconds: float  # of all processes
    peak_memory_bytes: int  # largest resident set of one process


def write_settings(
    tree: Path,
    target: Target,
    selection: Selection,
    tools: Toolchain,
    *,
    torch: Path,
    jobs: int,
    launcher: Sequence[str],
) -> Path:
    """Write what `build_extensions.py` is to build into the source tree; its docstring explains the keys.

    Folders outside the tree are named by links in it, so that neither the compiler cache nor a wheel depends
    on where they are.
    """
    links = tree / ".toolchain"
    links.mkdir()
    (links / "cuda").symlink_to(tools.cuda_home)
    (links / "torch").symlink_to(torch)
    settings = {
        "architectures": [str(architecture) for architecture in selection.architectures],
        "cuda_home": ".toolchain/cuda",
        "cxx": str(tools.gxx.path),
        "torch": ".toolchain/torch",
        "jobs": jobs,
        "launcher": list(launcher),
        "local_version": local_version(target, selection),
        "requirement": target.torch_requirement,
        "abi": target.abi,
    }
    path = links / "build.json"
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return path


def environment(
    tools: Toolchain, environ: Mapping[str, str], *, settings: Path, machine: str, epoch: int, hash_seed: int
) -> dict[str, str]:
    """Return the environment variables of a build, but for the compiler cache's; few of the user's pass."""
    return {
        **{name: environ[name] for name in _PASSED_ON if name in environ},
        "PATH": tools.path(),
        "LC_ALL": "C.UTF-8",
        "HOME": "/nonexistent",  # unset, it would be looked up
        "SAGEATTENTION_BUILD": str(settings),
        # The wheel's tag is for this platform: that is how a Python is told that it builds for another one.
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        "SOURCE_DATE_EPOCH": str(epoch),
        "PYTHONHASHSEED": str(hash_seed),
    }


def run_build(
    tree: Path, out_dir: Path, log: Path, env: Mapping[str, str], *, jobs: int, echo: bool = False
) -> Compiled:
    """Build a wheel of a source tree with `python -m build`, without isolation.

    All output goes to the log, and ninja's lines and ptxas's of slow code to the user, or with `echo` all.
    `env` is the build's whole environment; `jobs` is for the message of OutOfMemoryError. Any other failure
    is a CompileError.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", kill_tree.__file__]  # the compilers are not to outlive this process
    command += [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
    command += ["--outdir", str(out_dir), str(tree)]
    detail(f"+ {shlex.join(command)}")
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tree,
        env=dict(env),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        with log.open("wb") as output, process.stdout as lines:
            for line in lines:
                output.write(line)
                output.flush()
                text = line.decode(errors="replace").rstrip()
                if echo or _FOR_THE_USER.match(text):
                    say(f"  {text}")
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise failure(log, process.returncode, jobs)
    (wheel,) = out_dir.glob("*.whl")
    return Compiled(
        wheel,
        seconds=time.monotonic() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_memory_bytes=usage.ru_maxrss * 1024,
    )


def failure(log: Path, returncode: int, jobs: int) -> CompileError:
    """Return the error for a failed build: out of memory with its remedy, or the compiler's last lines."""
    end = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    if returncode in (-signal.SIGKILL, 128 + signal.SIGKILL) or _NO_MEMORY.search(end):
        remedy = "Even one compiler process needs more memory than is free."
        if jobs > 1:
            remedy = f"Run again with --jobs {jobs // 2}; it ran {jobs}. Or give the machine more memory."
        return OutOfMemoryError(
            f"A compiler process was killed: the machine ran out of memory.\n{end}", f"{remedy} Log: {log}"
        )
    return CompileError(f"The compiler failed (status {returncode}).\n{end}", f"The whole log: {log}")

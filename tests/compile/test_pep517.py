"""A build's settings, environment, progress and costs, and the message that a failure gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.tools import target, wait_for

from builder.compile.pep517 import environment, failure, run_build, write_settings
from builder.target.architectures import Architecture, Selection
from builder.toolchain.cuda_home import Toolchain
from builder.toolchain.gxx import Gxx
from builder.util.errors import CompileError, OutOfMemoryError
from builder.util.files import ROOT

TOOLS = Toolchain(Path("/cache/cuda"), "13.0.88", (), Gxx(Path("/opt/gcc/bin/g++"), "12.2.0"), "id")
_BACKEND = """
import os, pathlib, sys
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    {body}
    name = "pkg-1-py3-none-any.whl"
    (pathlib.Path(wheel_directory) / name).write_bytes(b"wheel")
    return name
"""


def _tree(tmp_path: Path, body: str = "") -> Path:
    tree = tmp_path / "tree"
    tree.mkdir(parents=True)
    (tree / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (tree / "backend.py").write_text(_BACKEND.replace("{body}", body or "pass"))
    return tree


def test_the_settings_are_those_that_the_sources_build_file_documents(tmp_path: Path) -> None:
    selection = Selection((Architecture(8, 9), Architecture(9, 0, "a")), complete=False, reason="")
    path = write_settings(
        tmp_path, target(), selection, TOOLS, torch=tmp_path / "torch", jobs=4, launcher=("/bin/ccache",)
    )
    settings = json.loads(path.read_text())
    assert settings == {
        "architectures": ["8.9", "9.0a"],
        "cuda_home": ".toolchain/cuda",
        "cxx": "/opt/gcc/bin/g++",
        "torch": ".toolchain/torch",
        "jobs": 4,
        "launcher": ["/bin/ccache"],
        "local_version": "cu130.torch2.11.2.sm89.sm90a",
        "requirement": "torch==2.11.*",
        "abi": "native",
    }
    assert (tmp_path / ".toolchain" / "cuda").readlink() == Path("/cache/cuda")
    assert (tmp_path / ".toolchain" / "torch").readlink() == tmp_path / "torch"
    build_file = (ROOT / "patches" / "v2.2.0" / "files" / "build_extensions.py").read_text()
    assert all(f"\n    {name} " in build_file for name in settings)


def test_only_what_can_not_change_a_wheel_passes_from_the_users_environment(tmp_path: Path) -> None:
    users = dict.fromkeys(
        ("NVCC_APPEND_FLAGS", "CFLAGS", "CUDA_HOME", "HOME", "PATH", "NINJA_STATUS"), "theirs"
    )
    users["TERM"] = "xterm"
    path = tmp_path / "build.json"
    env = environment(TOOLS, users, settings=path, machine="aarch64", epoch=7, hash_seed=1)
    assert env == {
        "TERM": "xterm",
        "PATH": f"{Path(sys.executable).parent}:/opt/gcc/bin:/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": "/nonexistent",
        "SAGEATTENTION_BUILD": str(path),
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "SOURCE_DATE_EPOCH": "7",
        "PYTHONHASHSEED": "1",
    }


def test_ninjas_lines_and_slow_code_are_shown_and_the_build_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = "ptxas info    : (C7511) Potential Performance Loss"
    body = f"print('[1/2] a.cu'); print({slow!r}); print('ptxas info: 42 registers', flush=True)"
    for echo in (False, True):
        folder = tmp_path / str(echo)
        compiled = run_build(
            _tree(folder, body), folder / "out", folder / "log", dict(os.environ), jobs=1, echo=echo
        )
        output = capsys.readouterr().out
        assert f"  [1/2] a.cu\n  {slow}\n" in output
        assert ("ptxas info: 42 registers" in output) is echo
        assert "ptxas info: 42 registers" in (folder / "log").read_text()
    assert compiled.wheel.name == "pkg-1-py3-none-any.whl"
    assert compiled.cpu_seconds > 0
    assert compiled.peak_memory_bytes > 1_000_000


def test_failed_build_shows_the_logs_end_and_path(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "print('ptxas: fatal error'); sys.exit(3)")
    with pytest.raises(CompileError) as caught:
        run_build(tree, tmp_path / "out", tmp_path / "log", dict(os.environ), jobs=2)
    assert not isinstance(caught.value, OutOfMemoryError)
    assert "ptxas: fatal error" in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        ("g++: fatal error: Killed signal terminated program cc1plus", 1, True),
        ("cudafe++: killed by signal 9 (SIGKILL)", 255, True),
        ("nvcc error   : 'cicc' died due to signal 9 (Kill signal)", 1, True),
        ("sh: line 1:  4711 Killed                  nvcc -c a.cu", 1, True),
        ("ptxas fatal   : Memory allocation failure", 255, True),
        ("nvcc error   : 'cicc' died due to signal 11 (Invalid memory reference)", 1, False),
        ("FAILED: [code=137] build/objects/fused.o", 1, True),
        ("a.cu(3): error: identifier 'killed' is undefined", 2, False),
        ("cc1plus: Cannot allocate memory", 1, True),
        ("error: use of 'skilled'", 1, False),
        ("", -9, True),
        ("", 137, True),
        ("", -11, False),
    ],
)
def test_signs_of_a_kill(tmp_path: Path, line: str, code: int, expected: bool) -> None:
    (tmp_path / "log").write_text(f"{line}\nninja: build stopped\n")
    for jobs in (1, 4):
        error = failure(tmp_path / "log", code, jobs)
        assert isinstance(error, OutOfMemoryError) is expected
        assert line in error.message
        assert ("--jobs 2" in error.remedy) is (expected and jobs == 4)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_compilers_do_not_outlive_the_build(tmp_path: Path, name: str) -> None:
    """A compiler in a session of its own, as the patched tree starts each."""
    body = (
        "import subprocess; compiler = subprocess.Popen(['sleep', '300'], start_new_session=True);"
        "pathlib.Path('new').write_text(str(compiler.pid)); os.rename('new', 'compiler'); compiler.wait()"
    )
    tree = _tree(tmp_path, body)
    code = (
        "import os, signal, sys; from pathlib import Path; from builder.compile.pep517 import run_build\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop)\n"
        "tree = Path(sys.argv[1])\n"
        "run_build(tree, tree / 'out', tree / 'log', dict(os.environ), jobs=1)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tree)], cwd=ROOT, stderr=subprocess.PIPE) as build:
        assert wait_for((tree / "compiler").exists)
        compiler = Path("/proc", (tree / "compiler").read_text())
        assert compiler.exists()
        build.send_signal(getattr(signal, name))
        assert build.wait(10) != 0
        assert wait_for(lambda: not compiler.exists())

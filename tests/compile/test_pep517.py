"""A build's progress, its costs, and the message that a failure gets; run on small real PEP 517 trees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_tools import wait_for

from builder.compile.frontend import failure, run_build
from builder.util.errors import CompileError, OutOfMemoryError
from builder.util.paths import ROOT

_BACKEND = """
import json, os, pathlib, sys
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    events = os.environ.get("SAGEATTENTION_EVENTS")
    def tell(**event):
        with open(events, "a") as stream:
            stream.write(json.dumps(event) + chr(10))
    if events:
        tell(event="plan", files=["a.cu", "b.cu"])
        for name in ("a.cu", "b.cu"):
            tell(event="start", file=name)
            tell(event="done", file=name, seconds=1.5, cpu_seconds=1.25, peak_memory_bytes=1000, ok=True)
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


def test_build_reports_files_and_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = tmp_path / "events"
    env = dict(os.environ, SAGEATTENTION_EVENTS=str(events))
    compiled = run_build(
        _tree(tmp_path), tmp_path / "out", tmp_path / "log", env, jobs=1, events=events, interval_seconds=0.1
    )
    assert compiled.wheel.name == "pkg-1-py3-none-any.whl"
    assert compiled.files["b.cu"].peak_memory_bytes == 1000
    assert compiled.cpu_seconds > 0
    assert compiled.peak_memory_bytes > 1_000_000
    assert "[2/2] b.cu (2 s)" in capsys.readouterr().out


def test_failed_build_shows_the_logs_end_and_path(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "print('ptxas: fatal error'); sys.exit(3)")
    with pytest.raises(CompileError) as caught:
        run_build(tree, tmp_path / "out", tmp_path / "log", dict(os.environ), jobs=2, events=None)
    assert not isinstance(caught.value, OutOfMemoryError)
    assert "ptxas: fatal error" in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)


def test_killed_compiler_is_told_as_out_of_memory_with_the_remedy(tmp_path: Path) -> None:
    body = (
        "import subprocess; r = subprocess.run(['sh', '-c', 'kill -9 $$']).returncode;"
        "print(f'cicc: killed by signal {-r}'); sys.exit(1)"
    )
    with pytest.raises(OutOfMemoryError, match=r"--jobs 2") as caught:
        run_build(
            _tree(tmp_path, body), tmp_path / "out", tmp_path / "log", dict(os.environ), jobs=4, events=None
        )
    assert caught.value.exit_code == 12


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        ("g++: fatal error: Killed signal terminated program cc1plus", 1, True),
        ("cudafe++: killed by signal 9 (SIGKILL)", 255, True),
        ("nvcc error   : 'cicc' died due to signal 9 (Kill signal)", 1, True),
        ("sh: line 1:  4711 Killed                  nvcc -c a.cu", 1, True),
        ("ptxas fatal   : Memory allocation failure", 255, True),
        ("nvcc error   : 'cicc' died due to signal 11 (Invalid memory reference)", 1, False),
        ("csrc/fused/fused.cu: killed by signal 11", 1, False),
        ("csrc/fused/fused.cu: killed by signal 99", 1, False),
        ("a.cu(3): error: identifier 'killed' is undefined", 2, False),
        ("cc1plus: Cannot allocate memory", 1, True),
        ("ptxas fatal   : Unresolved extern function", 255, False),
        ("error: expected ';'", 1, False),
        ("error: use of 'skilled'", 1, False),
        ("", -9, True),
        ("", -11, False),
    ],
)
def test_signs_of_a_kill(tmp_path: Path, line: str, code: int, expected: bool) -> None:
    (tmp_path / "log").write_text(f"{line}\nninja: build stopped\n")
    error = failure(tmp_path / "log", code, jobs=1)
    assert isinstance(error, OutOfMemoryError) is expected
    assert line in error.message
    assert ("more memory" in error.remedy) is expected


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_compilers_do_not_outlive_the_build(tmp_path: Path, name: str) -> None:
    """A compiler in a session of its own, as the patched tree starts each."""
    body = (
        "import subprocess; compiler = subprocess.Popen(['sleep', '300'], start_new_session=True);"
        "pathlib.Path('new').write_text(str(compiler.pid)); os.rename('new', 'compiler'); compiler.wait()"
    )
    tree = _tree(tmp_path, body)
    code = (
        "import os, signal, sys; from pathlib import Path; from builder.compile.frontend import run_build\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop)\n"
        "tree = Path(sys.argv[1])\n"
        "run_build(tree, tree / 'out', tree / 'log', dict(os.environ), jobs=1, events=None)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tree)], cwd=ROOT, stderr=subprocess.PIPE) as build:
        assert wait_for((tree / "compiler").exists)
        compiler = Path("/proc", (tree / "compiler").read_text())
        assert compiler.exists()
        build.send_signal(getattr(signal, name))
        assert build.wait(10) != 0
        assert wait_for(lambda: not compiler.exists())


def test_progress_of_an_unpatched_tree_comes_from_ninjas_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "print('[1/2] nvcc -c a.cu -o build/a.o', flush=True)"
    run_build(
        _tree(tmp_path, body), tmp_path / "out", tmp_path / "log", dict(os.environ), jobs=1, events=None
    )
    assert "build/a.o" in capsys.readouterr().out


def test_python_is_the_one_that_runs_the_build(tmp_path: Path) -> None:
    body = "pathlib.Path('python').write_text(sys.executable)"
    tree = _tree(tmp_path, body)
    run_build(tree, tmp_path / "out", tmp_path / "log", dict(os.environ), jobs=1, events=None)
    assert (tree / "python").read_text() == sys.executable


def test_compilers_output_is_shown_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "print('ptxas info: 42 registers', flush=True)"
    for echo in (False, True):
        run_build(
            _tree(tmp_path / str(echo), body),
            tmp_path / str(echo) / "out",
            tmp_path / str(echo) / "log",
            dict(os.environ),
            jobs=1,
            events=None,
            echo=echo,
        )
        assert ("ptxas info: 42 registers" in capsys.readouterr().out) is echo
        assert "ptxas info: 42 registers" in (tmp_path / str(echo) / "log").read_text()

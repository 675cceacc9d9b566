"""A command and all that it started end together; with real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.tools import wait_for

from builder.compile import kill_tree

KILL_TREE = [sys.executable, "-I", kill_tree.__file__]
# A process whose parent has gone, in a session of its own, that ignores what it can.
STRAY = (
    """(trap "" TERM HUP; setsid sh -c 'trap "" TERM; echo $$ > new; mv new stray; sleep 300; sleep 300' &)"""
)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137)])
def test_it_ends_as_the_command(script: str, status: int) -> None:
    assert subprocess.run([*KILL_TREE, "sh", "-c", script], check=False).returncode == status


def test_it_leaves_nothing_behind_when_the_command_has_ended(tmp_path: Path) -> None:
    script = f"{STRAY}; while [ ! -e stray ]; do sleep 0.02; done"
    assert subprocess.run([*KILL_TREE, "sh", "-c", script], cwd=tmp_path, check=False).returncode == 0
    assert not Path("/proc", (tmp_path / "stray").read_text().strip()).exists()


@pytest.mark.parametrize("parent", [False, True])
def test_it_leaves_nothing_behind_when_it_is_ended(tmp_path: Path, parent: bool) -> None:
    """By SIGTERM, or because its parent was killed."""
    command = [*KILL_TREE, "sh", "-c", f"echo $$ > command; {STRAY}; sleep 300"]
    if parent:
        command = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *command]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        assert wait_for((tmp_path / "stray").exists)
        started = [Path("/proc", (tmp_path / name).read_text().strip()) for name in ("command", "stray")]
        assert all(path.exists() for path in started)
        process.send_signal(signal.SIGKILL if parent else signal.SIGTERM)
        process.wait(10)
        assert wait_for(lambda: not any(path.exists() for path in started))


def test_a_command_that_is_only_starting_is_ended_too_and_may_clean_up(tmp_path: Path) -> None:
    script = "trap 'echo > cleaned; exit' TERM; kill -TERM $PPID; while :; do sleep 0.02; done"
    for _ in range(10):
        done = subprocess.run([*KILL_TREE, "sh", "-c", script], cwd=tmp_path, check=False, timeout=30)
        assert done.returncode == 143
        assert (tmp_path / "cleaned").exists()
        (tmp_path / "cleaned").unlink()

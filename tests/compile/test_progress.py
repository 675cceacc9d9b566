"""What is shown of a running build, from its events or from ninja's lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.compile.progress import FileCost, Follower, Progress, Watcher


def test_status_names_the_files_in_work() -> None:
    progress = Progress()
    assert progress.status(0) == "  [0/0] 0:00 elapsed, in work: waiting"
    progress.take({"event": "plan", "files": ["csrc/a.cu", "csrc/b.cu"]})
    progress.take({"event": "start", "file": "csrc/a.cu"})
    assert progress.status(75) == "  [0/2] 1:15 elapsed, in work: a.cu"
    shown = progress.take({"event": "done", "file": "csrc/a.cu", "ok": False, "error": "x"})
    assert shown == "[0/2] csrc/a.cu: failed"
    assert progress.status(80) == "  [0/2] 1:20 elapsed, in work: waiting"


def test_what_is_no_event_is_not_shown() -> None:
    progress = Progress()
    assert progress.take({"event": "plan", "files": None}) is None
    assert progress.take({"event": "another"}) is None
    assert progress.take({}) is None


def test_a_finished_file_is_shown_with_its_time() -> None:
    progress = Progress()
    shown = progress.take({"event": "done", "file": "a.cu", "ok": True, "seconds": 12, "cpu_seconds": "odd"})
    assert shown == "[1/1] a.cu (12 s)"
    assert progress.done == {"a.cu": FileCost(12.0, 0.0, 0)}


def test_only_whole_new_lines_are_read(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "log")
    assert follower.lines() == []
    with (tmp_path / "log").open("w") as log:
        log.write("one\ntw")
        log.flush()
        assert follower.lines() == ["one"]
        log.write("o\n")
        log.flush()
        assert follower.lines() == ["two"]
        assert follower.lines() == []


def test_events_are_shown_until_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, events = tmp_path / "log", tmp_path / "events"
    log.write_text("nvcc says\n")
    watcher = Watcher(log, events, echo=True)
    watcher.start()
    events.write_text(json.dumps({"event": "done", "file": "a.cu", "ok": True, "seconds": 2}) + "\n")
    watcher.stop()
    assert capsys.readouterr().out == "nvcc says\n  [1/1] a.cu (2 s)\n"
    assert watcher.progress.done["a.cu"].seconds == 2


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("[3/9] nvcc -c a.cu -o build/a.o -O3", "  [1/1] build/a.o (0 s)\n"),
        ("[3/9] linking", "  [1/1] linking (0 s)\n"),
        ("nvcc warning: [3/9] of something", ""),
    ],
)
def test_ninjas_lines_are_shown_where_there_are_no_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, shown: str
) -> None:
    (tmp_path / "log").write_text(f"{line}\n")
    watcher = Watcher(tmp_path / "log", None)
    watcher.start()
    watcher.stop()
    assert capsys.readouterr().out == shown

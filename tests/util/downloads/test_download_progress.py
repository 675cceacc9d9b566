"""How far a download is: a few lines, or a bar on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from builder.util.downloads.download_progress import DownloadProgress
from builder.util.paths import ROOT

DOWNLOADING = """
from builder.util.downloads.download_progress import DownloadProgress
with DownloadProgress("nvcc.tar.xz", 3_000_000) as progress:
    for size in range(0, 3_000_001, 250_000): progress.at(size)
"""


def test_without_a_terminal_progress_is_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    total = 48 << 20
    with DownloadProgress("nvcc.tar.xz", total) as progress:
        for size in range(0, total + 1, 1 << 18):
            progress.at(size)
    lines = capsys.readouterr().out.splitlines()
    assert 8 <= len(lines) <= 12
    assert lines[-1] == "  nvcc.tar.xz: 100% of 50.3 MB"
    assert all(re.fullmatch(r"  nvcc\.tar\.xz: \d+% of 50\.3 MB", line) for line in lines)


def test_an_unknown_size_is_counted_up(capsys: pytest.CaptureFixture[str]) -> None:
    with DownloadProgress("nvcc.tar.xz", None) as progress:
        progress.at(0)
        progress.at(10_000_000)
    assert capsys.readouterr().out == "  nvcc.tar.xz: 0.0 MB\n  nvcc.tar.xz: 10.0 MB\n"


def test_on_a_terminal_progress_is_a_bar() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", DOWNLOADING], cwd=ROOT, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:
            pass  # how Linux says that the other side is closed
        os.close(ours)
    assert process.returncode == 0
    last = shown.decode().rstrip().rpartition("\r")[2]
    assert last.startswith(f"\x1b[K  nvcc.tar.xz [{'#' * 30}] 100% of 3.0 MB, ")
    assert last.endswith("MB/s")

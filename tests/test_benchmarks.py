"""The benchmarks' tables and picture, from figures that are given. The timing itself needs a GPU."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import build_speed, call_speed
from benchmarks.grid_picture import picture

ROW = call_speed.Row("self", 1, 24, 4608, 4608, 128)
# Answers as the process of a copy does, at half of torch's time; a causal row fails.
WORKER = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["row"]["causal"]:
        print(json.dumps({"failed": "ValueError: no"}), flush=True)
    else:
        us = 200.0 if request["name"] == "torch" else 100.0
        figures = {"gpu_us": us, "host_us": 30.0, "peak_inputs": 2.6, "clock_mhz": 1800.0}
        print(json.dumps(figures), flush=True)
"""


def test_the_grid_has_each_call_once_and_all_kinds() -> None:
    rows = call_speed.grid()
    assert len(set(rows)) == len(rows)
    assert {row.group for row in rows} >= {
        "self",
        "head dim",
        "cross",
        "decode",
        "grouped",
        "mask",
        "layout",
        "batch",
    }
    assert {row.head_dim for row in rows} >= {40, 64, 72, 80, 96, 128, 160, 192, 256}


def test_a_row_compares_each_copy_with_torch() -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    causal = call_speed.Row("self", 1, 24, 4608, 4608, 128, causal=True)
    for row, cell in (
        (ROW, ["1x24x4,608x128", "200", "30", "100", "2.00", "30", "2.6", "1800", "-"]),
        (causal, None),
    ):
        replies = {name: [call_speed.ask(worker, row, name, 0.1)] * 2 for name in ("torch", "ours")}
        cells = call_speed.cells(call_speed.report(row, replies), ["ours"])
        assert cells == cell if cell else cells[3:5] == ["ValueError: no", "-"]
    assert worker.stdin
    assert worker.stdout
    worker.stdin.close()
    worker.stdout.close()
    worker.wait()


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        call_speed.main(["--ours", str(tmp_path)])


def test_the_picture_marks_rows_that_are_slower() -> None:
    drawn = ET.fromstring(
        picture([("a", "torch", 1.0), ("b", "sm90", 1.5), ("c", "sm90", 0.8)], "H100 & more")
    )
    bars = [bar.get("class") for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == ["torch", "ours", "slower"]


def test_figures_of_a_build_are_those_of_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], check: bool) -> None:
        folder = Path(command[command.index("--wheelhouse") + 1])
        folder.mkdir(parents=True)
        cost = {"seconds": 10.4, "cpu_seconds": 20.0, "peak_process_memory_bytes": 5e8}
        (folder / "a.whl").write_bytes(b"0" * 2_000_000)
        (folder / "a.whl.json").write_text(
            json.dumps({"cost": {**cost, "compiler_cache": {"hits": 1, "misses": 2}}})
        )

    monkeypatch.setattr(subprocess, "run", run)
    options = argparse.Namespace(source=None, jobs=None)
    assert build_speed.build("one", options, tmp_path) == ["10", "20", "500", "2.0", "1 of 3"]


@pytest.mark.parametrize("rows", ["nothing", "upstream"])
def test_rows_that_can_t_be_built_are_refused(rows: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        build_speed.main(["--rows", rows])

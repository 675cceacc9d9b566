"""Timing whole calls: who is timed in which turn, the tables, the picture, and what fails."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.call_picture import picture
from benchmarks.call_speed import (
    FUNCTION_SIZES,
    GOALS,
    OTHER,
    OURS,
    Measured,
    main,
    measure,
    rows,
    start_table,
    starts,
    table,
)
from benchmarks.kernel_process import Worker
from benchmarks.kernel_rows import SDPA, Row

# Twice as fast as SDPA with the factor 0.5; one of its functions is wrong, and one ends the process.
STAND_IN = """
import json, sys
factor = float(sys.argv[1])
for line in sys.stdin:
    request = json.loads(line)
    row = request["row"]
    if row["name"].startswith("cuda-fp16"):
        sys.exit("out of luck")
    seconds = 1e-3 if row["name"] == "sdpa" else 1e-3 * factor
    print(json.dumps({
        "check": {"wrong": "cosine 0.1" if row["name"].startswith("cuda-fp8") else ""},
        "memory": {"bytes": 30, "input_bytes": 10},
        "time": {"gpu": [seconds] * 3, "call": [], "host": [2e-5]},
    }[request["do"]]), flush=True)
"""


@pytest.fixture
def workers() -> Iterator[dict[str, Worker]]:
    made = {
        name: Worker((sys.executable, "-c", STAND_IN, factor), name)
        for name, factor in ((OURS, "0.5"), (OTHER, "2"))
    }
    yield made
    for worker in made.values():
        worker.end()
        worker.errors.close()


def found(workers: dict[str, Worker], asked: list[Row]) -> list[Measured]:
    return measure(asked, workers, rounds=2)


def test_each_size_of_the_goals_is_timed_once_and_rows_of_a_shape_follow_each_other() -> None:
    asked = rows()
    sizes = [(one.batch, one.heads, one.lengths[0], one.head_dim) for one in asked if one.name == "sageattn"]
    assert set(sizes) >= set(GOALS)
    assert len(set(sizes)) == len(sizes)
    assert {one.dtype for one in asked} == {"bf16"}
    changes = sum(one.shape != other.shape for one, other in pairwise(asked))
    assert changes + 1 == len({one.shape for one in asked})
    assert set(FUNCTION_SIZES) <= set(GOALS)


def test_the_table_has_each_contender_and_the_goal(workers: dict[str, Worker]) -> None:
    lines = table(found(workers, rows((), ())), (OURS, OTHER))
    assert lines[0].startswith(
        "| batch x heads x tokens x dim | function | SDPA | ours | other | ours x SDPA |"
    )
    flux = next(line for line in lines if "1x24x4,608x128" in line)
    times, ratios, rest = "1,000 | 500 | 2,000", "2.00 | 0.50 | 1.00", "20 | 20 | 20 | 3.0 | 3.0 | 3.0"
    assert flux == f"| 1x24x4,608x128 | sageattn | {times} | {ratios} | {rest} |"
    assert len(lines) == 2 + len(GOALS)


def test_a_contender_that_fails_leaves_the_others_alone(workers: dict[str, Worker]) -> None:
    asked = [one for one in rows(("cuda-fp8/x", "cuda-fp16/x"), ()) if one.lengths[0] == 4608]
    measured = found(workers, asked)
    right, wrong, ended = measured
    assert (right.times_sdpa(OURS), right.times_sdpa(OTHER), right.times_sdpa(SDPA)) == (2.0, 0.5, 1.0)
    assert wrong.times_sdpa(OURS) is None
    assert wrong.gpu[SDPA] == [1e-3, 1e-3]
    assert "out of luck" in ended.trouble[OURS]
    text = "\n".join(table(measured, (OURS, OTHER)))
    assert "cuda-fp8/x 4608 d128 h24 bf16: ours: cosine 0.1" in text
    assert ended.values["trouble"][OURS] == ended.trouble[OURS]


def test_import_and_first_call_are_those_of_fresh_processes(tmp_path: Path) -> None:
    packages = {
        "torch.py": "import types\nfloat16, ones = 1, lambda *a, **b: types.SimpleNamespace(sum=lambda: 1)",
        "sageattention.py": "import time, os\ntime.sleep(0.05)\n"
        "def sageattn(*a): time.sleep(0.02 if os.listdir(os.environ.get('TRITON_CACHE_DIR', '/')) else 0.2)",
    }
    for name, text in packages.items():
        (tmp_path / name).write_text(text)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('no such torch')")
    times = starts({OURS: tmp_path, OTHER: broken}, "cpu", rounds=2)
    ours: dict[str, Any] = times[OURS]
    assert len(ours["import_s"]) == 2
    assert min(ours["import_s"]) >= 0.05
    assert ours["first_call_empty_cache_s"][0] > 0.15 > ours["first_call_s"][0]
    lines = start_table(times)
    assert lines[2].startswith("| ours | 0.0")
    assert lines[3:] == ["| other | - | - | - |", "other: ImportError: no such torch"]


def test_the_picture_is_xml_and_faster_is_higher() -> None:
    lines = {
        "ours": {1024: (24, 1e-4), 4096: (24, 3e-4)},
        "sdpa": {1024: (24, 1e-4), 4096: (24, 6e-4)},
        "x": {},
    }
    drawing = ET.fromstring(picture(lines, 128, "H100 <80GB>"))
    space = "{http://www.w3.org/2000/svg}"
    heights = {
        line.get("class"): [float(point.split(",")[1]) for point in str(line.get("points")).split()]
        for line in drawing.iter(f"{space}polyline")
    }
    assert set(heights) == {"ours", "sdpa"}
    assert heights["ours"][0] == heights["sdpa"][0]
    assert heights["ours"][1] < heights["sdpa"][1]
    assert "H100 <80GB>" in str(drawing.get("aria-label"))


def test_nothing_timed_gives_an_empty_picture() -> None:
    assert ET.fromstring(picture({"ours": {}}, 128, "")).get("role") == "img"


def test_a_folder_without_the_package_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--ours", str(tmp_path)])
    assert ended.value.code == 2
    assert "holds no sageattention" in capsys.readouterr().err

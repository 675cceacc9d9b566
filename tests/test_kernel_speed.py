"""Comparing two copies: which rows, what counts as slower or different, and workers that fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kernel_figures import (
    IDENTICAL,
    OK,
    SLOWER,
    UNCLEAR,
    Timings,
    equality,
    ratio,
    speed_table,
    summary,
    verdict,
)
from benchmarks.kernel_process import MOST_CRASHES, Worker
from benchmarks.kernel_rows import ATTENTION, FUNCTION, QUANTISATION, Row, equality_rows, speed_rows
from benchmarks.kernel_speed import main, measure

HOPPER, ADA, AMPERE = (9, 0), (8, 9), (8, 0)
ROW = Row(FUNCTION, "sageattn", (1024, 1024), 128, 32)

# Answers each request by the row's name: with figures, an error, an exit, or not at all.
STAND_IN = """
import json, sys, time
factor = float(sys.argv[1])
for line in sys.stdin:
    request = json.loads(line)
    name = request["row"]["name"]
    if name == "exits":
        sys.exit("out of luck")
    if name == "hangs":
        time.sleep(60)
    if name == "raises":
        reply = {"error": "ValueError: no"}
    elif request["do"] == "check":
        reply = {"wrong": "cosine 0.1" if name == "wrong" else "", "digest": [1]}
    else:
        reply = {"gpu": [1e-3 * factor] * 3, "call": [2e-3] * 3, "host": [1e-3] * 3}
    print(json.dumps(reply), flush=True)
"""


def row(name: str) -> Row:
    return Row(FUNCTION, name, (1024, 1024), 128, 32)


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    made = [
        Worker((sys.executable, "-c", STAND_IN, factor), name) for name, factor in (("a", "1"), ("b", "1.1"))
    ]
    yield made
    for worker in made:
        worker.end()
        worker.errors.close()


def test_a_row_survives_json() -> None:
    for one in (*speed_rows(HOPPER)[:50], *equality_rows(HOPPER)[-50:]):
        assert Row.parse({**one.values, "lengths": list(one.lengths)}) == one


def test_all_kinds_lengths_and_masks_are_timed() -> None:
    rows = speed_rows(HOPPER)
    assert len(rows) == len(set(rows))
    assert {one.kind for one in rows} == {FUNCTION, ATTENTION, QUANTISATION}
    for kind in (FUNCTION, ATTENTION):
        assert {(one.lengths[0], one.head_dim, one.causal) for one in rows if one.kind == kind} == {
            (tokens, dim, causal)
            for tokens in (1024, 4096, 8192, 32768)
            for dim in (64, 128)
            for causal in (False, True)
        }
    assert all(one.heads * one.lengths[0] <= 262_144 for one in rows)


def test_rows_of_a_shape_follow_each_other() -> None:
    shapes = [one.shape for one in speed_rows(HOPPER)]
    changes = sum(one != other for one, other in pairwise(shapes))
    assert changes + 1 == len(set(shapes))


def test_only_what_the_gpu_runs() -> None:
    def modules(capability: tuple[int, int]) -> set[str]:
        return {one.name.split(".")[0] for one in speed_rows(capability) if one.kind == ATTENTION}

    assert modules(AMPERE) == {"_qattn_sm80"}
    assert modules(ADA) == {"_qattn_sm80", "_qattn_sm89"}
    assert modules(HOPPER) == {"_qattn_sm80", "_qattn_sm89", "_qattn_sm90"}
    assert modules((12, 0)) == {"_qattn_sm80", "_qattn_sm89"}
    assert not any("sm90" in one.name for one in equality_rows(ADA))


def test_equality_has_odd_lengths_and_never_a_mask_on_unequal_ones() -> None:
    rows = equality_rows(HOPPER)
    assert {one.lengths for one in rows if one.kind == FUNCTION} >= {(17, 17), (333, 777), (1024, 1024)}
    assert not [one for one in rows if one.causal and one.lengths[0] != one.lengths[1]]


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ([1.0, 1.01, 0.99], OK),
        ([1.03, 1.04, 1.05], SLOWER),
        ([1.03, 1.0, 1.04], UNCLEAR),
        ([0.5, 0.5, 0.5], OK),
    ],
)
def test_slower_means_in_every_round(second: list[float], expected: str) -> None:
    assert verdict(ratio([1.0, 1.0, 1.0], second)) == expected


def test_one_round_is_not_enough_to_be_slower() -> None:
    assert verdict(ratio([1.0], [1.5])) == UNCLEAR
    assert verdict(ratio([1.0, 1.0], [1.5, 1.5])) == SLOWER


def test_no_figures_are_no_verdict() -> None:
    assert ratio([], []) is None
    assert verdict(None) == ""


def test_ratios_are_taken_round_by_round() -> None:
    # Both are slow in the second round: the clocks were, not the kernel.
    found = ratio([1.0, 2.0], [1.01, 2.02])
    assert found is not None
    assert (round(found.lowest, 3), round(found.highest, 3)) == (1.01, 1.01)


SAME = {"wrong": "", "results": [{"elements": 10, "unequal": 0, "largest": 0.0}]}
DIFFERENT = {"wrong": "", "results": [{"elements": 10, "unequal": 3, "largest": 0.5}]}
RIGHT = {"wrong": ""}


@pytest.mark.parametrize(
    ("first", "second", "finding", "fault"),
    [
        (RIGHT, SAME, IDENTICAL, False),
        (RIGHT, DIFFERENT, "differs: 3 of 10 elements, by 0.5 at most", True),
        (RIGHT, {"error": "boom"}, "second fails: boom", True),
        (
            {"wrong": "cosine 0.1"},
            DIFFERENT,
            "not compared: first is wrong: cosine 0.1; the second is not",
            False,
        ),
        ({"error": "boom"}, {"wrong": "NaN"}, "not compared: first fails: boom; the second is too", False),
    ],
)
def test_only_what_the_first_does_right_can_be_a_fault(
    first: dict[str, Any], second: dict[str, Any], finding: str, fault: bool
) -> None:
    assert equality(first, second) == (finding, fault)


def test_measure_takes_turns_until_the_time_is_spent(workers: list[Worker]) -> None:
    ticks = iter(range(1000))
    timings, rounds = measure([ROW], workers[0], workers[1], budget_s=20, now=lambda: float(next(ticks)))
    assert rounds > 1
    found = timings[0].ratio("gpu")
    assert found is not None
    assert round(found.median, 3) == 1.1
    assert timings[0].same is True
    assert len(timings[0].seconds["gpu"][0]) == rounds
    assert "SLOWER" in speed_table(timings)[1]
    assert any("1 SLOWER" in line for line in summary(timings))


def test_a_row_that_fails_leaves_the_others_alone(workers: list[Worker]) -> None:
    rows = [row("raises"), row("exits"), ROW, row("wrong")]
    timings, _ = measure(rows, workers[0], workers[1], budget_s=0)
    raised, exited, fine, wrong = timings
    assert raised.trouble == "first fails: ValueError: no; second fails: ValueError: no"
    assert "its process ended with status 1: out of luck" in exited.trouble
    assert "first is wrong: cosine 0.1" in wrong.trouble
    assert not fine.trouble
    assert fine.ratio("gpu") is not None
    text = "\n".join(speed_table(timings) + summary(timings))
    assert text.count("not compared:") == 3
    assert "3 rows not compared" in text


def test_a_hanging_worker_is_ended_and_asked_again(workers: list[Worker]) -> None:
    worker = workers[0]
    assert worker.ask({"do": "check", "row": row("hangs").values}, timeout_s=0.5) == {
        "error": "no answer within 0.5 s"
    }
    assert worker.ask({"do": "check", "row": ROW.values})["digest"] == [1]


def test_what_keeps_ending_its_process_is_given_up(workers: list[Worker]) -> None:
    worker = workers[0]
    for _ in range(MOST_CRASHES):
        assert "status 1" in worker.ask({"do": "check", "row": row("exits").values})["error"]
    assert "not tried" in worker.ask({"do": "check", "row": row("exits").values})["error"]
    assert "error" not in worker.ask({"do": "check", "row": ROW.values})


def test_a_folder_without_the_package_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--first", str(tmp_path), "--second", str(tmp_path)])
    assert ended.value.code == 2
    assert "holds no sageattention" in capsys.readouterr().err


def test_a_row_without_figures_is_not_ok() -> None:
    line = speed_table([Timings(ROW)])[1]
    assert "not compared: no figures" in line

"""Which rows a run has."""

from __future__ import annotations

import ast

import pytest

from builder.smoketest import plan
from builder.smoketest.attention import kernels
from builder.smoketest.attention.cases import Case
from builder.util.files import ROOT

MODES = ("quick", "default", "long")
ROWS = ROOT / "builder" / "smoketest" / "rows"


@pytest.mark.parametrize("mode", MODES)
def test_rows_have_ids_of_their_own(mode: str) -> None:
    checks = plan.plan(plan.Options(mode=mode), (9, 0))
    assert len({check.id for check in checks}) == len(checks)


def test_a_kernel_that_the_gpu_can_not_run_has_one_row() -> None:
    checks = plan.plan(plan.Options(), (8, 9))
    rows = [check for check in checks if check.kernel.key.startswith("sm90")]
    assert {check.group for check in rows} == {"first call"}


def test_quick_is_a_fraction_and_long_adds_to_the_default() -> None:
    sizes = {mode: len(plan.plan(plan.Options(mode=mode), (9, 0))) for mode in MODES}
    assert sizes["quick"] * 2 < sizes["default"] < sizes["long"]


def test_every_kernel_is_put_behind_slow_work_even_in_quick() -> None:
    checks = plan.plan(plan.Options(mode="quick"), (9, 0))
    tested = {check.kernel.key for check in checks if check.run == "conduct.streams.side_stream"}
    assert tested == {kernel.key for kernel in kernels.ALL if not kernel.varlen}


def test_a_rows_inputs_do_not_depend_on_the_other_rows() -> None:
    everything = {check.id: check.seed(3) for check in plan.plan(plan.Options(), (9, 0))}
    some = plan.plan(plan.Options(patterns=("cuda-fp8",)), (9, 0))
    assert some
    assert all(everything[check.id] == check.seed(3) for check in some)
    assert len(set(everything.values())) == len(everything)


def test_speed_can_be_left_out_and_kernels_chosen() -> None:
    checks = plan.plan(plan.Options(speed=False, patterns=("varlen", "cuda-fp16/fp16/*")), (9, 0))
    assert {check.group for check in checks} == {
        "first call",
        "accuracy",
        "arguments",
        "range",
        "shapes",
        "gradient",
        "conduct",
    }
    assert {check.kernel.key for check in checks if check.group == "accuracy"} == {
        "varlen",
        "cuda-fp16/fp16/per_thread",
        "cuda-fp16/fp16/per_warp",
        "cuda-fp16/fp16/smooth_v",
    }


def test_options_survive_their_way_to_the_worker() -> None:
    options = plan.Options(mode="long", patterns=("a", "b*"), seed=7, speed=False, groups=("speed",))
    assert plan.Options.from_json(options.to_json()) == options


def test_the_single_token_is_put_to_the_kernels_that_take_the_mean_out() -> None:
    checks = plan.plan(plan.Options(mode="quick"), (9, 0))
    tested = {check.kernel.key for check in checks if check.asked == Case((1, 1))}
    assert tested == {"cuda-fp16/fp16/smooth_v", "cuda-fp8/fp32/smooth_v"}


def test_only_the_groups_asked_for_run_and_every_first_call() -> None:
    checks = plan.plan(plan.Options(mode="long", groups=("speed", "long")), (9, 0))
    assert {check.group for check in checks} == {"first call", "speed", "long"}


@pytest.mark.parametrize("run", sorted({c.run for c in plan.plan(plan.Options(mode="long"), (9, 0))}))
def test_the_function_that_runs_a_row_is_there(run: str) -> None:
    module, _, function = run.rpartition(".")
    source = ast.parse((ROWS / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    names = {node.name for node in source.body if isinstance(node, ast.FunctionDef)}
    names |= {ast.unparse(node.targets[0]) for node in source.body if isinstance(node, ast.Assign)}
    assert function in names

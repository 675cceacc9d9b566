"""Which rows a run has, and which GPU runs which kernel."""

from __future__ import annotations

import ast
from dataclasses import asdict
from pathlib import Path

import pytest

from builder.smoketest.attention import kernels
from builder.smoketest.attention.cases import Case
from builder.smoketest.attention.kernels import Capability
from builder.smoketest.plan import Options, plan

ROOT = Path(__file__).resolve().parents[2]

MODES = ("quick", "default", "long")
ROWS = ROOT / "builder" / "smoketest" / "rows"


@pytest.mark.parametrize("mode", MODES)
def test_rows_have_ids_of_their_own(mode: str) -> None:
    specs = plan(Options(mode=mode), (9, 0))
    assert len({spec.id for spec in specs}) == len(specs)


def test_quick_is_a_fraction_and_long_adds_to_the_default() -> None:
    quick, default, long = (len(plan(Options(mode=mode), (9, 0))) for mode in MODES)
    assert quick * 2 < default < long


def test_a_kernel_that_the_gpu_can_not_run_has_one_row() -> None:
    rows = [spec for spec in plan(Options(), (8, 9)) if spec.kernel.key.startswith("sm90")]
    assert {spec.group for spec in rows} == {"first call"}


def test_every_kernel_is_put_behind_slow_work_even_in_quick() -> None:
    specs = plan(Options(mode="quick"), (9, 0))
    tested = {spec.kernel.key for spec in specs if spec.run == "runtime.streams.side_stream"}
    assert tested == {kernel.key for kernel in kernels.ALL if not kernel.varlen}


def test_a_rows_inputs_do_not_depend_on_the_other_rows() -> None:
    everything = {spec.id: spec.seed(3) for spec in plan(Options(), (9, 0))}
    some = plan(Options(patterns=("cuda-fp8",)), (9, 0))
    assert some
    assert all(everything[spec.id] == spec.seed(3) for spec in some)
    assert len(set(everything.values())) == len(everything)


def test_kernels_and_groups_can_be_chosen_and_speed_left_out() -> None:
    specs = plan(Options(speed=False, patterns=("varlen", "cuda-fp16/fp16/*")), (9, 0))
    assert {spec.kernel.key for spec in specs if spec.group == "accuracy"} == {
        "varlen",
        "cuda-fp16/fp16/per_thread",
        "cuda-fp16/fp16/per_warp",
        "cuda-fp16/fp16/smooth_v",
    }
    assert "speed" not in {spec.group for spec in specs}
    specs = plan(Options(mode="long", groups=("speed", "long")), (9, 0))
    assert {spec.group for spec in specs} == {"first call", "speed", "long"}


def test_options_survive_their_way_to_the_worker() -> None:
    options = Options(mode="long", patterns=("a", "b*"), seed=7, speed=False, groups=("speed",))
    assert Options.from_json(asdict(options)) == options


def test_the_single_token_is_put_to_the_kernels_that_take_the_mean_out() -> None:
    specs = plan(Options(mode="quick"), (9, 0))
    tested = {spec.kernel.key for spec in specs if spec.parameter == Case((1, 1))}
    assert tested == {"cuda-fp16/fp16/smooth_v", "cuda-fp8/fp32/smooth_v"}


@pytest.mark.parametrize("run", sorted({spec.run for spec in plan(Options(mode="long"), (9, 0))}))
def test_the_function_that_runs_a_row_is_there(run: str) -> None:
    module, _, function = run.rpartition(".")
    source = ast.parse((ROWS / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    names = {node.name for node in source.body if isinstance(node, ast.FunctionDef)}
    names |= {ast.unparse(node.targets[0]) for node in source.body if isinstance(node, ast.Assign)}
    assert function in names


@pytest.mark.parametrize(
    ("capability", "family", "runs"),
    [
        ((7, 5), "fp16", {"sageattn", "triton-fp16", "varlen"}),
        ((8, 6), "fp16", {"sageattn", "triton-fp16", "varlen", "cuda-fp16"}),
        ((8, 9), "fp8", {"sageattn", "triton-fp16", "varlen", "cuda-fp16", "cuda-fp8"}),
        ((9, 0), "fp8", {"sageattn", "triton-fp16", "varlen", "cuda-fp16", "cuda-fp8", "sm90-fp8"}),
        ((12, 0), "fp8", {"sageattn", "triton-fp16", "varlen", "cuda-fp16", "cuda-fp8"}),
    ],
)
def test_which_gpu_runs_which_kernels(capability: Capability, family: str, runs: set[str]) -> None:
    able = [kernel for kernel in kernels.kernels_for(capability) if not kernel.why_not(capability)]
    assert {kernel.key.split("/")[0] for kernel in able} == runs
    assert able[0].family == family, "that of the kernel that sageattn() chooses"


def test_why_a_gpu_can_not_run_a_kernel_names_both() -> None:
    kernel = next(k for k in kernels.ALL if k.key.startswith("sm90"))
    assert kernel.why_not((8, 9)) == "needs compute capability 9.x, this GPU has 8.9"
    kernel = next(k for k in kernels.ALL if k.key.startswith("cuda-fp8"))
    assert kernel.why_not((8, 6)) == "needs compute capability 8.9, this GPU has 8.6"


def test_patterns_that_name_nothing_are_found() -> None:
    assert kernels.unmatched(("cuda-fp8", "sm91", "sage*")) == ["sm91"]

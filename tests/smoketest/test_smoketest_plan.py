"""Which kernels, cases and rows a run has."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from builder.smoketest import cases, kernels, plan
from builder.smoketest.cases import FACTORS, Case, covering_set, possible
from builder.smoketest.kernels import Capability


def test_every_possible_pair_of_values_occurs() -> None:
    chosen = covering_set()
    missing = [
        (first, one, second, two)
        for first, second in combinations(FACTORS, 2)
        for one, two in product(FACTORS[first], FACTORS[second])
        if possible({first: one, second: two})
        and not any(getattr(c, first) == one and getattr(c, second) == two for c in chosen)
    ]
    assert missing == []


def test_the_covering_set_is_small_and_always_the_same() -> None:
    assert covering_set() == covering_set()
    assert len(covering_set()) < 30


def test_no_case_asks_for_a_causal_mask_with_unequal_lengths() -> None:
    everything = [*covering_set(), *cases.QUICK, *cases.QUICK_SHARE]
    assert all(case.lengths[0] == case.lengths[1] for case in everything if case.causal)


def test_cases_have_names_of_their_own() -> None:
    everything = {*covering_set(), *cases.QUICK, *cases.QUICK_SHARE, cases.ZERO_CHANNEL}
    assert len({case.name for case in everything}) == len(everything)


def test_the_asked_for_lengths_head_dims_and_types_are_there() -> None:
    chosen = covering_set()
    assert {(1, 1), (9, 9), (17, 17), (333, 777), (2048, 2048), (4096, 4096)} <= {c.lengths for c in chosen}
    assert {64, 96, 128} == {c.head_dim for c in chosen}
    assert {"fp16", "bf16"} == {c.dtype for c in chosen}


def test_kernels_that_are_not_primary_share_the_whole_set_out() -> None:
    parts = [set(cases.cases_for("default", primary=False, share=share)) for share in range(3)]
    assert set(covering_set()) <= set.union(*parts)
    assert all(len(part) < len(covering_set()) for part in parts)


def test_zero_channels_are_put_to_every_kernel_by_default() -> None:
    for primary, share in ((True, 0), (False, 0), (False, 1), (False, 2)):
        assert cases.ZERO_CHANNEL in cases.cases_for("default", primary=primary, share=share)


@pytest.mark.parametrize(
    ("capability", "family"),
    [
        ((8, 0), "fp16"),
        ((8, 6), "fp16"),
        ((8, 9), "fp8"),
        ((9, 0), "fp8"),
        ((12, 0), "fp8"),
        ((12, 1), "fp8"),
    ],
)
def test_sageattns_family_is_that_of_the_kernel_it_chooses(capability: Capability, family: str) -> None:
    assert next(k for k in kernels.kernels_for(capability) if k.key == "sageattn").family == family


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((7, 5), {"sageattn", "triton-fp16", "varlen"}),
        ((8, 6), {"sageattn", "triton-fp16", "varlen", "cuda-fp16"}),
        ((8, 9), {"sageattn", "triton-fp16", "varlen", "cuda-fp16", "cuda-fp8"}),
        ((9, 0), {"sageattn", "triton-fp16", "varlen", "cuda-fp16", "cuda-fp8", "sm90-fp8"}),
        ((12, 0), {"sageattn", "triton-fp16", "varlen", "cuda-fp16", "cuda-fp8"}),
    ],
)
def test_which_gpu_runs_which_kernels(capability: Capability, runs: set[str]) -> None:
    able = {k.key.split("/")[0] for k in kernels.ALL if not k.why_not(capability)}
    assert able == runs


def test_why_a_gpu_can_not_run_a_kernel_names_both() -> None:
    kernel = next(k for k in kernels.ALL if k.key.startswith("sm90"))
    assert kernel.why_not((8, 9)) == "needs compute capability 9.x, this GPU has 8.9"
    kernel = next(k for k in kernels.ALL if k.key.startswith("cuda-fp8"))
    assert kernel.why_not((8, 6)) == "needs compute capability 8.9, this GPU has 8.6"


def test_every_function_and_accumulator_of_the_package_has_a_kernel() -> None:
    asked = {(k.function, dict(k.arguments).get("pv_accum_dtype")) for k in kernels.ALL}
    assert {
        ("sageattn", None),
        ("sageattn_varlen", None),
        ("sageattn_qk_int8_pv_fp16_triton", None),
        *(("sageattn_qk_int8_pv_fp16_cuda", a) for a in ("fp32", "fp16", "fp16+fp32")),
        *(("sageattn_qk_int8_pv_fp8_cuda", a) for a in ("fp32", "fp32+fp32", "fp32+fp16")),
        ("sageattn_qk_int8_pv_fp8_cuda_sm90", "fp32+fp32"),
    } == asked


@pytest.mark.parametrize("mode", plan.MODES)
def test_rows_have_ids_of_their_own(mode: str) -> None:
    checks = plan.plan(plan.Options(mode=mode), (9, 0))
    assert len({check.id for check in checks}) == len(checks)


def test_a_kernel_that_the_gpu_can_not_run_has_one_row() -> None:
    checks = plan.plan(plan.Options(), (8, 9))
    rows = [check for check in checks if check.kernel.key.startswith("sm90")]
    assert {check.group for check in rows} == {"first call"}


def test_quick_is_a_fraction_and_long_adds_to_the_default() -> None:
    sizes = {mode: len(plan.plan(plan.Options(mode=mode), (9, 0))) for mode in plan.MODES}
    assert sizes["quick"] * 2 < sizes["default"] < sizes["long"]


def test_every_kernel_is_put_behind_slow_work_even_in_quick() -> None:
    checks = plan.plan(plan.Options(mode="quick"), (9, 0))
    tested = {check.kernel.key for check in checks if check.subject == plan.SIDE_STREAM}
    assert tested == {kernel.key for kernel in kernels.ALL if not kernel.varlen}


def test_a_rows_inputs_do_not_depend_on_the_other_rows() -> None:
    everything = {check.id: check.seed(3) for check in plan.plan(plan.Options(), (9, 0))}
    some = plan.plan(plan.Options(patterns=("cuda-fp8",)), (9, 0))
    assert some
    assert all(everything[check.id] == check.seed(3) for check in some)
    assert len(set(everything.values())) == len(everything)


def test_speed_can_be_left_out_and_kernels_chosen() -> None:
    checks = plan.plan(plan.Options(speed=False, patterns=("varlen", "cuda-fp16/fp16/*")), (9, 0))
    assert {check.group for check in checks} == {"first call", "accuracy", "conduct"}
    assert {check.kernel.key for check in checks if check.group == "accuracy"} == {
        "varlen",
        "cuda-fp16/fp16/per_thread",
        "cuda-fp16/fp16/per_warp",
        "cuda-fp16/fp16/smooth_v",
    }


def test_options_survive_their_way_to_the_worker() -> None:
    options = plan.Options(mode="long", patterns=("a", "b*"), seed=7, speed=False, groups=("speed",))
    assert plan.Options.from_json(options.to_json()) == options


def test_patterns_that_name_nothing_are_found() -> None:
    assert kernels.unmatched(("cuda-fp8", "sm91", "sage*")) == ("sm91",)


def test_the_single_token_is_put_to_the_kernels_that_take_the_mean_out() -> None:
    checks = plan.plan(plan.Options(mode="quick"), (9, 0))
    tested = {check.kernel.key for check in checks if check.subject == Case((1, 1))}
    assert tested == {"cuda-fp16/fp16/smooth_v", "cuda-fp8/fp32/smooth_v"}

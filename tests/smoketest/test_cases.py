"""The cases: every pair of values occurs, few cases are enough, and each has its name."""

from __future__ import annotations

from itertools import combinations, product

from builder.smoketest.attention import cases
from builder.smoketest.attention.cases import FACTORS, covering_set, possible


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


def test_kernels_that_are_not_primary_share_the_whole_set_out() -> None:
    parts = [set(cases.cases_for("default", share=share)) for share in range(3)]
    assert set(covering_set()) <= set.union(*parts)
    assert all(len(part) < len(covering_set()) for part in parts)
    assert all(cases.ZERO_CHANNEL in cases.cases_for("default", share=share) for share in (None, 0, 1, 2))

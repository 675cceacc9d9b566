"""Which architectures a build is for: what was asked, what the target has, and the GPUs of this machine."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from builder.target.architectures import Architecture, Selection, join
from builder.target.architectures import select as select_with_ptx
from builder.util.errors import ArchitectureError

TARGET = tuple(Architecture.parse(text) for text in ("8.0", "8.6", "8.9", "9.0a", "12.0"))


def select(
    requested: str | None, architectures: Sequence[Architecture], local: Sequence[str] | None
) -> Selection:
    return select_with_ptx(requested, architectures, local, with_ptx=("8.0", "8.9"))


def test_no_gpu_takes_all_of_the_target_and_says_so() -> None:
    selection = select(None, tuple(reversed(TARGET)), ())
    assert selection.architectures == TARGET
    assert selection.complete
    assert selection.reason == "no GPU found: all of the target (8.0, 8.6, 8.9, 9.0a, 12.0)"


def test_local_gpus_are_the_default() -> None:
    selection = select(None, TARGET, ("8.9", "9.0"))
    assert selection.architectures == (Architecture(8, 9), Architecture(9, 0, "a"))
    assert not selection.complete
    assert selection.reason == "the local GPUs: 8.9, 9.0a"


def test_a_gpu_without_a_cubin_of_its_own_gets_the_nearest_that_runs_on_it() -> None:
    selection = select(None, TARGET, ("8.7", "12.1"))
    assert selection.architectures == (Architecture(8, 6), Architecture(12, 0))
    assert selection.reason == "the local GPUs: 8.6 (runs on 8.7), 12.0 (runs on 12.1)"


@pytest.mark.parametrize(
    ("local", "architectures", "reason"),
    [
        (("10.0",), "8.9", "8.9 (its PTX runs on 10.0)"),
        (("8.6", "10.3"), "8.6, 8.9", "8.6, 8.9 (its PTX runs on 10.3)"),
        (("7.5",), "8.0", "no kernel runs on 7.5, 8.0, the smallest build"),
        (("7.5", "8.9"), "8.9", "8.9, no kernel runs on 7.5"),
    ],
)
def test_a_gpu_without_a_cubin_gets_what_it_will_use(
    local: tuple[str, ...], architectures: str, reason: str
) -> None:
    selection = select("local", TARGET, local)
    assert join(selection.architectures) == architectures
    assert selection.reason == f"the local GPUs: {reason}"


def test_without_a_gpu_the_reason_is_said() -> None:
    with pytest.raises(ArchitectureError, match="--arch local: no GPU found on this machine"):
        select("local", TARGET, ())
    with pytest.raises(ArchitectureError, match="--arch local: the NVIDIA driver does not answer"):
        select("local", TARGET, None)
    assert select(None, TARGET, None).reason.startswith(
        "the NVIDIA driver does not answer: all of the target"
    )


def test_all_is_all_even_with_a_gpu() -> None:
    assert select("ALL", TARGET, ("8.9",)).architectures == TARGET


@pytest.mark.parametrize("requested", ["8.9;12.0", "12.0, 8.9", "sm_120 sm89", "8.9;8.9;12.0;"])
def test_named_architectures_come_sorted_and_once(requested: str) -> None:
    selection = select(requested, TARGET, ("9.0",))
    assert selection.architectures == (Architecture(8, 9), Architecture(12, 0))
    assert selection.reason == "as asked for: 8.9, 12.0"
    assert not selection.complete


def test_naming_all_of_them_is_complete() -> None:
    assert select("8.0;8.6;8.9;9.0;12.0", TARGET, ()).complete


def test_a_capability_finds_the_targets_form_of_it() -> None:
    assert select("9.0", TARGET, ()).architectures == (Architecture(9, 0, "a"),)


@pytest.mark.parametrize(
    ("requested", "said"),
    [
        ("12.1", "Choose from 8.0, 8.6, 8.9, 9.0a, 12.0, or all, or local"),
        ("8.9;7.5", "--arch 7.5: the target has no such architecture"),
        ("10.0a", "--arch 10.0a: the target has no such architecture"),
        ("12.0a", "--arch 12.0a: the target has no such architecture"),
        ("9.0+PTX", "'9.0+ptx' is not a CUDA architecture"),
        ("ampere", "'ampere' is not a CUDA architecture"),
        (" ; ", "'' is not a CUDA architecture"),
    ],
)
def test_nothing_that_was_asked_for_is_dropped_in_silence(requested: str, said: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        select(requested, TARGET, ())
    assert said in str(caught.value)

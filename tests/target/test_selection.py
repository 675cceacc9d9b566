"""Which architectures a build is for: what was asked, what the target has, and the GPUs of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.target.architectures import Architecture
from builder.target.selection import local_architectures, read_compute_capabilities, select
from builder.util.errors import ArchitectureError

TARGET = tuple(Architecture.parse(text) for text in ("8.0", "8.6", "8.9", "9.0a", "12.0"))


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


def test_a_gpu_that_runs_nothing_of_the_target_is_an_error_that_names_the_way_out() -> None:
    with pytest.raises(ArchitectureError) as caught:
        select(None, TARGET, ("6.1", "8.9"))
    assert "compute capability 6.1 runs none" in caught.value.message
    assert '--arch "8.9"' in caught.value.remedy
    with pytest.raises(ArchitectureError, match=r"compute capability 10\.0 runs none"):
        select("local", TARGET, ("10.0",))


def test_local_without_a_gpu_is_an_error() -> None:
    with pytest.raises(ArchitectureError, match="no GPU found"):
        select("local", TARGET, ())


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
        ("12.1", "A GPU of 12.1 runs 12.0"),
        ("8.9;7.5", "--arch 7.5: the target has no such architecture"),
        ("10.0a", "--arch 10.0a: the target has no such architecture"),
        ("12.0a", "--arch 12.0a: the target has no such architecture"),
        ("9.0+PTX", "is not an option: the PTX of 8.0 and 8.9 goes with"),
        ("ampere", "'ampere' is not a CUDA architecture"),
        ("", "--arch is empty"),
        (" ; ", "--arch is empty"),
    ],
)
def test_nothing_that_was_asked_for_is_dropped_in_silence(requested: str, said: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        select(requested, TARGET, ())
    assert said in str(caught.value)


def test_capabilities_are_read_from_what_nvidia_smi_prints() -> None:
    assert read_compute_capabilities("12.0\n8.9\n8.9\n[N/A]\n") == ("8.9", "12.0")
    assert read_compute_capabilities("No devices were found\n") == ()


def test_no_nvidia_smi_is_no_gpu(tmp_path: Path) -> None:
    assert local_architectures(str(tmp_path / "nvidia-smi")) == ()


def _nvidia_smi(folder: Path, script: str) -> str:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_nvidia_smi_is_asked_for_compute_capabilities(tmp_path: Path) -> None:
    script = 'test "$*" = "--query-gpu=compute_cap --format=csv,noheader" && printf "9.0\\n9.0\\n8.6\\n"'
    assert local_architectures(_nvidia_smi(tmp_path, script)) == ("8.6", "9.0")


def test_a_failing_nvidia_smi_is_no_gpu_and_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "echo 'NVIDIA-SMI has failed because it could not talk to the driver'; exit 9"
    assert local_architectures(_nvidia_smi(tmp_path, script)) == ()
    assert "could not talk to the driver" in capsys.readouterr().err

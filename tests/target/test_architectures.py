"""How architectures are written, what runs on what, and which of them a build is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.target import architectures
from builder.target.architectures import Architecture, Selection, refuse_uncompilable
from builder.target.architectures import select as select_with_ptx
from builder.target.targets import PATCHES_DIR, build_constants
from builder.util.errors import ArchitectureError

TARGET = tuple(Architecture.parse(text) for text in ("8.0", "8.6", "8.9", "9.0a", "12.0"))


@pytest.mark.parametrize("text", ["9.0a", "sm_90a", "sm90a", "compute_90a", " 9.0a "])
def test_every_way_to_write_an_architecture_is_read(text: str) -> None:
    architecture = Architecture.parse(text)
    assert architecture == Architecture(9, 0, "a")
    assert (str(architecture), architecture.number) == ("9.0a", "90a")


@pytest.mark.parametrize("text", ["", "9", "9.0b", "9.00", "9.0+PTX", "8,9", "-8.0", "hopper"])
def test_what_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(ArchitectureError, match="is not a CUDA architecture"):
        Architecture.parse(text)


@pytest.mark.parametrize(
    ("cubin", "gpu", "runs"),
    [
        ("8.0", "8.9", True),
        ("8.9", "8.6", False),
        ("12.0", "12.1", True),
        ("9.0", "10.0", False),
        ("9.0a", "9.0", True),
        ("10.0a", "10.3", False),
        ("10.0f", "10.3", True),
    ],
)
def test_a_cubin_runs_on_its_major_version_from_its_minor_one(cubin: str, gpu: str, runs: bool) -> None:
    assert Architecture.parse(cubin).runs_on(Architecture.parse(gpu)) is runs


def test_a_compiler_that_lacks_an_architecture_stops_the_build_with_a_way_out() -> None:
    lowest_cuda = build_constants(PATCHES_DIR / "v2.2.0")["ARCHITECTURES"]
    with pytest.raises(ArchitectureError, match=r"CUDA 12\.4 is too old for 12\.0"):
        refuse_uncompilable(TARGET, "12.4", lowest_cuda)
    refuse_uncompilable(TARGET, "12.8", lowest_cuda)


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
    assert selection.reason == "8.9, 9.0a, for the local GPUs (8.9, 9.0)"


def test_a_gpu_without_a_cubin_of_its_own_gets_the_nearest_that_runs_on_it() -> None:
    assert select(None, TARGET, ("8.7", "12.1")).architectures == (Architecture(8, 6), Architecture(12, 0))


@pytest.mark.parametrize(
    ("local", "architectures", "without"),
    [
        (("10.0",), "8.9", ""),
        (("8.6", "10.3"), "8.6, 8.9", ""),
        (("7.5",), "8.0", "; no kernel runs on 7.5"),
        (("7.5", "8.9"), "8.9", "; no kernel runs on 7.5"),
    ],
)
def test_a_gpu_without_a_cubin_gets_what_it_will_use(
    local: tuple[str, ...], architectures: str, without: str
) -> None:
    selection = select("local", TARGET, local)
    assert selection.reason == f"{architectures}, for the local GPUs ({', '.join(local)}){without}"


def test_without_a_gpu_the_reason_is_said() -> None:
    with pytest.raises(ArchitectureError, match="--arch local: no GPU found on this machine"):
        select("local", TARGET, ())
    with pytest.raises(ArchitectureError, match="--arch local: the NVIDIA driver does not answer"):
        select("local", TARGET, None)
    assert select(None, TARGET, None).reason.startswith(
        "the NVIDIA driver does not answer: all of the target"
    )


@pytest.mark.parametrize("requested", ["8.9;12.0", "12.0, 8.9", "sm_120 sm89", "8.9;8.9;12.0;"])
def test_named_architectures_come_sorted_and_once(requested: str) -> None:
    selection = select(requested, TARGET, ("9.0",))
    assert selection.architectures == (Architecture(8, 9), Architecture(12, 0))
    assert selection.reason == "as asked for: 8.9, 12.0"
    assert not selection.complete
    assert select("8.0;8.6;8.9;9.0;12.0", TARGET, ()).complete


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


def ask(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> tuple[str, ...] | None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return architectures.local_gpus()


def test_no_nvidia_smi_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert architectures.local_gpus() == ()


def test_each_capability_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        'test "$*" = "--query-gpu=compute_cap --format=csv,noheader" && printf "12.0\\n8.6\\n[N/A]\\n8.6\\n"'
    )
    assert ask(tmp_path, monkeypatch, script) == ("8.6", "12.0")


def test_a_driver_without_devices_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(tmp_path, monkeypatch, "echo No devices were found; exit 6") == ()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'could not talk to the driver'; exit 9", "could not talk to the driver"),
        ("exec sleep 60", "nvidia-smi did not end within 0.2 s"),
    ],
)
def test_a_driver_that_does_not_answer_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str,
    message: str,
) -> None:
    monkeypatch.setattr(architectures, "NVIDIA_SMI_SECONDS", 0.2)
    assert ask(tmp_path, monkeypatch, script) is None
    warning = capsys.readouterr().err
    assert warning.startswith("warning: the NVIDIA driver does not answer: ")
    assert message in warning

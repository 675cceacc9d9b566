"""How architectures are written, what runs on what, and which of them a build is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes.tools import program

from builder.target import architectures
from builder.target.architectures import Architecture, Selection, join, refuse_uncompilable
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


@pytest.mark.parametrize(
    ("local", "architectures", "without"),
    [
        (("8.9", "9.0"), "8.9, 9.0a", ""),
        (("8.7", "12.1"), "8.6, 12.0", ""),  # the nearest that runs on it
        (("10.0",), "8.9", ""),  # its PTX
        (("8.6", "10.3"), "8.6, 8.9", ""),
        (("7.5",), "8.0", "; no kernel runs on 7.5"),
        (("7.5", "8.9"), "8.9", "; no kernel runs on 7.5"),
    ],
)
def test_local_gpus_get_what_they_will_use(local: tuple[str, ...], architectures: str, without: str) -> None:
    for requested in (None, "local"):
        selection = select(requested, TARGET, local)
        assert join(selection.architectures) == architectures
        assert selection.reason == f"{architectures}, for the local GPUs ({', '.join(local)}){without}"
        assert not selection.complete


@pytest.mark.parametrize(
    ("local", "problem"), [((), "no GPU found"), (None, "the NVIDIA driver does not answer")]
)
def test_no_gpu_takes_all_of_the_target_and_says_so(local: tuple[str, ...] | None, problem: str) -> None:
    everything = "all of the target (8.0, 8.6, 8.9, 9.0a, 12.0)"
    assert select(None, TARGET[::-1], local) == Selection(TARGET, f"{problem}: {everything}", complete=True)
    assert select("all", TARGET[::-1], local) == Selection(TARGET, everything, complete=True)
    with pytest.raises(ArchitectureError, match=f"--arch local: {problem} on this machine"):
        select("local", TARGET, local)


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


@pytest.mark.parametrize(
    ("script", "capabilities", "warning"),
    [
        ("", (), ""),
        ("echo No devices were found; exit 6", (), ""),
        (
            'test "$1" = --query-gpu=compute_cap && printf "12.0\\n8.6\\n[N/A]\\n8.6\\n"',
            ("8.6", "12.0"),
            "",
        ),
        ("echo 'could not talk to the driver'; exit 9", None, "could not talk to the driver"),
        ("exec /bin/sleep 60", None, "nvidia-smi did not end within 0.2 s"),
    ],
)
def test_nvidia_smi_says_which_gpus_there_are(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str,
    capabilities: tuple[str, ...] | None,
    warning: str,
) -> None:
    monkeypatch.setattr(architectures, "NVIDIA_SMI_SECONDS", 0.2 if "sleep" in script else 15)
    monkeypatch.setenv("PATH", str(tmp_path))
    if script:
        program(tmp_path / "nvidia-smi", f"#!/bin/sh\n{script}\n")
    assert architectures.local_gpus() == capabilities
    said = capsys.readouterr().err
    assert said.startswith("warning: the NVIDIA driver does not answer: " if warning else "")
    assert warning in said

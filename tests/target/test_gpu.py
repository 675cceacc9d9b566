"""The GPUs of this machine: those that a driver names, none, or a driver that does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.target import architectures


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

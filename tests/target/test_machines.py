"""The machines that wheels are for."""

from __future__ import annotations

import platform

import pytest

from builder.target.machines import AARCH64, MACHINES, X86_64, machine_of


@pytest.mark.parametrize(
    ("tag", "machine"),
    [
        ("linux_x86_64", X86_64),
        ("manylinux_2_34_aarch64", AARCH64),
        ("manylinux2014_x86_64", X86_64),
        ("win_arm64", None),
        ("any", None),
    ],
)
def test_the_machine_of_a_tag(tag: str, machine: object) -> None:
    assert machine_of(tag) is machine


def test_the_compiler_for_another_machine_is_a_cross_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert [machine.gxx for machine in MACHINES] == ["g++", "aarch64-linux-gnu-g++"]
    assert "`apt install g++-aarch64-linux-gnu`" in AARCH64.how_to_install_gxx
    assert "`dnf install gcc-c++-aarch64-linux-gnu`" in AARCH64.how_to_install_gxx
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert [machine.gxx for machine in MACHINES] == ["x86_64-linux-gnu-g++", "g++"]
    assert "`apt install g++-x86-64-linux-gnu`" in X86_64.how_to_install_gxx
    assert "`apt install g++`" in AARCH64.how_to_install_gxx

"""What a tag promises, and which symbols are too new for it."""

from __future__ import annotations

import pytest
from made_up_libraries import Elf, make_elf

from builder.util.errors import RepairError
from builder.wheel.elf import SharedLibrary, read_elf
from builder.wheel.manylinux import load_policy, reached_tag, violations, way_out

POLICY = load_policy("manylinux_2_34_x86_64")


def with_versions(library: str, version: str, *symbols: str) -> SharedLibrary:
    return read_elf(make_elf(Elf(needed=[library], versions={library: {version: symbols}})))


def test_policies() -> None:
    assert POLICY.glibc == (2, 34)
    assert load_policy("manylinux2014_x86_64").tag == "manylinux_2_17_x86_64"
    between = load_policy("manylinux_2_33_x86_64")
    assert "2.33" in between.versions["GLIBC"]
    assert "2.34" not in between.versions["GLIBC"]
    assert between.versions["GLIBCXX"] == load_policy("manylinux_2_31_x86_64").versions["GLIBCXX"]
    for tag in ("linux_x86_64", "manylinux_2_34_riscv64", "manylinux_2_1_x86_64"):
        with pytest.raises(RepairError, match=tag):
            load_policy(tag)


def test_each_machine_has_its_own_policies() -> None:
    policy = load_policy("manylinux_2_34_aarch64")
    assert load_policy("manylinux2014_aarch64").tag == "manylinux_2_17_aarch64"
    assert policy.libraries == POLICY.libraries
    other = read_elf(make_elf(Elf(machine=183, versions={"libc.so.6": {"GLIBC_2.34": ["dlopen"]}})))
    assert reached_tag([other]) == "manylinux_2_34_aarch64"
    assert reached_tag([other, with_versions("libc.so.6", "GLIBC_2.2.5", "free")]) == ""
    assert "manylinux_2_34 image" in way_out([], policy)


@pytest.mark.parametrize(
    ("library", "version", "symbol", "newest", "way"),
    [
        ("libc.so.6", "GLIBC_2.38", "__isoc23_strtol", "GLIBC_2.34", "glibc 2.34 or older"),
        ("libstdc++.so.6", "GLIBCXX_3.4.30", "_ZNS", "GLIBCXX_3.4.29", "a g++ older than 12"),
        ("libstdc++.so.6", "GLIBCXX_3.4.32", "_ZNS", "GLIBCXX_3.4.29", "a g++ older than 13.2"),
        ("libstdc++.so.6", "CXXABI_1.3.15", "_ZNS", "CXXABI_1.3.13", "an older g++"),
        ("libc.so.6", "GLIBC_ABI_DT_RELR", "", "GLIBC_2.34", "glibc 2.34 or older"),
    ],
)
def test_symbols_that_are_too_new(library: str, version: str, symbol: str, newest: str, way: str) -> None:
    found = violations(with_versions(library, version, symbol), POLICY)
    assert [(each.library, each.version, each.newest) for each in found] == [(library, version, newest)]
    remedy = way_out(found, POLICY)
    assert "the manylinux_2_34 image (docker compose up)" in remedy
    assert way in remedy


def test_versions_that_no_policy_lists_are_allowed() -> None:
    library = with_versions("libcudart.so.13", "libcudart.so.13", "cudaMalloc")
    assert violations(library, POLICY) == ()


def test_the_tag_that_symbols_reach() -> None:
    old, new = (
        with_versions("libc.so.6", "GLIBC_2.14", "memcpy"),
        with_versions("libc.so.6", "GLIBC_2.32", "x"),
    )
    assert reached_tag([old]) == "manylinux_2_17_x86_64"
    assert reached_tag([old, new]) == "manylinux_2_34_x86_64"
    assert reached_tag([with_versions("libc.so.6", "GLIBC_2.99", "x")]) == ""

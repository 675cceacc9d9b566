"""Reading GPU code: sections written byte by byte, and (e2e) those of real compilers beside cuobjdump."""

from __future__ import annotations

import struct

import pytest
from fakes.libraries import container, entry

from builder.target.architectures import Architecture
from builder.util.errors import AuditError
from builder.wheel.fatbin import Code, cubin_architectures, ptx_architectures, read_fatbin


def fatbin(*architectures: str, compression: str = "") -> bytes:
    return container(*(entry(architecture, compression=compression) for architecture in architectures))


def test_every_field_of_an_entry() -> None:
    assert read_fatbin(container(entry("90a", compression="zstd", debug=True, header=112))) == (
        Code("cubin", Architecture(9, 0, "a"), True),
    )


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_the_suffix_is_read_whatever_the_compression(compression: str) -> None:
    section = fatbin("75", "80", "90", "90a", "100f", "120", "121a", compression=compression)
    assert [str(code.architecture) for code in read_fatbin(section)] == [
        "7.5",
        "8.0",
        "9.0",
        "9.0a",
        "10.0f",
        "12.0",
        "12.1a",
    ]


def test_padding_between_containers_is_skipped() -> None:
    assert read_fatbin(bytes(64)) == ()
    section = fatbin("80") + bytes(24) + container(entry("90", "ptx")) + fatbin("80", "89") + bytes(8)
    assert [(code.kind, str(code.architecture)) for code in read_fatbin(section)] == [
        ("cubin", "8.0"),
        ("ptx", "9.0"),
        ("cubin", "8.0"),
        ("cubin", "8.9"),
    ]
    assert [str(each) for each in cubin_architectures(read_fatbin(section))] == ["8.0", "8.9"]
    assert [str(each) for each in ptx_architectures(read_fatbin(section))] == ["9.0"]


def test_unknown_kinds_are_named_and_are_not_cubins() -> None:
    odd = bytearray(entry("80"))
    struct.pack_into("<H", odd, 0, 64)
    codes = read_fatbin(container(bytes(odd), entry("80", "ltoir")))
    assert [code.kind for code in codes] == ["kind 64", "ltoir"]
    assert cubin_architectures(codes) == ()


GOOD = fatbin("80", "90a")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (b"\x7fELF" + bytes(60), "0x0 .* not a fatbin container"),
        (bytes(3) + GOOD, "not a fatbin container"),
        (GOOD + b"\x50\xed", "0x110 .* buffer"),
        (GOOD[:-8], "not a whole one"),
        (GOOD[:4] + b"\x09" + GOOD[5:], "not a fatbin container"),
        (container(entry("80")[:40]), "buffer"),
        (container(entry("80")[:-8]), "longer than its container"),
        (container(bytes(64)), "sm_0 holds no code"),
        (container(entry("80").replace(b"\x7fELF", bytes(4))), "sm_80 holds no code"),
    ],
)
def test_garbage_is_one_clear_error(section: bytes, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        read_fatbin(section)

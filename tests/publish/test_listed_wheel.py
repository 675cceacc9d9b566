"""What may be said of a wheel."""

from __future__ import annotations

import dataclasses
from typing import Any
from urllib.parse import quote

import pytest
from made_up_wheels import NATIVE, NATIVE_BASIC, UNIVERSAL

from builder.publish.listed_wheel import ListedWheel, SmokeTest, human_size

AT = "https://example.invalid/v1/"
WHEEL = ListedWheel(
    filename=NATIVE,
    cuda="cu130",
    torch="==2.11.*",
    requires_python="==3.12.*",
    summary="Attention",
    architectures=("8.0", "9.0a", "12.0"),
    complete=True,
    verified=True,
    sha256="a" * 64,
    size_bytes=20_700_000,
    metadata_sha256="b" * 64,
    smoke_test=SmokeTest("passed", "passed (120 pass)", "NVIDIA H100"),
    url=AT + quote(NATIVE),
)
MARKUP = "<script>alert(1)</script>"


def test_its_parts_are_those_of_its_name() -> None:
    assert (WHEEL.project, WHEEL.version) == ("sageattention", "2.2.0+cu130.torch2.11")
    assert (WHEEL.python, WHEEL.platform) == ("cp312", "manylinux_2_34_x86_64")
    assert (WHEEL.folder, WHEEL.release, WHEEL.human_torch) == ("cu130/sageattention", "2.2.0", "2.11")
    assert dataclasses.replace(WHEEL, filename=UNIVERSAL, url="").python == "cp310-abi3"
    basic = dataclasses.replace(WHEEL, filename=NATIVE_BASIC, url=f"basic/{quote(NATIVE_BASIC)}")
    assert (basic.portable, basic.folder, basic.beside_the_index) == (False, "basic", True)
    assert human_size(WHEEL.size_bytes) == "20.7 MB"


@pytest.mark.parametrize(
    "filename",
    [
        "",
        None,
        f"../{NATIVE}",
        f"/{NATIVE}",
        f"{NATIVE}\n",
        NATIVE.replace("linux", "linux<b>"),
        NATIVE.replace("linux", "linux x"),
        NATIVE.replace("sage", "Sage"),
        NATIVE.replace("sage", "säge"),
        NATIVE.replace("sageattention", ""),
        NATIVE.replace("2.2.0", "2.2.0-1"),
        NATIVE.replace("2.2.0", "02.2.0"),
        NATIVE.replace(".torch", "_torch"),
        NATIVE.replace(".whl", ".tar.gz"),
        NATIVE.replace("cu130", "cu128"),
    ],
)
def test_a_name_is_a_wheels_normal_one(filename: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        dataclasses.replace(WHEEL, filename=filename, url="")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("cuda", value) for value in ("../..", "/tmp", "cu13", "cu1300", MARKUP, "cu128", 130, None, "")),
        *(("sha256", value) for value in (MARKUP, "A" * 64, "a" * 63, "a" * 64 + "\n", "", None)),
        *(("metadata_sha256", value) for value in (MARKUP, "", None)),
        *(("torch", value) for value in (MARKUP, "2.11", "==2.11.*; x", "== 2.11 ==", None)),
        *(("requires_python", value) for value in (MARKUP, ">=3.10\n", "three", None)),
        *(("summary", value) for value in ("a\nb", "\x1b[2J", "\u202eevil", "\ud800", "x" * 501, None)),
        *(("architectures", value) for value in ((MARKUP,), ("",), (8.9,), ("8.9 ",))),
        *(("complete", value) for value in ("yes", 1, None)),
        *(("verified", value) for value in ("false", 0, None)),
        *(("size_bytes", value) for value in (-1, 1.5, "1", True, None)),
        ("url", f"javascript:alert(1)//{quote(NATIVE)}"),
        ("url", f"ftp://example.invalid/{quote(NATIVE)}"),
        ("url", f"HTTPS://example.invalid/{quote(NATIVE)}"),
        ("url", f"https://me:secret@example.invalid/{quote(NATIVE)}"),
        ("url", f"https://example.invalid/{quote(NATIVE)}?a"),
        ("url", f"https://example.invalid/{quote(NATIVE)}#sha256={'0' * 64}"),
        ("url", f'https://example.invalid/"><b>/{quote(NATIVE)}'),
        ("url", f"https://example.invalid/{quote(UNIVERSAL)}"),
        ("url", f"../{quote(NATIVE)}"),
        ("url", f"cu128/sageattention/{quote(NATIVE)}"),
        ("url", f"//example.invalid/{quote(NATIVE)}"),
    ],
)
def test_what_could_do_harm_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^({key}|Invalid specifier)\b"):
        dataclasses.replace(WHEEL, **{key: value})


@pytest.mark.parametrize(
    "values", [{"outcome": "good"}, {"outcome": None}, {"detail": "a\nb"}, {"on": None}, {"on": "\ud800"}]
)
def test_a_smoke_test_has_an_outcome_and_lines(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="smoke test"):
        SmokeTest(**values)

"""The comparison of two builds names the first difference, down to the section of a library."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from static_server import serving

from builder.finish.sbom import make_sbom
from builder.reproduce import compare, compare_with, first_difference, main
from builder.toolchain.materials import Material
from builder.util.errors import BuilderError, DownloadError, ReproducibilityError, UsageError
from builder.wheel.wheelfile import WheelError

NAME = "a-1-py3-none-any.whl"
METADATA = "a-1.dist-info/METADATA"
SBOM = "a-1.dist-info/sboms/sageattention.cdx.json"


def _wheel(path: Path, members: dict[str, bytes], year: int = 2020) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {METADATA: b"", **members}.items():
            archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), data)
    return path


def test_equal_wheels_have_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = _wheel(tmp_path / "1" / NAME, {"a": b"1"})
    other = _wheel(tmp_path / "2" / NAME, {"a": b"1"})
    assert first_difference(one, other) == ""
    assert compare([one], [other]) == 0
    assert f"equal: {NAME}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("members", "year", "expected"),
    [
        ({"a": b"1", "b": b"2x"}, 2020, "b: first difference at byte 1"),
        ({"a": b"1"}, 2020, "b is in one wheel only"),
        ({"a": b"1", "b": b"3"}, 2020, "b: first difference at byte 0 of 1 and 1, '2' and '3'"),
        ({"a": b"1", "b": b"\0"}, 2020, "b: first difference at byte 0 of 1 and 1"),
        ({"b": b"2", "a": b"1"}, 2020, "in a different order"),
        ({"a": b"1", "b": b"2"}, 2021, f"{METADATA}: date_time differs"),
    ],
)
def test_first_difference_is_named(
    tmp_path: Path, members: dict[str, bytes], year: int, expected: str
) -> None:
    one = _wheel(tmp_path / "1" / NAME, {"a": b"1", "b": b"2"})
    other = _wheel(tmp_path / "2" / NAME, members, year)
    assert expected in first_difference(one, other)
    with pytest.raises(ReproducibilityError, match="not reproducible"):
        compare([one], [other])


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
def test_difference_in_a_library_names_the_section(tmp_path: Path) -> None:
    libraries = []
    for text in ("one", "two"):
        source = tmp_path / f"{text}.cpp"
        source.write_text(f'extern "C" const char *name() {{ return "{text}"; }}')
        library = tmp_path / f"{text}.so"
        command = ["g++", "-shared", "-fPIC", "-Wl,--build-id=none", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        libraries.append(library.read_bytes())
    wheels = [_wheel(tmp_path / str(i) / NAME, {"x.so": data}) for i, data in enumerate(libraries)]
    assert first_difference(*wheels).endswith("; section .rodata differs")
    # The first byte that differs may be in a header, which belongs to no section.
    shifted = _wheel(tmp_path / "longer" / NAME, {"x.so": libraries[0][:64] + b"\x7f" + libraries[0][65:]})
    assert first_difference(wheels[0], shifted).startswith("x.so: first difference at byte 64 of ")
    damaged = _wheel(tmp_path / "damaged" / NAME, {"x.so": libraries[0][:1000]})
    assert "; section " in first_difference(wheels[0], damaged)
    assert first_difference(damaged, wheels[0]).startswith("x.so: first difference at byte 1000 of 1000")


def test_different_wheels_are_an_error(tmp_path: Path) -> None:
    one = _wheel(tmp_path / "a-1-py3-none-any.whl", {})
    other = _wheel(tmp_path / "a-2-py3-none-any.whl", {})
    with pytest.raises(ReproducibilityError, match="different wheels"):
        compare([one], [other])


def _sbom(**versions: str) -> bytes:
    tools = [Material("build-tool", name, version) for name, version in versions.items()]
    wheel = Material("wheel", "a", "1", properties=(("architectures", "8.9 9.0a"), ("target", "cp312-cu130")))
    return make_sbom(wheel, tools, made_by=Material("build-tool", "a builder"), epoch=0)


def test_somebody_elses_wheel_is_compared_with_the_one_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _wheel(tmp_path / "other" / NAME, {"a": b"1"})
    built = [_wheel(tmp_path / name, {"a": b"1"}) for name in ("a-1-py3-none-linux_x86_64.whl", NAME)]
    assert compare_with(other, built) == 0
    assert f"equal: {NAME}" in capsys.readouterr().out
    with pytest.raises(
        ReproducibilityError, match=r"made a-1-py3-none-linux_x86_64.whl, not a-1-py3-none-any"
    ):
        compare_with(other, built[:1])


def test_a_difference_names_the_member_and_the_tools(tmp_path: Path) -> None:
    here = _wheel(
        tmp_path / "here" / NAME, {"a": b"x\nhere", SBOM: _sbom(gxx="12.2.0", nvcc="13.0", old="1")}
    )
    there = _wheel(
        tmp_path / "there" / NAME, {"a": b"x\nthere", SBOM: _sbom(gxx="14.2.1", nvcc="13.0", new="2")}
    )
    with pytest.raises(ReproducibilityError) as caught:
        compare_with(there, [here])
    assert "a: first difference at byte 2 of 6 and 7, 'here' and 'there'" in caught.value.message
    assert "gxx 12.2.0 and 14.2.1; new without one and 2; old 1 and without one" in caught.value.remedy


def test_a_difference_that_is_not_the_tools_says_so(tmp_path: Path) -> None:
    wheels = [
        _wheel(tmp_path / data / NAME, {"a": data.encode(), SBOM: _sbom(gxx="12.2.0")}) for data in "12"
    ]
    with pytest.raises(ReproducibilityError, match="of the same versions"):
        compare_with(wheels[0], wheels[1:])


@pytest.mark.parametrize("sbom", [b"", b"[]", b"\xff", b'{"bomFormat": "CycloneDX", "components": 3}'])
def test_a_damaged_sbom_is_one_error(tmp_path: Path, sbom: bytes) -> None:
    wheels = [_wheel(tmp_path / str(i) / NAME, {SBOM: data}) for i, data in enumerate((_sbom(), sbom))]
    with pytest.raises(WheelError, match="its SBOM can't be read"):
        compare_with(wheels[1], wheels[:1])
    with pytest.raises(WheelError, match="its SBOM can't be read"):
        main(["cp312-cu130", "--against", str(wheels[1])])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no-such.whl", "there is no such file"),
        (__file__, "not the name of a wheel"),
    ],
)
def test_a_wheel_that_is_not_there_ends_before_the_build(given: str, said: str) -> None:
    with pytest.raises(BuilderError, match=said):
        main(["cp312-cu130", "--against", given])


def test_a_wheel_of_another_target_ends_before_the_build(tmp_path: Path) -> None:
    name = NAME.replace("1", "1+cu130")
    wheel = _wheel(tmp_path / name, {SBOM: _sbom()})
    with serving(tmp_path) as server:
        for location in (str(wheel), f"{server.url}/{quote(name)}?download=1"):
            with pytest.raises(UsageError, match=r"a-1\+cu130-py3-none-any.whl is a wheel of cp312-cu130"):
                main(["cp311-cu128", "--against", location])
        with pytest.raises(DownloadError, match="404"):
            main(["cp311-cu128", "--against", f"{server.url}/none.whl"])

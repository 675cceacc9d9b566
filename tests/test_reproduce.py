"""The comparison of two builds names the first difference, down to the section of a library."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from builder.reproduce import compare, first_difference
from builder.util.errors import ReproducibilityError


def _wheel(path: Path, members: dict[str, bytes], year: int = 2020) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), data)
    return path


def test_equal_wheels_have_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = _wheel(tmp_path / "1" / "w.whl", {"a": b"1"})
    other = _wheel(tmp_path / "2" / "w.whl", {"a": b"1"})
    assert first_difference(one, other) == ""
    assert compare([one], [other]) == 0
    assert "equal: w.whl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("members", "year", "expected"),
    [
        ({"a": b"1", "b": b"2x"}, 2020, "b: first difference at byte 1"),
        ({"a": b"1"}, 2020, "b is in one wheel only"),
        ({"b": b"2", "a": b"1"}, 2020, "in a different order"),
        ({"a": b"1", "b": b"2"}, 2021, "a: date_time differs"),
    ],
)
def test_first_difference_is_named(
    tmp_path: Path, members: dict[str, bytes], year: int, expected: str
) -> None:
    one = _wheel(tmp_path / "1" / "w.whl", {"a": b"1", "b": b"2"})
    other = _wheel(tmp_path / "2" / "w.whl", members, year)
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
    wheels = [_wheel(tmp_path / str(i) / "w.whl", {"x.so": data}) for i, data in enumerate(libraries)]
    assert "in section .rodata" in first_difference(*wheels)


def test_different_wheels_are_an_error(tmp_path: Path) -> None:
    one = _wheel(tmp_path / "a.whl", {})
    other = _wheel(tmp_path / "b.whl", {})
    with pytest.raises(ReproducibilityError, match="different wheels"):
        compare([one], [other])

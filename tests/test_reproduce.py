"""The comparison of two builds names the first difference, down to the section of a library."""

from __future__ import annotations

import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from fakes.libraries import compile_library
from fakes.static_server import serving

from builder import reproduce
from builder.reproduce import compare, first_difference, main
from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.util.errors import BuilderError, DownloadError, ReproducibilityError, UsageError
from builder.wheel.sbom import SBOM_NAME, Component, serialize

NAME = "a-1-py3-none-any.whl"
TARGET = "cp312-cu130"


def make_wheel(path: Path, tools: dict[str, str] | None = None, /, year: int = 2020, **files: bytes) -> Path:
    """A wheel of these files whose SBOM names these tools."""
    subject = Component("wheel", "a", "1", properties={"architectures": "8.9 9.0a", "target": TARGET})
    used = [Component("build-tool", name, version) for name, version in (tools or {}).items()]
    sbom = serialize(subject, used, made_by=Component("build-tool", "a builder"), epoch=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    info = f"{path.name.partition('-py3')[0]}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {f"{info}/METADATA": b"", f"{info}/sboms/{SBOM_NAME}": sbom, **files}.items():
            archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), data)
    return path


def test_equal_wheels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheels = [make_wheel(tmp_path / str(number) / NAME, a=b"1") for number in (1, 2)]
    assert first_difference(*wheels) == ""
    compare(wheels[:1], wheels[1:])
    assert f"equal: {NAME}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "year", "expected"),
    [
        ({"a": b"1", "b": b"2x"}, 2020, "b: first difference at byte 1 of 1 and 2, '2' and '2x'"),
        ({"a": b"1"}, 2020, "b is in one wheel only"),
        ({"a": b"1", "b": b"3"}, 2020, "b: first difference at byte 0 of 1 and 1, '2' and '3'"),
        ({"a": b"1", "b": b"2"}, 2021, "the archives differ"),
    ],
)
def test_the_first_difference(tmp_path: Path, files: dict[str, bytes], year: int, expected: str) -> None:
    one = make_wheel(tmp_path / "1" / NAME, a=b"1", b=b"2")
    other = make_wheel(tmp_path / "2" / NAME, None, year, **files)
    assert expected in first_difference(one, other)


def test_a_difference_in_a_library_names_the_section(tmp_path: Path) -> None:
    wheels = []
    for word in ("one", "two"):
        code = f'const char *name() {{ return "{word}"; }}'
        library = compile_library(tmp_path / word / "x.so", code, "-Wl,--build-id=none").read_bytes()
        wheels.append(make_wheel(tmp_path / word / NAME, x=library))
    assert first_difference(*wheels).endswith("; section .rodata differs")


def test_a_difference_names_the_tools(tmp_path: Path) -> None:
    one = make_wheel(tmp_path / "1" / NAME, {"g++": "12.2.0", "nvcc": "13.0", "old": "1"}, a=b"1")
    other = make_wheel(tmp_path / "2" / NAME, {"g++": "14.2.1", "nvcc": "13.0"}, a=b"1")
    with pytest.raises(ReproducibilityError, match="not reproducible") as caught:
        compare([one], [other])
    assert caught.value.remedy == "The tools differ: g++ 12.2.0, g++ 14.2.1, old 1."
    same = make_wheel(tmp_path / "3" / NAME, {"g++": "12.2.0", "nvcc": "13.0", "old": "1"}, a=b"2")
    with pytest.raises(ReproducibilityError) as caught:
        compare([one], [same])
    assert "the same versions of all tools" in caught.value.remedy


class Builds:
    """Stands in for the build: each makes a wheel, and remembers how it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *contents: bytes) -> None:
        self.contents = list(contents)
        self.calls: list[tuple[BuildOptions, int]] = []
        monkeypatch.setattr(reproduce, "build", self.build)

    def build(self, target: Target, options: BuildOptions, *, work_root: Path, hash_seed: int) -> list[Path]:
        assert not list(work_root.parent.rglob("left"))
        self.calls.append((options, hash_seed))
        content = self.contents.pop(0)
        return [make_wheel(options.wheelhouse / name, a=content) for name in ("a-1-py3-none-x.whl", NAME)]


def test_two_builds_that_differ_in_all_that_must_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / f"reproduce-{TARGET}" / "a" / "left"
    left.mkdir(parents=True)  # by a run that was killed
    builds = Builds(monkeypatch, b"1", b"1")
    assert main([TARGET], work_root=tmp_path) == 0
    (one, seed), (other, other_seed) = builds.calls
    assert seed != other_seed
    assert len(str(one.wheelhouse)) < len(str(other.wheelhouse))
    assert (one.cache, one.force, one.jobs) == (False, True, None)
    assert (other.cache, other.force, other.jobs) == (False, True, 1)
    assert [path.name for path in (tmp_path / f"reproduce-{TARGET}").iterdir()] == [".lock"]


def test_against_somebody_elses_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared with the wheel of its name, built for the architectures that its SBOM says."""
    other = make_wheel(tmp_path / "other" / NAME, a=b"1")
    builds = Builds(monkeypatch, b"1", b"2")
    assert main([TARGET, "--against", str(other)], work_root=tmp_path) == 0
    assert builds.calls[0][0].arch == "8.9;9.0a"
    with pytest.raises(ReproducibilityError, match="not reproducible"):
        main([TARGET, "--against", str(other)], work_root=tmp_path)


@pytest.mark.parametrize(
    ("location", "message"),
    [("no-such.whl", "there is no such file"), (__file__, "not the name of a wheel")],
)
def test_a_wheel_that_can_t_be_read_ends_before_the_build(
    tmp_path: Path, location: str, message: str
) -> None:
    with pytest.raises(BuilderError, match=message):
        main([TARGET, "--against", location], work_root=tmp_path)


def test_a_wheel_of_another_target_ends_before_the_build(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "a-1+cu130-py3-none-any.whl")
    with serving(tmp_path) as server:
        for location in (str(wheel), f"{server.url}/{quote(wheel.name)}?download=1"):
            with pytest.raises(UsageError, match=rf"a-1\+cu130-py3-none-any.whl is a wheel of {TARGET}"):
                main(["cp311-cu128", "--against", location], work_root=tmp_path)
        with pytest.raises(DownloadError, match="404"):
            main(["cp311-cu128", "--against", f"{server.url}/none.whl"], work_root=tmp_path)

"""What is read from a wheel, and what is refused."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest
from made_up_libraries import Elf, make_elf, pack_wheel

from builder.wheel.wheelfile import Wheel, WheelError, WheelName, record_problems

NAME = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"
INFO = "sageattention-2.2.0+cu130.torch2.11.dist-info"
FILES = {
    "sageattention/lib/_fused.so": make_elf(Elf()),
    "sageattention/core.py": b"x = 1\n" * 500,
    "sageattention/__init__.py": b"",
    "sageattention-2.2.0+cu130.torch2.11.data/scripts/sage": b"#!python\n",
    "sageattention.libs/libcudart-12345678.so.13": make_elf(Elf(soname="libcudart-12345678.so.13")),
}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return pack_wheel(tmp_path / "in", NAME, FILES, ["Requires-Dist: torch==2.11.*", "Author: Jörg"])


def zipped(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def test_names() -> None:
    name = WheelName.parse(NAME)
    assert name.local_version == "cu130.torch2.11"
    assert name.tag == "cp312-cp312-linux_x86_64"
    several = WheelName.parse("a_b-1.0-1-py2.py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")
    assert (several.version, several.build, several.python) == ("1.0", "1", "py2.py3")
    assert len(several.tags) == 4


@pytest.mark.parametrize(
    "name",
    [
        "a.whl",
        "a-1.0-cp312.whl",
        "a-x-cp312-cp312-any.whl",
        "a-1.0-py3-none-any.zip",
        "a-1.0-py3-none-<b>.whl",
        "a-1.0-py3-none-a\nb.whl",
        "ä-1.0-py3-none-any.whl",
    ],
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(WheelError, match="not the name of a wheel"):
        WheelName.parse(name)


def test_reading(wheel: Path) -> None:
    with Wheel(wheel) as opened:
        assert opened.dist_info == INFO
        assert opened.metadata["Name"] == "sageattention"
        assert opened.metadata["Requires-Dist"] == "torch==2.11.*"
        assert opened.wheel_metadata["Tag"] == "cp312-cp312-linux_x86_64"
        assert opened.record["sageattention/core.py"].size_bytes == 3000
        assert opened.elf_names() == (
            "sageattention.libs/libcudart-12345678.so.13",
            "sageattention/lib/_fused.so",
        )
        assert record_problems(opened) == []
        with pytest.raises(WheelError, match=r"nothing\.py is missing"):
            opened.read("nothing.py")


@pytest.mark.parametrize("name", ["../evil.py", "/etc/passwd", "a/../../b", "a\\b", "./a", "a//b"])
def test_unsafe_names_are_refused(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / NAME, [(name, b""), (f"{INFO}/METADATA", b"")])
    with pytest.raises(WheelError, match="not safe to unpack"):
        Wheel(path)


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("sageattention/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / NAME, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(WheelError, match="symbolic link"):
        Wheel(tmp_path / NAME)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_double_names_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / NAME, [("a", b"1"), ("a", b"2")])
    with pytest.raises(WheelError, match="holds a twice"):
        Wheel(path)


def test_no_dist_info_no_wheel(tmp_path: Path) -> None:
    with pytest.raises(WheelError, match=r"0 folders \*\.dist-info"):
        Wheel(zipped(tmp_path / NAME, [("a", b"")]))
    with pytest.raises(WheelError, match=r"2 folders \*\.dist-info"):
        Wheel(zipped(tmp_path / NAME, [("a.dist-info/METADATA", b""), ("b.dist-info/METADATA", b"")]))


def test_garbage_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no zip")
    with pytest.raises(WheelError, match="can't be read as a wheel"):
        Wheel(tmp_path / NAME)
    with pytest.raises(WheelError, match="can't be read as a wheel"):
        Wheel(tmp_path / "absent" / NAME)


def test_damaged_members_are_told(wheel: Path) -> None:
    data = bytearray(wheel.read_bytes())
    with zipfile.ZipFile(wheel) as archive:
        start = archive.getinfo("sageattention/core.py").header_offset
    data[start + 60] ^= 0xFF
    wheel.write_bytes(data)
    with Wheel(wheel) as opened, pytest.raises(WheelError, match=r"core\.py is damaged"):
        opened.read("sageattention/core.py")


def test_record_problems(tmp_path: Path) -> None:
    good = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"  # of nothing
    lines = [
        f"same.py,{good},0",
        f"changed.py,{good},0",
        f"size.py,{good},7",
        "weak.py,md5=1B2M2Y8AsgTpgAmY7PhCfg,0",
        "bare.py,,",
        f"absent.py,{good},0",
        f"{INFO}/METADATA,{good},0",
        f"{INFO}/RECORD,,",
    ]
    members = [
        (name, b"") for name in ("same.py", "size.py", "weak.py", "bare.py", "extra.py", f"{INFO}/METADATA")
    ]
    members += [("changed.py", b"x"), (f"{INFO}/RECORD", "\n".join(lines).encode())]
    with Wheel(zipped(tmp_path / NAME, members)) as opened:
        assert sorted(record_problems(opened)) == [
            "absent.py is in RECORD and not in the wheel",
            "bare.py has no digest in RECORD",
            "changed.py has a different digest in RECORD",
            "extra.py is not in RECORD",
            "size.py is 0 bytes long and RECORD says 7",
            "weak.py has a digest by md5 in RECORD, which PEP 427 doesn't permit",
        ]


def test_a_line_that_is_no_record(tmp_path: Path) -> None:
    path = zipped(tmp_path / NAME, [(f"{INFO}/RECORD", b"one,two\n")])
    with Wheel(path) as opened, pytest.raises(WheelError, match="RECORD has the line 'one,two'"):
        record_problems(opened)

"""What is read from a wheel, and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from fakes.libraries import INFO, NAME, pack_wheel

from builder.wheel.wheelfile import Wheel, WheelError, record_problems


def zipped(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def test_reading(tmp_path: Path) -> None:
    files = {"sageattention/core.py": b"x = 1\n", "sageattention/lib/_fused.so": b"\x7fELF..."}
    with Wheel(pack_wheel(tmp_path, files, ["Requires-Dist: torch==2.11.*", "Author: Jörg"])) as wheel:
        assert wheel.dist_info == INFO
        assert wheel.label.torch == "2.11"
        assert wheel.metadata["name"] == "sageattention"
        assert wheel.metadata["author"] == "Jörg"
        assert wheel.metadata["requires_dist"] == ["torch==2.11.*"]
        assert wheel.wheel_metadata["Tag"] == "cp312-cp312-linux_x86_64"
        assert wheel.elf_names() == ("sageattention/lib/_fused.so",)
        assert wheel.read("sageattention/core.py") == b"x = 1\n"
        assert record_problems(wheel) == []
        with pytest.raises(WheelError, match=r"nothing\.py is missing"):
            wheel.read("nothing.py")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../evil.py", b""), (f"{INFO}/METADATA", b"")], "not safe to unpack"),
        ([("/etc/passwd", b""), (f"{INFO}/METADATA", b"")], "not safe to unpack"),
        ([("a", b"1"), ("a", b"2"), (f"{INFO}/METADATA", b"")], "holds a file twice"),
        ([("a", b"")], r"0 folders \*\.dist-info"),
        ([("a.dist-info/METADATA", b""), ("b.dist-info/METADATA", b"")], r"2 folders \*\.dist-info"),
    ],
)
def test_what_is_refused(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(WheelError, match=message):
        Wheel(zipped(tmp_path / NAME, members))


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no zip")
    for path in (tmp_path / NAME, tmp_path / "absent" / NAME):
        with pytest.raises(WheelError, match="can't be read as a wheel"):
            Wheel(path)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = pack_wheel(tmp_path, {"sageattention/core.py": b"x = 1\n" * 500})
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with Wheel(path) as wheel, pytest.raises(WheelError, match=r"core\.py is damaged"):
        wheel.read("sageattention/core.py")


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
    names = ("same.py", "size.py", "weak.py", "bare.py", "extra.py", f"{INFO}/METADATA", f"{INFO}/RECORD.jws")
    members = [(name, b"") for name in names]
    members += [("changed.py", b"x"), (f"{INFO}/RECORD", "\n".join(lines).encode())]
    with Wheel(zipped(tmp_path / NAME, members)) as wheel:
        assert record_problems(wheel) == [
            "absent.py is in RECORD and not in the wheel",
            "bare.py has no digest of at least SHA-256 in RECORD",
            "changed.py has a different digest in RECORD",
            "extra.py is not in RECORD",
            "size.py is 0 bytes long and RECORD says 7",
            "weak.py has no digest of at least SHA-256 in RECORD",
        ]


def test_a_line_that_is_no_record(tmp_path: Path) -> None:
    with (
        Wheel(zipped(tmp_path / NAME, [(f"{INFO}/RECORD", b"one,two\n")])) as wheel,
        pytest.raises(WheelError, match="RECORD has the line 'one,two'"),
    ):
        record_problems(wheel)

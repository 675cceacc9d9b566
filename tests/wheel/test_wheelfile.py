"""What is read from a wheel, and what is refused; and what is written: equal content gives equal bytes."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from pathlib import Path

import pytest
from fakes.libraries import EPOCH, INFO, NAME, pack_wheel

from builder.wheel.label import WheelError
from builder.wheel.wheelfile import Wheel, record_problems, write_wheel


def zipped(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def test_reading(tmp_path: Path) -> None:
    files = {"sageattention/core.py": b"x = 1\n"}
    with Wheel(pack_wheel(tmp_path, files, ["Requires-Dist: torch==2.11.*", "Author: Jörg"])) as wheel:
        assert wheel.dist_info == INFO
        assert wheel.label.torch == "2.11"
        assert wheel.metadata["author"] == "Jörg"
        assert wheel.metadata["requires_dist"] == ["torch==2.11.*"]
        assert wheel.wheel_metadata["Tag"] == "cp312-cp312-linux_x86_64"
        assert wheel.read("sageattention/core.py") == b"x = 1\n"
        assert record_problems(wheel) == []
        with pytest.raises(WheelError, match=r"nothing\.py is missing"):
            wheel.read("nothing.py")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "members",
    [
        [("a", b"1"), ("a", b"2"), (f"{INFO}/METADATA", b"")],
        [("a", b"")],
        [("a.dist-info/METADATA", b""), ("b.dist-info/METADATA", b"")],
    ],
)
def test_what_is_refused(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    with pytest.raises(WheelError, match="holds a file twice, or not one folder"):
        Wheel(zipped(tmp_path / NAME, members))


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
        "weak.py,md5=1B2M2Y8AsgTpgAmY7PhCfg,0",
        "bare.py",
        f"absent.py,{good},0",
        f"{INFO}/METADATA,{good},0",
        f"{INFO}/RECORD,,",
    ]
    names = ("same.py", "weak.py", "bare.py", "extra.py", f"{INFO}/METADATA", f"{INFO}/RECORD.jws")
    members = [(name, b"") for name in names]
    members += [("changed.py", b"x"), (f"{INFO}/RECORD", "\n".join(lines).encode())]
    with Wheel(zipped(tmp_path / NAME, members)) as wheel:
        assert record_problems(wheel) == [
            "absent.py is in RECORD and not in the wheel",
            "bare.py has no digest of at least SHA-256 in RECORD",
            "changed.py has a different digest in RECORD",
            "extra.py has no digest of at least SHA-256 in RECORD",
            "weak.py has no digest of at least SHA-256 in RECORD",
        ]


# Something to compress: 60 kB of words, many of them more than once.
WORDS = b" ".join(
    hashlib.sha256(str(i % 4001).encode()).hexdigest()[: 2 + i % 7].encode() for i in range(12000)
)
FILES = {
    "sageattention/words.txt": WORDS,
    "sageattention/lib/_fused.so": b"\x7fELF one",
    "sageattention/core.py": b"x = 1\n" * 500,
    "sageattention/__init__.py": b"",
    "sageattention/\u00fc.txt": b"not ASCII",
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\n",
    "sageattention-2.2.0+cu130.torch2.11.data/scripts/sage": b"#!python\n",
    "sageattention.libs/libcudart-12345678.so.13": b"\x7fELF two",
}


def test_order_times_modes_and_record(tmp_path: Path) -> None:
    path = write_wheel(tmp_path / "out" / NAME, FILES, epoch=EPOCH)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
        last = [f"{INFO}/{name}" for name in ("METADATA", "RECORD")]
        assert [info.filename for info in infos] == [*sorted(FILES.keys() - {*last}), *last]
        assert {info.date_time for info in infos} == {(2025, 10, 28, 1, 0, 16)}
        modes = {info.filename: stat.S_IMODE(info.external_attr >> 16) for info in infos}
        assert {name for name, mode in modes.items() if mode == 0o755} == {
            "sageattention/lib/_fused.so",
            "sageattention-2.2.0+cu130.torch2.11.data/scripts/sage",
            "sageattention.libs/libcudart-12345678.so.13",
        }
        assert set(modes.values()) == {0o755, 0o644}
        assert archive.getinfo("sageattention/core.py").compress_size < 100
    with Wheel(path) as wheel:
        assert record_problems(wheel) == []
        assert {name: wheel.read(name) for name in FILES} == FILES
    assert list(path.parent.iterdir()) == [path]


def test_equal_content_gives_the_known_bytes(tmp_path: Path) -> None:
    """Another Python, zlib or machine must not change them; a new `deflate` may, knowingly."""
    one = write_wheel(tmp_path / "one" / NAME, FILES, epoch=EPOCH).read_bytes()
    other = write_wheel(tmp_path / "other" / NAME, dict(reversed(FILES.items())), epoch=EPOCH).read_bytes()
    later = write_wheel(tmp_path / "later" / NAME, FILES, epoch=EPOCH + 60).read_bytes()
    assert one == other != later
    known = "5a4f2597570e8d373b6c2d9b58315d88d5f5000ea8c8dc31d1bb4c3a686e24cd"
    assert hashlib.sha256(one).hexdigest() == known

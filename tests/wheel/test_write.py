"""Equal content gives equal bytes, and nothing is half-written."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from pathlib import Path

from fakes.libraries import INFO, NAME

from builder.wheel.wheelfile import Wheel, record_problems
from builder.wheel.write import write_wheel

EPOCH = 1761613216
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


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    one = write_wheel(tmp_path / "one" / NAME, FILES, epoch=EPOCH).read_bytes()
    other = write_wheel(tmp_path / "other" / NAME, dict(reversed(FILES.items())), epoch=EPOCH).read_bytes()
    later = write_wheel(tmp_path / "later" / NAME, FILES, epoch=EPOCH + 60).read_bytes()
    assert one == other != later


def test_times_before_zip_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_wheel(tmp_path / NAME, FILES, epoch=0)) as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


def test_the_bytes_are_known(tmp_path: Path) -> None:
    """Another Python, zlib or machine must not change them; a new `deflate` may, knowingly."""
    path = write_wheel(tmp_path / NAME, FILES, epoch=EPOCH)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == KNOWN_DIGEST


KNOWN_DIGEST = "5a4f2597570e8d373b6c2d9b58315d88d5f5000ea8c8dc31d1bb4c3a686e24cd"

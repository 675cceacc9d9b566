"""Equal content gives equal bytes, and nothing is half-written."""

from __future__ import annotations

import hashlib
import io
import os
import random
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fakes.wheels import INFO, NAME, pack_wheel

from builder.wheel.rewrite import rewrite
from builder.wheel.wheelfile import Wheel, record_problems

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
    "sageattention-2.2.0+cu130.torch2.11.data/scripts/sage": b"#!python\n",
    "sageattention.libs/libcudart-12345678.so.13": b"\x7fELF two",
}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return pack_wheel(tmp_path / "in", FILES, ["Requires-Dist: torch==2.11.*"])


def test_order_times_modes_and_record(wheel: Path, tmp_path: Path) -> None:
    made = rewrite(wheel, tmp_path / "out", epoch=EPOCH)
    assert made.name == NAME
    with zipfile.ZipFile(made) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
        last = [f"{INFO}/{name}" for name in ("LICENSE", "METADATA", "WHEEL", "RECORD")]
        assert [info.filename for info in infos] == [*sorted(FILES), *last]
        assert {info.date_time for info in infos} == {(2025, 10, 28, 1, 0, 16)}
        modes = {info.filename: stat.S_IMODE(info.external_attr >> 16) for info in infos}
        assert {name for name, mode in modes.items() if mode == 0o755} == set(FILES) - {
            "sageattention/core.py",
            "sageattention/__init__.py",
            "sageattention/words.txt",
        }
        assert set(modes.values()) == {0o755, 0o644}
        assert archive.getinfo("sageattention/core.py").compress_size < 100
    with Wheel(made) as opened:
        assert record_problems(opened) == []
        assert [opened.read(name) for name in FILES] == list(FILES.values())


def test_equal_content_gives_equal_bytes(wheel: Path, tmp_path: Path) -> None:
    once = rewrite(wheel, tmp_path / "once", epoch=EPOCH)
    shuffled = tmp_path / "shuffled" / NAME
    shuffled.parent.mkdir()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(shuffled, "w", zipfile.ZIP_STORED) as archive:
        members = [(name, source.read(name)) for name in source.namelist()]
        random.Random(1).shuffle(members)
        archive.writestr("sageattention/", b"")
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name, (1999, 1, 1, 0, 0, 0)), data)
    other = rewrite(shuffled, tmp_path / "other", epoch=EPOCH)
    again = rewrite(once, tmp_path / "again", epoch=EPOCH)
    assert once.read_bytes() == other.read_bytes() == again.read_bytes()
    assert rewrite(wheel, tmp_path / "later", epoch=EPOCH + 60).read_bytes() != once.read_bytes()


def test_the_bytes_are_known(tmp_path: Path) -> None:
    """Another Python, zlib, machine or hash seed must not change them; a new `deflate` may, knowingly."""
    made = rewrite(pack_wheel(tmp_path / "in", FILES), tmp_path / "out", epoch=EPOCH)
    assert hashlib.sha256(made.read_bytes()).hexdigest() == KNOWN_DIGEST


def test_hash_seed_and_time_zone_do_not_matter(wheel: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from builder.wheel.rewrite import rewrite; "
    code += f"rewrite(Path(sys.argv[1]), Path(sys.argv[2]), epoch={EPOCH})"
    digests = set()
    for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo")):
        out = tmp_path / seed
        env = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "TZ": zone,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        subprocess.run([sys.executable, "-c", code, str(wheel), str(out)], check=True, env=env)
        digests.add(hashlib.sha256((out / NAME).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_adding_removing_and_editing(wheel: Path, tmp_path: Path) -> None:
    made = rewrite(
        wheel,
        tmp_path / "out",
        add={
            "sageattention/new.py": b"new",
            "sageattention/core.py": b"replaced",
            "sageattention/ü.txt": b"u",
        },
        remove=["sageattention/__init__.py"],
        epoch=0,
    )
    with Wheel(made) as opened:
        assert record_problems(opened) == []
        assert opened.read("sageattention/core.py") == b"replaced"
        assert opened.read("sageattention/ü.txt") == b"u"
        assert "sageattention/__init__.py" not in opened.names
    with zipfile.ZipFile(made) as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


def test_a_signature_that_no_longer_fits_is_left_out(tmp_path: Path) -> None:
    wheel = pack_wheel(tmp_path / "in", {f"{INFO}/RECORD.jws": b"{}"})
    with Wheel(rewrite(wheel, tmp_path / "out", epoch=EPOCH)) as opened:
        assert f"{INFO}/RECORD.jws" not in opened.names


def test_rewriting_in_place(wheel: Path) -> None:
    made = rewrite(wheel, wheel.parent, epoch=EPOCH)
    assert made == wheel
    assert list(wheel.parent.iterdir()) == [wheel]
    with zipfile.ZipFile(io.BytesIO(wheel.read_bytes())) as archive:
        assert archive.testzip() is None


KNOWN_DIGEST = "17b317e9b58b14f3ae3d87b3cf34db00550508fb0f49a1179f3a418ac12b8a52"

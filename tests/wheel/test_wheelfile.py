"""Wheels as files: what is refused, and that equal content gives equal bytes."""

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
from made_up_libraries import Elf, make_elf, pack_wheel

from builder.wheel.wheelfile import Wheel, WheelError, WheelName, parse_headers, record_problems, rewrite

NAME = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"
INFO = "sageattention-2.2.0+cu130.torch2.11.dist-info"
EPOCH = 1761613216
# Something to compress: 60 kB of words, many of them more than once.
WORDS = b" ".join(
    hashlib.sha256(str(i % 4001).encode()).hexdigest()[: 2 + i % 7].encode() for i in range(12000)
)
FILES = {
    "sageattention/words.txt": WORDS,
    "sageattention/lib/_fused.so": make_elf(Elf()),
    "sageattention/core.py": b"x = 1\n" * 500,
    "sageattention/__init__.py": b"",
    "sageattention-2.2.0+cu130.torch2.11.data/scripts/sage": b"#!python\n",
    "sageattention.libs/libcudart-12345678.so.13": make_elf(Elf(soname="libcudart-12345678.so.13")),
}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return pack_wheel(tmp_path / "in", NAME, FILES, ["Requires-Dist: torch==2.11.*"])


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
    assert (several.version, several.python) == ("1.0", "py2.py3")
    assert len(several.tags) == 4


@pytest.mark.parametrize(
    "name", ["a.whl", "a-1.0-cp312.whl", "a-x-cp312-cp312-any.whl", "a-1.0-py3-none-any.zip"]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(WheelError, match="not the name of a wheel"):
        WheelName.parse(name)


def test_reading(wheel: Path) -> None:
    with Wheel(wheel) as opened:
        assert opened.dist_info == INFO
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
    with pytest.raises(WheelError, match="twice"):
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
            "changed.py has other bytes than RECORD says",
            "extra.py is not in RECORD",
            "size.py is 0 bytes long and RECORD says 7",
            "weak.py has a digest by md5 in RECORD, which PEP 427 doesn't permit",
        ]


def test_a_line_that_is_no_record(tmp_path: Path) -> None:
    path = zipped(tmp_path / NAME, [(f"{INFO}/RECORD", b"one,two\n")])
    with Wheel(path) as opened, pytest.raises(WheelError, match="RECORD has the line 'one,two'"):
        record_problems(opened)


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
    made = rewrite(pack_wheel(tmp_path / "in", NAME, FILES), tmp_path / "out", epoch=EPOCH)
    assert hashlib.sha256(made.read_bytes()).hexdigest() == KNOWN_DIGEST


def test_hash_seed_and_time_zone_do_not_matter(wheel: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from builder.wheel.wheelfile import rewrite; "
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
        edit_metadata=lambda text: text.replace(b"# Read me", b"# Edited"),
        epoch=0,
    )
    with Wheel(made) as opened:
        assert record_problems(opened) == []
        assert opened.read("sageattention/core.py") == b"replaced"
        assert opened.read("sageattention/ü.txt") == b"u"
        assert "sageattention/__init__.py" not in opened.names
        assert opened.metadata.get_payload() == "# Edited\n"
    with zipfile.ZipFile(made) as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


def test_a_new_tag(wheel: Path, tmp_path: Path) -> None:
    made = rewrite(
        wheel, tmp_path, tag="cp312-cp312-manylinux_2_34_x86_64.manylinux_2_35_x86_64", epoch=EPOCH
    )
    assert made.name.endswith("-cp312-cp312-manylinux_2_34_x86_64.manylinux_2_35_x86_64.whl")
    with Wheel(made) as opened:
        assert opened.wheel_metadata.get_all("Tag") == [
            "cp312-cp312-manylinux_2_34_x86_64",
            "cp312-cp312-manylinux_2_35_x86_64",
        ]
        assert opened.wheel_metadata["Root-Is-Purelib"] == "false"


def test_a_signature_that_no_longer_fits_is_left_out(tmp_path: Path) -> None:
    wheel = pack_wheel(tmp_path / "in", NAME, {f"{INFO}/RECORD.jws": b"{}"})
    with Wheel(rewrite(wheel, tmp_path / "out", epoch=EPOCH)) as opened:
        assert f"{INFO}/RECORD.jws" not in opened.names


def test_nothing_half_written(wheel: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(WheelError, match="not safe to unpack"):
        rewrite(wheel, out, add={"../a": b""}, epoch=EPOCH)
    with pytest.raises(WheelError, match="can't leave out nothing"):
        rewrite(wheel, out, remove=["nothing"], epoch=EPOCH)

    def fail(_: bytes) -> bytes:
        raise WheelError("no")

    with pytest.raises(WheelError, match="no"):
        rewrite(wheel, out, edit_metadata=fail, epoch=EPOCH)
    assert not out.exists()


def test_rewriting_in_place(wheel: Path) -> None:
    made = rewrite(wheel, wheel.parent, epoch=EPOCH)
    assert made == wheel
    assert list(wheel.parent.iterdir()) == [wheel]
    with zipfile.ZipFile(io.BytesIO(wheel.read_bytes())) as archive:
        assert archive.testzip() is None


def test_headers_with_other_letters() -> None:
    assert parse_headers("Name: a\nAuthor: Jörg\n\ntext".encode())["Name"] == "a"


KNOWN_DIGEST = "6de9ae155875069bb9306e2baa0e8d38810ce1d94aacd5c465686042e87cc5ae"

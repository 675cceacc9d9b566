"""The wheelhouse knows when a build is up to date, and heals what a killed one left."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.finish.store import read_record, record_path, store, up_to_date
from builder.util.files import file_sha256

NAMES = ("a-1-py3-none-linux_x86_64.whl", "a-1-py3-none-manylinux_2_34_x86_64.whl")


def build(tmp_path: Path, house: Path, fingerprint: str, **record: object) -> list[Path]:
    """Store wheels whose content is the fingerprint."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    for name in NAMES:
        (out / name).write_text(fingerprint)
    wheels = [out / name for name in NAMES]
    return store(wheels, {"fingerprint": fingerprint, **record}, house)


def test_wheels_and_records_lie_side_by_side(tmp_path: Path) -> None:
    house = tmp_path / "house"
    stored = build(tmp_path, house, "f", target="t")
    assert stored == [house / name for name in NAMES]
    assert {path.name for path in house.iterdir()} == {*NAMES, *(f"{name}.json" for name in NAMES)}
    assert read_record(stored[0]) == {
        "fingerprint": "f",
        "target": "t",
        "wheels_of_build": 2,
        "name": NAMES[0],
        "sha256": file_sha256(stored[0]),
    }


def test_up_to_date_needs_every_wheel_of_the_build_whole(tmp_path: Path) -> None:
    stored = build(tmp_path, tmp_path, "f")
    assert up_to_date(tmp_path, "f") == stored
    assert up_to_date(tmp_path, "other") == []
    assert up_to_date(tmp_path / "none", "f") == []
    stored[0].write_bytes(b"damaged")
    assert up_to_date(tmp_path, "f") == []
    stored[0].unlink()
    record_path(stored[1]).write_text("[]")
    assert up_to_date(tmp_path, "f") == []


@pytest.mark.parametrize("moment", range(3))
def test_what_a_killed_build_left_is_built_again(tmp_path: Path, moment: int) -> None:
    """The files move to their places one by one; after each of them, a build may be killed."""
    house, new = tmp_path / "house", tmp_path / "new"
    build(tmp_path, house, "old")
    build(tmp_path, new, "new")
    for number, name in enumerate(NAMES):
        if moment >= 2 * number:
            record_path(house / name).unlink()
            (new / name).replace(house / name)
        if moment > 2 * number:
            record_path(new / name).replace(record_path(house / name))
    assert up_to_date(house, "old") == []
    assert up_to_date(house, "new") == []
    assert build(tmp_path, house, "new") == up_to_date(house, "new")
    assert {path.name for path in house.iterdir()} == {*NAMES, *(f"{name}.json" for name in NAMES)}


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"fingerprint": "f"}'])
def test_a_broken_record_never_ends_a_build(tmp_path: Path, content: bytes) -> None:
    stored = build(tmp_path, tmp_path, "f")
    record_path(stored[0]).write_bytes(content)
    assert up_to_date(tmp_path, "f") == []
    (tmp_path / "c-1-py3-none-any.whl").write_bytes(b"")
    record_path(tmp_path / "c-1-py3-none-any.whl").mkdir()
    assert read_record(tmp_path / "c-1-py3-none-any.whl") == {}
    assert build(tmp_path, tmp_path, "f") == up_to_date(tmp_path, "f")


def test_what_a_remote_cache_gave_is_not_up_to_date_without_one(tmp_path: Path) -> None:
    build(tmp_path, tmp_path, "f", cache_remote="redis://cache.example")
    assert len(up_to_date(tmp_path, "f", shared=True)) == 2
    assert up_to_date(tmp_path, "f", shared=False) == []

"""The wheelhouse takes all of a build or nothing, and knows when a build is up to date."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from builder.finish.wheelhouse import locked, publish, read_record, record_path, up_to_date
from builder.util.digest import file_sha256
from builder.util.errors import UsageError


def _wheel(folder: Path, name: str, content: bytes = b"wheel") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


def _record(wheel: Path, fingerprint: str, wheels_of_build: int = 1) -> dict[str, object]:
    return {
        "fingerprint": fingerprint,
        "wheels_of_build": wheels_of_build,
        "wheel": {"sha256": file_sha256(wheel)},
    }


def test_publish_puts_wheel_and_record_side_by_side(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path / "out", "a-1-py3-none-any.whl")
    [published] = publish([(wheel, _record(wheel, "f"))], tmp_path / "house")
    assert published.read_bytes() == b"wheel"
    record = read_record(published)
    assert record is not None
    assert record["fingerprint"] == "f"
    assert sorted(path.name for path in (tmp_path / "house").iterdir()) == [
        "a-1-py3-none-any.whl",
        "a-1-py3-none-any.whl.json",
    ]


def test_failed_publish_leaves_the_wheelhouse_as_it_was(tmp_path: Path) -> None:
    house = tmp_path / "house"
    old = _wheel(house, "a-1-py3-none-any.whl", b"old")
    new = _wheel(tmp_path / "out", "a-1-py3-none-any.whl", b"new")
    missing = tmp_path / "out" / "b-1-py3-none-any.whl"
    with pytest.raises(UsageError, match="can't be written"):
        publish([(new, {}), (missing, {})], house)
    assert old.read_bytes() == b"old"
    assert [path.name for path in house.iterdir()] == ["a-1-py3-none-any.whl"]


def test_wheelhouse_that_is_a_file_is_refused(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path / "out", "a-1-py3-none-any.whl")
    (tmp_path / "house").write_text("not a folder")
    with pytest.raises(UsageError, match="--wheelhouse"):
        publish([(wheel, {})], tmp_path / "house")


def test_up_to_date_needs_every_wheel_of_the_build_whole(tmp_path: Path) -> None:
    house = tmp_path / "house"
    wheels = [_wheel(tmp_path / "out", f"a-1-py3-none-{tag}.whl", tag.encode()) for tag in ("any", "x")]
    published = publish([(wheel, _record(wheel, "f", 2)) for wheel in wheels], house)
    assert up_to_date(house, "f") == sorted(published)
    assert up_to_date(house, "other") == []
    published[0].write_bytes(b"damaged")
    assert up_to_date(house, "f") == []
    published[0].unlink()
    assert up_to_date(house, "f") == []


def test_record_that_is_no_json_counts_as_none(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path, "a-1-py3-none-any.whl")
    record_path(wheel).write_text("{")
    assert read_record(wheel) is None
    record_path(wheel).write_text(json.dumps([1]))
    assert read_record(wheel) is None


def test_second_build_at_the_same_time_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from builder.finish.wheelhouse import locked\n"
        "with locked(Path(sys.argv[1])): print('held')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with locked(tmp_path):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "Another build is running" in refused.stderr
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "held\n"

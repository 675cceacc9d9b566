"""The wheelhouse takes all of a build or nothing, and knows when a build is up to date."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builder.finish.wheelhouse import (
    locked,
    publish,
    read_record,
    record_path,
    up_to_date,
)
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
    assert sorted(path.name for path in (tmp_path / "house").glob("[!.]*")) == [
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
    assert [path.name for path in house.glob("[!.]*")] == ["a-1-py3-none-any.whl"]


def test_wheelhouse_that_is_a_file_is_refused(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path / "out", "a-1-py3-none-any.whl")
    (tmp_path / "house").write_text("not a folder")
    with pytest.raises(UsageError, match="--wheelhouse"):
        publish([(wheel, {})], tmp_path / "house")


NAMES = ["a-1-py3-none-any.whl", "b-1-py3-none-any.whl"]


def _publish(tmp_path: Path, house: Path, content: str) -> None:
    wheels = [_wheel(tmp_path / "out", name, content.encode()) for name in NAMES]
    publish([(wheel, _record(wheel, content, 2)) for wheel in wheels], house)


def test_what_a_killed_process_had_committed_is_completed(tmp_path: Path) -> None:
    """The shape that it leaves: some files in their places, some not yet."""
    house, new = tmp_path / "house", tmp_path / "new"
    _publish(tmp_path, house, "old")
    _publish(tmp_path, new, "new")
    (new / NAMES[0]).replace(house / NAMES[0])
    new.rename(house / ".committed")
    (house / ".staged").mkdir()
    assert up_to_date(house, "new") == [house / name for name in NAMES]
    _publish(tmp_path, house, "newer")
    assert sorted(path.name for path in house.iterdir() if path.name != ".lock") == [
        name + suffix for name in NAMES for suffix in ("", ".json")
    ]


# Publishes again and again in a process that is stopped, and looks each time at what it left.
STOPPED = """
import os, signal, sys, time
from pathlib import Path
from builder.finish.wheelhouse import up_to_date
from test_wheelhouse import NAMES, _publish
folder, number = Path(sys.argv[1]), int(sys.argv[2])
house = folder / "house"
for each in (signal.SIGINT, signal.SIGTERM):  # a shell's background job starts with the first ignored
    signal.signal(each, signal.default_int_handler)
for attempt in range(8):
    _publish(folder, house, f"{attempt}")
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(begin, b"x")  # until here, Python forgets the signals of a forked process
            for again in range(200):
                _publish(folder, house, f"{attempt}.{again}")
        finally:
            os._exit(0)
    os.read(begun, 1)
    time.sleep(0.0037 * (attempt + 1))
    os.kill(child, number)
    os.waitpid(child, 0)
    hidden = {path.name for path in house.glob(".*")} - {".lock"}
    if number == signal.SIGKILL:
        up_to_date(house, "")
        assert not (house / ".committed").exists()
    else:
        assert not hidden, hidden
    texts = {(house / name).read_text() for name in NAMES}
    assert len(texts) == 1, texts
    assert len(up_to_date(house, *texts)) == len(NAMES), texts
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_process_leaves_all_of_a_build_or_nothing(tmp_path: Path, number: int) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", STOPPED, str(tmp_path), str(int(number))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_in_a_wheels_place_stops_it_before_anything_moves(tmp_path: Path) -> None:
    house = tmp_path / "house"
    _publish(tmp_path, house, "old")
    (house / NAMES[1]).unlink()
    (house / NAMES[1]).mkdir()
    with pytest.raises(UsageError, match="a folder has the name of a wheel"):
        _publish(tmp_path, house, "new")
    assert (house / NAMES[0]).read_text() == "old"
    assert not (house / ".committed").exists()


BROKEN = [
    b"",
    b"\xff",
    b"[]",
    b"[" * 100_000,
    b"9" * 5000,
    b'{"fingerprint": "f", "wheel": 1}',
    b'{"fingerprint": "f", "wheel": {"sha256": 1}}',
    b'{"fingerprint": "f", "wheels_of_build": "x"}',
    b'{"fingerprint": "f", "wheels_of_build": null}',
    b'{"fingerprint": 1}',
    b'{"cost": []}',
    b'{"cost": {"compiler_cache": 1}}',
    b'{"cost": {"compiler_cache": {"hits": []}}}',
    b'{"cost": {"files": [1]}}',
    b'{"cost": {"files": {"a.cu": 1}}}',
    b'{"cost": {"files": {"a.cu": {"seconds": "long"}}}}',
]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_record_counts_as_none(tmp_path: Path, content: bytes) -> None:
    _publish(tmp_path, tmp_path, "f")
    other = _wheel(tmp_path, "c-1-py3-none-any.whl")
    record_path(other).write_bytes(content)
    assert read_record(other) is None
    assert len(up_to_date(tmp_path, "f")) == len(NAMES)


def test_a_record_that_is_no_file_counts_as_none(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path, NAMES[0])
    record_path(wheel).mkdir()
    assert read_record(wheel) is None
    assert up_to_date(tmp_path, "f") == []
    wheel.unlink()
    wheel.mkdir()
    record_path(wheel).rmdir()
    record_path(wheel).write_text('{"fingerprint": "f"}')
    assert up_to_date(tmp_path, "f") == []


def test_what_a_remote_cache_gave_is_not_up_to_date_without_one(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path / "out", "a-1-py3-none-any.whl")
    for remote, expected in (("", 1), ("redis://cache.example", 0)):
        cost = {"compiler_cache": {"hits": 2, "remote": remote}}
        publish([(wheel, {**_record(wheel, "f"), "cost": cost})], tmp_path / "house")
        assert len(up_to_date(tmp_path / "house", "f", shared=True)) == 1
        assert len(up_to_date(tmp_path / "house", "f", shared=False)) == expected


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

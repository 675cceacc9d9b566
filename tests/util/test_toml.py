"""TOML that is wrong is refused by file, key and what is expected."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.util.errors import BuilderError, TargetError
from builder.util.toml import Table, parse, read

TEXT = """\
name = "nvcc"
size = 3
flag = true
names = ["a", "b"]
twice = ["a", "a"]
url = "https://example.org/a.tar.xz"
[inner]
key = "value"
[[list]]
key = 1
[[list]]
key = 2
"""


@pytest.fixture
def table() -> Table:
    return parse("a.toml", TEXT, TargetError)


def test_what_is_right_is_returned(table: Table) -> None:
    table.keys(("name", "size", "flag", "names", "twice", "url", "inner", "list"), ("more",))
    assert table.text("name", "[a-z]+", "a name") == "nvcc"
    assert table.text("name", str.islower, "a name") == "nvcc"
    assert table.one_of("name", ("gcc", "nvcc")) == "nvcc"
    assert table.number("size", 3, "a size") == 3
    assert table.flag("flag") is True
    assert table.texts("names", '["a"]') == ["a", "b"]
    assert table.address("url") == "https://example.org/a.tar.xz"
    assert table.table("inner").text("key", "value", "a value") == "value"
    assert [item.number("key", 0, "a number") for item in table.tables("list")] == [1, 2]
    assert table.tables("none") == []


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda table: table.keys(("name",)), "a.toml: size: unknown key.\n  Known keys: name."),
        (lambda table: table.keys((*table.values, "m")), "a.toml: m: missing.\n  Required keys: name, size,"),
        (lambda table: table.text("name", "[a-m]+", "a name"), "a.toml: name: 'nvcc' is not a name."),
        (lambda table: table.text("name", str.isupper, "a name"), "a.toml: name: 'nvcc' is not a name."),
        (
            lambda table: table.text("size", "3", "a size"),
            "a.toml: size: 3 is not a size.\n  Write it in quotes: it is a string.",
        ),
        (lambda table: table.one_of("name", ("a", "b")), "a.toml: name: 'nvcc' is not one of a, b."),
        (lambda table: table.flag("size"), "a.toml: size: 3 is not true or false."),
        (lambda table: table.flag("absent"), "a.toml: absent: missing."),
        (lambda table: table.text("absent"), "a.toml: absent: missing."),
        (lambda table: table.one_of("names", ("a", "b")), "a.toml: names: ['a', 'b'] is not one of a, b."),
        (lambda table: table.number("size", 4, "a size"), "a.toml: size: 3 is not a size."),
        (lambda table: table.number("flag", 0, "a size"), "a.toml: flag: True is not a size."),
        (lambda table: table.texts("twice", "[]"), "a.toml: twice: 'a' is listed twice."),
        (
            lambda table: table.texts("name", '["a"]'),
            "a.toml: name: 'nvcc' is not a list of strings such as [\"a\"].",
        ),
        (
            lambda table: table.table("name"),
            "a.toml: name: 'nvcc' is not a table.\n  Write it as [name].",
        ),
        (
            lambda table: table.tables("names"),
            "a.toml: names: not a list of tables.\n  Write each as [[names]].",
        ),
        (
            lambda table: table.table("inner").number("key", 0, "a size"),
            "a.toml: inner: key: 'value' is not a size.",
        ),
        (
            lambda table: table.tables("list")[1].text("key", "x", "an x"),
            "a.toml: list 2: key: 2 is not an x.\n  Write it in quotes: it is a string.",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_key(table: Table, ask: Callable[[Table], object], said: str) -> None:
    with pytest.raises(TargetError) as caught:
        ask(table)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://example.org/x", True),
        ("http://127.0.0.1:8080/x", True),
        ("http://[::1]/x", True),
        ("http://example.org/x", False),
        ("ftp://example.org/x", False),
        ("https://", False),
        ("https://[::1/", False),
        ("https://me:secret@example.org/", False),
        ("https://example.org/x?token=1", False),
        ("https://example.org/x#part", False),
        ("https://example.org/a b", False),
        ("example.org", False),
    ],
)
def test_only_a_public_address_is_one_to_download_from(url: str, good: bool) -> None:
    table = parse("a.toml", f'url = "{url}"', TargetError)
    if good:
        assert table.address("url") == url
    else:
        with pytest.raises(TargetError, match="is not an https address without user name"):
            table.address("url")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "not found."), (b"a = ", "not TOML: "), (b"a = '\xff'", "can't be read: ")],
)
def test_a_file_that_can_t_be_read_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BuilderError) as caught:
        read(path, TargetError)
    assert type(caught.value) is TargetError
    assert caught.value.message.startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    "value", ["9" * 5000, "[" * 5000, "{a=" * 5000, "0x" + "f" * 5000, f"'{'a' * 9999}'"]
)
def test_a_value_beyond_all_measure_is_one_short_error(value: str) -> None:
    with pytest.raises(TargetError, match=r"^a\.toml: ") as caught:
        parse("a.toml", f"size = {value}\n", TargetError).number("size", 1, "a size")
    assert len(str(caught.value)) < 600


def test_what_is_not_a_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    for name in ("folder", "pipe"):
        with pytest.raises(TargetError, match=rf"{name}\.toml: not a file\.$"):
            read(tmp_path / f"{name}.toml", TargetError)

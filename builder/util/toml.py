"""Reads TOML files key by key; every complaint names the file and the key."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from builder.util.addresses import is_plain
from builder.util.errors import BuilderError

_SHOWN = 300  # characters
# The standard library's from Python 3.11, before it `tomli`, its origin. By name, so that the types can be
# checked where tomli is not installed.
tomllib: ModuleType = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

_SHOWN = 200  # characters of a value in a message


class Table:
    """A table of TOML, or an object of JSON, that is being checked.

    Attributes:
        where: The file's name, and where in it the table is.
        values: What the table holds.
    """

    def __init__(self, where: str, values: Mapping[str, Any], error: type[BuilderError]) -> None:
        self.where = where
        self.values = values
        self._error = error

    def fail(self, key: str, problem: str, remedy: str = "") -> BuilderError:
        """Return the error for a key, to raise.

        Args:
            key: The key, without the table.
            problem: What is wrong with it, without the full stop.
            remedy: What to do, in a sentence.
        """
        return self._error(f"{self.where}: {key}: {problem}.", remedy)

    def check(self, key: str, good: bool, problem: str, remedy: str = "") -> None:
        """Raise the error for a key where something does not hold."""
        if not good:
            raise self.fail(key, problem, remedy)

    def keys(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
        """Refuse unknown and missing keys."""
        for key in self.values:
            known = key in required or key in optional
            self.check(key, known, "unknown key", f"Known keys: {', '.join(required + optional)}.")
        for key in required:
            self.check(key, key in self.values, "missing", f"Required keys: {', '.join(required)}.")

    def _value(self, key: str) -> Any:
        self.check(key, key in self.values, "missing")
        return self.values[key]

    def text(
        self, key: str, accepts: str | Callable[[str], bool] = "(?s).*", expected: str = "a string"
    ) -> str:
        """Return a string.

        Args:
            key: Its key.
            accepts: A regular expression that it must match as a whole, or a function that accepts it.
            expected: What it must be, with an article and an example: `a Python version such as 3.12`.
        """
        value = self._value(key)
        quotes = "" if isinstance(value, str) else "Write it in quotes: it is a string."
        right = isinstance(value, str) and (
            re.fullmatch(accepts, value, re.ASCII) is not None if isinstance(accepts, str) else accepts(value)
        )
        self.check(key, right, f"{shown(value)} is not {expected}", quotes)
        return str(value)

    def address(self, key: str) -> str:
        """Return an address to download from, by https, or by http from this machine.

        User names, queries and fragments are refused: they don't belong in a file that is published.
        """
        return self.text(key, is_plain, "an https address without user name, query or fragment")

    def one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        """Return a string that is one of some."""
        value = self._value(key)
        self.check(key, value in allowed, f"{shown(value)} is not one of {', '.join(allowed)}")
        return str(value)

    def number(self, key: str, least: int, expected: str) -> int:
        """Return a whole number.

        Args:
            key: Its key.
            least: The smallest that is right.
            expected: What it must be, with an article: `a size in bytes`.
        """
        value = self._value(key)
        fits = type(value) is int and least <= value <= sys.maxsize
        self.check(key, fits, f"{shown(value)} is not {expected}")
        return int(value)

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self._value(key)
        self.check(key, isinstance(value, bool), f"{shown(value)} is not true or false")
        return bool(value)

    def texts(self, key: str, example: str) -> list[str]:
        """Return a list of strings, at least one and all different.

        Args:
            key: Its key.
            example: Such a list, as TOML has it.
        """
        value = self._value(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self.fail(key, f"{shown(value)} is not a list of strings such as {example}")
        for item in value:
            self.check(key, value.count(item) == 1, f"{shown(item)} is listed twice")
        return value

    def table(self, key: str) -> Table:
        """Return a table within this one."""
        value = self._value(key)
        self.check(key, isinstance(value, dict), f"{shown(value)} is not a table", f"Write it as [{key}].")
        return Table(f"{self.where}: {key}", value, self._error)

    def tables(self, key: str) -> list[Table]:
        """Return the tables of a list, none where the key is missing; they are numbered from 1."""
        value = self.values.get(key, [])
        good = isinstance(value, list) and all(isinstance(item, dict) for item in value)
        self.check(key, good, "not a list of tables", f"Write each as [[{key}]].")
        return [
            Table(f"{self.where}: {key} {number}", item, self._error) for number, item in enumerate(value, 1)
        ]


def read(path: Path, error: type[BuilderError]) -> Table:
    """Read a TOML file.

    Args:
        path: The file.
        error: The class of every error over it.

    Raises:
        BuilderError: Of that class: there is no such file, or it is not TOML.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(f"{path}: not a file.")
        return parse(str(path), path.read_text(encoding="utf-8"), error)
    except FileNotFoundError:
        raise error(f"{path}: not found.") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: can't be read: {problem}.") from None


def parse(where: str, text: str, error: type[BuilderError]) -> Table:
    """Read the text of a TOML file.

    Args:
        where: What to call the file in errors.
        text: Its text.
        error: The class of every error over it.

    Raises:
        BuilderError: Of that class: it is not TOML.
    """
    try:
        return Table(where, tomllib.loads(text), error)
    except (ValueError, RecursionError) as problem:  # ValueError: also numbers of more than 4,300 digits
        raise error(f"{where}: not TOML: {problem}.") from None


def shown(value: object) -> str:
    """Return how a value is shown in an error: as Python has it, and its start if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # the same numbers in hexadecimal, which can be read
        return "a value that is too long to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

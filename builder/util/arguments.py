"""The parser of every command's arguments."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from builder.util.errors import UsageError

_PUBLISHED_ADDRESS = re.compile(
    r"https?://([\w.-]+|\[[\da-f:]+\])(:\d+)?(/[\w.~:/@!$&()*+,;=%-]*)?", re.ASCII | re.IGNORECASE
)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        message = re.sub(r"invalid \w+ value", "invalid value", message)  # a function's name
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def published_address(text: str) -> str:
    """Return an address that goes into what is published, with a slash at its end (a type of argument)."""
    if _PUBLISHED_ADDRESS.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("it is not an http or https address without user name and query")
    return text.rstrip("/") + "/"


def repository(text: str) -> str:
    """Return a repository at GitHub, `owner/name`; the type of an argument."""
    if re.fullmatch(r"[\w-][\w.-]*/(?!\.{1,2}$)[\w.-]+", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a repository, OWNER/NAME")
    return text

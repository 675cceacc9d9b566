"""The parser of every command's arguments."""

from __future__ import annotations

import argparse
from typing import NoReturn

from builder.util.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")

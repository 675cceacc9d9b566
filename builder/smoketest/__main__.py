"""``python -m builder.smoketest``, or ``python path/to/builder/smoketest`` from anywhere."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Run by its path: Python has put this folder first, where its modules are not a package.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from builder.smoketest.cli import main

if __name__ == "__main__":
    sys.exit(main())

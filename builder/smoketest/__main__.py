"""``python -m builder.smoketest``."""

from __future__ import annotations

import sys

from builder.smoketest.cli import main

if __name__ == "__main__":
    sys.exit(main())

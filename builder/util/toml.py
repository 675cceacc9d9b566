"""`tomllib` on every supported Python: the standard library's from 3.11, before it `tomli`, its origin."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

# By name, so that the types can be checked where tomli is not installed.
tomllib: ModuleType = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

"""Goes: use `builder.util.files`."""

from builder.util.files import ROOT

__all__ = ["ROOT"]

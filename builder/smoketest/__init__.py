"""The smoke test: does an installed SageAttention wheel compute attention on this GPU?

Runs as ``python -m builder.smoketest`` in an environment that is already there. It needs Python 3.10, torch
and the installed wheel; no other part of this project, no network.
"""

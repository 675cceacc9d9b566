"""The smoke test: does an installed SageAttention wheel compute attention on this GPU?

Run it as ``python -m builder.smoketest`` in an existing environment. It needs Python 3.10 or later, torch and
the installed wheel. It needs no other part of this project and no network.
"""

"""Builds the wheel of the patched source: jobs, the compiler cache, and the PEP 517 build.

The compiling itself is not in this folder. It happens some processes further down, in
`patches/v2.2.0/files/build_extensions.py`, which the series puts into the source tree:

    pep517.run_build -> kill_tree.py -> python -m build -> setuptools -> build_extensions.py -> ninja -> nvcc

`pep517.write_settings` writes what that file is told, a build.json whose keys its docstring lists.
"""

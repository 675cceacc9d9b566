# SPDX-License-Identifier: Apache-2.0
"""Says what a bug report needs; with --measure, measures when torch's attention is faster on this GPU."""

import argparse

from . import _doctor

parser = argparse.ArgumentParser(prog="python -m sageattention", description=__doc__)
parser.add_argument(
    "--measure", action="store_true", help="time a small grid (a minute) and keep what comes out"
)
arguments = parser.parse_args()
raise SystemExit(_doctor.measure() if arguments.measure else _doctor.report())

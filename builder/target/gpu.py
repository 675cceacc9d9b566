"""The GPUs of this machine, as NVIDIA's driver names them."""

from __future__ import annotations

import re

from builder.target.architectures import major_minor
from builder.util.log import warn
from builder.util.process import CommandError, run

NVIDIA_SMI_SECONDS = 15


def local_gpus() -> tuple[str, ...] | None:
    """Return the compute capabilities of this machine's GPUs, each once, ascending; empty without a GPU.

    None where the driver does not answer: a warning says so. torch is not asked: it may be missing.
    """
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = run(command, timeout_seconds=NVIDIA_SMI_SECONDS, check=False)
    except CommandError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return ()  # no driver
        warn(f"the NVIDIA driver does not answer: {error.message}")
        return None
    if done.status != 0 and "No devices were found" not in done.output:
        warn(f"the NVIDIA driver does not answer: nvidia-smi failed ({done.ending}):{done.last_lines()}")
        return None
    # Others than numbers are of old drivers and faulty GPUs: [N/A].
    lines = {line.strip() for line in done.lines if re.fullmatch(r"\d+\.\d", line.strip())}
    return tuple(sorted(lines, key=major_minor))

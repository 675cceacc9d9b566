"""CUDA architectures: how they are written, what runs on what, and which of them a build is for.

An architecture here is what one `-gencode` names: a compute capability, with the suffix `a` where
the code uses features that only that one capability has (`9.0a`), or `f` for those of its family
(CUDA C++ Programming Guide, "Architecture-Specific Features" and "Family-Specific Features").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from builder.util.errors import ArchitectureError
from builder.util.log import warn
from builder.util.process import CommandError, run

NVIDIA_SMI_SECONDS = 15


@dataclass(frozen=True, order=True)
class Architecture:
    """A compute capability with its feature suffix ("", "a" or "f"); architectures sort by number."""

    major: int
    minor: int
    feature: str = ""

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Return the architecture that is written `8.9`, `9.0a`, `sm_90a`, `sm90a` or `compute_90a`."""
        match = re.fullmatch(r"(?:sm_?|compute_)?(\d{1,2})\.?(\d)([af]?)", text.strip())
        if match is None:
            raise ArchitectureError(
                f"{text!r} is not a CUDA architecture.",
                "Write a compute capability such as 8.9, with a suffix where it has one: 9.0a.",
            )
        return cls(int(match[1]), int(match[2]), match[3])

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}{self.feature}"

    @property
    def number(self) -> str:
        """The number in `sm_90a`: `90a`."""
        return f"{self.major}{self.minor}{self.feature}"

    def runs_on(self, gpu: Architecture) -> bool:
        """Return whether a cubin for this architecture runs on a GPU (CUDA's "Binary Compatibility").

        That is, on the same major version with the same or a higher minor one; with the suffix `a`, on
        exactly its own capability.
        """
        if self.feature == "a":
            return (self.major, self.minor) == (gpu.major, gpu.minor)
        return self.major == gpu.major and self.minor <= gpu.minor


def join(architectures: Iterable[Architecture], separator: str = ", ") -> str:
    """Return the architectures in one string, in the given order."""
    return separator.join(map(str, architectures))


def major_minor(text: str) -> tuple[int, int]:
    """Return the start of a version as numbers: `(12, 8)` for `12.8.1`."""
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)


def refuse_uncompilable(
    architectures: Iterable[Architecture], cuda_version: str, lowest_cuda: Mapping[str, tuple[int, int]]
) -> None:
    """Raise an error where a CUDA version such as 12.4 is older than an architecture needs."""
    too_new = [one for one in architectures if lowest_cuda[str(one)] > major_minor(cuda_version)]
    if too_new:
        raise ArchitectureError(
            f"CUDA {cuda_version} is too old for {join(too_new)}.",
            "Use a newer one, or omit these from --arch.",
        )


def local_gpus() -> tuple[str, ...] | None:
    """Return the compute capabilities of this machine's GPUs, each once, ascending; empty without a GPU.

    None where the driver does not answer: a warning says so. torch is not asked: it may be missing.
    """
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = run(command, timeout_seconds=NVIDIA_SMI_SECONDS, check=False)
        if done.status != 0 and "No devices were found" not in done.output:
            raise CommandError(f"nvidia-smi failed ({done.ending}):{done.last_lines()}")
    except CommandError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return ()  # no driver
        warn(f"the NVIDIA driver does not answer: {error.message}")
        return None
    # Others than numbers are of old drivers and faulty GPUs: [N/A].
    lines = {line.strip() for line in done.lines if re.fullmatch(r"\d+\.\d", line.strip())}
    return tuple(sorted(lines, key=major_minor))


@dataclass(frozen=True)
class Selection:
    """The architectures of one build, sorted, and in one line why these."""

    architectures: tuple[Architecture, ...]
    reason: str
    complete: bool  # all that the target lists


def select(
    requested: str | None,
    target_archs: Sequence[Architecture],
    local: Sequence[str] | None,
    with_ptx: Collection[str],
) -> Selection:
    """Return the architectures to build for.

    Args:
        requested: The value of `--arch`: `all`, `local`, or architectures separated by `;`, `,` or
            spaces. None is the local GPUs', or all of the target's where there is no GPU.
        target_archs: What the target lists.
        local: The local GPUs, as `local_gpus` returns them: None where the driver does not answer.
        with_ptx: Architectures whose PTX goes along, `build_constants(...)["WITH_PTX"]`.
    """
    everything = tuple(sorted(target_archs))
    wanted = (requested or "local").strip().lower()
    if wanted == "all":
        return Selection(everything, f"all of the target ({join(everything)})", complete=True)
    if wanted != "local":
        selected = _named(wanted, everything)
        return Selection(selected, f"as asked for: {join(selected)}", selected == everything)
    if local:
        return _for_gpus(everything, local, with_ptx)
    problem = "the NVIDIA driver does not answer" if local is None else "no GPU found"
    if requested is None:
        return Selection(everything, f"{problem}: all of the target ({join(everything)})", complete=True)
    raise ArchitectureError(
        f"--arch local: {problem} on this machine.",
        f'Name the architectures, such as --arch "{everything[-1]}", or use --arch all.',
    )


def _for_gpus(
    everything: tuple[Architecture, ...], local: Sequence[str], with_ptx: Collection[str]
) -> Selection:
    chosen, without_kernels = set(), []
    for capability in local:
        gpu = Architecture.parse(capability)
        cubins = [architecture for architecture in everything if architecture.runs_on(gpu)]
        # PTX is compiled by the driver, for any newer GPU.
        ptx = [one for one in everything if str(one) in with_ptx and one < gpu]
        if usable := cubins or ptx:
            chosen.add(usable[-1])
        else:
            without_kernels.append(capability)
    selected = tuple(sorted(chosen)) or everything[:1]
    reason = f"{join(selected)}, for the local GPUs ({', '.join(local)})"
    if without_kernels:
        reason += f"; no kernel runs on {', '.join(without_kernels)}"
    return Selection(selected, reason, selected == everything)


def _named(wanted: str, everything: tuple[Architecture, ...]) -> tuple[Architecture, ...]:
    chosen: set[Architecture] = set()
    for name in re.split(r"[;,\s]+", wanted.strip(";, ")):
        asked = Architecture.parse(name)
        # "9.0" asks for the GPU, and the target's cubin for it may be 9.0a; "9.0a" asks for just that.
        matches = {one for one in everything if asked in (one, Architecture(one.major, one.minor))}
        if not matches:
            raise ArchitectureError(
                f"--arch {name}: the target has no such architecture.",
                f"Choose from {join(everything)}, or all, or local.",
            )
        chosen |= matches
    return tuple(sorted(chosen))

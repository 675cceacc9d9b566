"""Selects the architectures of a build, from `--arch`, the target and this machine's GPUs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builder.target.architectures import Architecture, join, major_minor
from builder.util import process
from builder.util.errors import ArchitectureError
from builder.util.log import warn


@dataclass(frozen=True)
class Selection:
    """The architectures of one build.

    Attributes:
        architectures: Sorted; never empty.
        reason: One line that says why these.
        complete: Whether these are all that the target lists.
    """

    architectures: tuple[Architecture, ...]
    reason: str
    complete: bool


def read_compute_capabilities(output: str) -> tuple[str, ...]:
    """Return the distinct capabilities in what `nvidia-smi --query-gpu=compute_cap` printed, ascending.

    Other lines are ignored, such as `[N/A]`, which old drivers and faulty GPUs answer.
    """
    found = {line.strip() for line in output.splitlines() if re.fullmatch(r"\d+\.\d", line.strip())}
    return tuple(sorted(found, key=major_minor))


def local_architectures(nvidia_smi: str = "nvidia-smi") -> tuple[str, ...]:
    """Return the compute capabilities of this machine's GPUs, each once, ascending; empty without a GPU.

    torch is not asked: it may be missing, or too old for the GPU.

    Args:
        nvidia_smi: The driver's tool, by name or path. Where it is missing there is no driver, and
            so no GPU that can be used.
    """
    command = shutil.which(nvidia_smi)
    if command is None:
        return ()
    try:
        answer = process.run([command, "--query-gpu=compute_cap", "--format=csv,noheader"])
    except process.CommandError as error:
        warn(f"no GPU is assumed: {error.message}")
        return ()
    return read_compute_capabilities(answer.output)


def select(requested: str | None, target_archs: Sequence[Architecture], local: Sequence[str]) -> Selection:
    """Return the architectures to build for.

    Args:
        requested: The value of `--arch`: `all`, `local`, or architectures separated by `;`, `,` or
            spaces. None is the local GPUs', or all of the target's where there is no GPU.
        target_archs: What the target lists.
        local: Compute capabilities of the local GPUs, as `local_architectures` returns them.

    Raises:
        ArchitectureError: The target lacks something that was asked for, or a local GPU runs none of
            its architectures. Nothing is dropped silently.
    """
    everything = tuple(sorted(set(target_archs)))
    if requested is None:
        if not local:
            return Selection(everything, f"no GPU found: all of the target ({join(everything)})", True)
        return _select_local(everything, local)
    wanted = requested.strip().lower()
    if wanted == "all":
        return Selection(everything, f"all of the target ({join(everything)})", True)
    if wanted == "local":
        if not local:
            raise ArchitectureError(
                "--arch local: no GPU found on this machine (nvidia-smi names none).",
                f'Name the architectures, such as --arch "{everything[-1]}", or use --arch all.',
            )
        return _select_local(everything, local)
    return _select_named(wanted, everything)


def _selection(
    chosen: Iterable[Architecture], everything: tuple[Architecture, ...], reason: str
) -> Selection:
    architectures = tuple(sorted(set(chosen)))
    return Selection(architectures, reason, architectures == everything)


def _select_local(everything: tuple[Architecture, ...], local: Sequence[str]) -> Selection:
    chosen: dict[str, Architecture] = {}
    unusable: list[str] = []
    for capability in local:
        gpu = Architecture.parse(capability)
        runnable = [architecture for architecture in everything if architecture.runs_on(gpu)]
        if runnable:
            chosen[capability] = runnable[-1]
        else:
            unusable.append(capability)
    if unusable:
        usable = tuple(sorted(set(chosen.values())))
        remedy = f'Build for the other GPUs with --arch "{join(usable, ";")}", or use' if usable else "Use"
        raise ArchitectureError(
            f"The local GPU of compute capability {', '.join(unusable)} runs none of the target's "
            f"architectures ({join(everything)}).",
            f"{remedy} --arch all to build for other machines.",
        )
    said = [
        str(architecture)
        if architecture.capability == capability
        else f"{architecture} (runs on {capability})"
        for capability, architecture in chosen.items()
    ]
    return _selection(chosen.values(), everything, f"the local GPUs: {', '.join(dict.fromkeys(said))}")


def _select_named(wanted: str, everything: tuple[Architecture, ...]) -> Selection:
    names = [name for name in re.split(r"[;,\s]+", wanted) if name]
    if not names:
        raise ArchitectureError(
            "--arch is empty.", f'Name architectures, such as --arch "{everything[0]}", or all, or local.'
        )
    chosen: list[Architecture] = []
    for name in names:
        if name.endswith("+ptx"):
            raise ArchitectureError(
                f"--arch {name}: +ptx is not an option: the PTX of 8.0 and 8.9 goes with their machine code.",
                f"Choose from {join(everything)}.",
            )
        asked = Architecture.parse(name)
        # "9.0" asks for the GPU, and the target's cubin for it may be 9.0a; "9.0a" asks for just that.
        matches = [
            architecture
            for architecture in everything
            if architecture == asked or (not asked.feature and architecture.capability == asked.capability)
        ]
        if not matches:
            substitute = [architecture for architecture in everything if architecture.runs_on(asked)]
            hint = f" A GPU of {asked.capability} runs {substitute[-1]}." if substitute else ""
            raise ArchitectureError(
                f"--arch {name}: the target has no such architecture.",
                f"Choose from {join(everything)}, or all, or local.{hint}",
            )
        chosen += matches
    return _selection(chosen, everything, f"as asked for: {join(sorted(set(chosen)))}")

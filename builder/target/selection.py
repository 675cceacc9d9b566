"""Selects the architectures of a build, from `--arch`, the target and this machine's GPUs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from builder.target.architectures import Architecture, join
from builder.util.errors import ArchitectureError


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
        return _select_named(wanted, everything)
    if local:
        return _select_local(everything, local, with_ptx)
    problem = "the NVIDIA driver does not answer" if local is None else "no GPU found"
    if requested is None:
        return Selection(everything, f"{problem}: all of the target ({join(everything)})", complete=True)
    raise ArchitectureError(
        f"--arch local: {problem} on this machine.",
        f'Name the architectures, such as --arch "{everything[-1]}", or use --arch all.',
    )


def _selection(
    chosen: Iterable[Architecture], everything: tuple[Architecture, ...], reason: str
) -> Selection:
    architectures = tuple(sorted(set(chosen)))
    return Selection(architectures, reason, architectures == everything)


def _select_local(
    everything: tuple[Architecture, ...], local: Sequence[str], with_ptx: Collection[str]
) -> Selection:
    chosen, reasons = set(), []
    without_kernels = []
    for capability in local:
        gpu = Architecture.parse(capability)
        cubins = [architecture for architecture in everything if architecture.runs_on(gpu)]
        # PTX is compiled by the driver, for any newer GPU.
        ptx = [
            architecture
            for architecture in everything
            if str(architecture) in with_ptx and architecture < gpu
        ]
        if cubins:
            chosen.add(cubins[-1])
            same = cubins[-1].capability == capability
            reasons.append(str(cubins[-1]) if same else f"{cubins[-1]} (runs on {capability})")
        elif ptx:
            chosen.add(ptx[-1])
            reasons.append(f"{ptx[-1]} (its PTX runs on {capability})")
        else:
            without_kernels.append(capability)
    if without_kernels:
        reasons.append(f"no kernel runs on {', '.join(without_kernels)}")
    if not chosen:
        chosen.add(everything[0])
        reasons.append(f"{everything[0]}, the smallest build")
    return _selection(chosen, everything, f"the local GPUs: {', '.join(dict.fromkeys(reasons))}")


def _select_named(wanted: str, everything: tuple[Architecture, ...]) -> Selection:
    chosen: list[Architecture] = []
    for name in re.split(r"[;,\s]+", wanted.strip(";, ")):
        asked = Architecture.parse(name)
        # "9.0" asks for the GPU, and the target's cubin for it may be 9.0a; "9.0a" asks for just that.
        matches = [
            architecture
            for architecture in everything
            if architecture == asked or (not asked.feature and architecture.capability == asked.capability)
        ]
        if not matches:
            raise ArchitectureError(
                f"--arch {name}: the target has no such architecture.",
                f"Choose from {join(everything)}, or all, or local.",
            )
        chosen += matches
    return _selection(chosen, everything, f"as asked for: {join(sorted(set(chosen)))}")

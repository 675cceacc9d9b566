"""Takes one target from source to wheelhouse, step by step: the way of a wheel."""

from __future__ import annotations

import os
import shutil
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from builder import preflight
from builder.check.new_wheels import check_new
from builder.compile import jobs as resources
from builder.compile import pep517
from builder.compile.ccache import Stats, open_cache
from builder.finish import repair
from builder.finish.finalize import finalize, runtime_license_text
from builder.finish.fingerprint import make_fingerprint
from builder.finish.provenance import PatchFile, Provenance, read_patch_files
from builder.finish.record import for_wheel, make_record
from builder.finish.wheelhouse import locked, publish, up_to_date
from builder.source.obtain import Source, obtain
from builder.source.patches import Applied, apply_series
from builder.source.series import Series, load_series
from builder.target import architectures
from builder.target.options import BuildOptions, parse_build_options
from builder.target.project import Project, load_project
from builder.target.selection import Selection, local_architectures, select
from builder.target.targets import Target, find_target
from builder.target.upstream import PATCHES_DIR, Release, load_release
from builder.toolchain import torch_env
from builder.toolchain.cuda_home import Toolchain, resolve
from builder.toolchain.installed import installed_packages
from builder.toolchain.materials import Material
from builder.util.digest import file_sha256
from builder.util.log import Durations, say, show_details, warn
from builder.util.paths import ROOT


@dataclass(frozen=True)
class Job:
    """One build: what was asked for, resolved before anything runs.

    Attributes:
        target: What to build.
        options: How.
        release: The pinned upstream release.
        selection: The architectures.
        series: The patches; empty with `--no-patches`.
        patches: The files of the series, which go into the wheels.
        project: This project, which the wheels name.
        work: The folder for scratch trees and logs.
        contract: Whether clients have to find their names and calls: with this project's own patches.
        hash_seed: Python's hash seed in the build.
        compilers: What will compile.
        durations: Filled step by step.
    """

    target: Target
    options: BuildOptions
    release: Release
    selection: Selection
    series: Series
    patches: tuple[PatchFile, ...]
    project: Project
    work: Path
    contract: bool
    hash_seed: int
    compilers: preflight.Compilers
    durations: Durations = field(default_factory=Durations)

    @property
    def scratch(self) -> Path:
        """The folder that is removed when the build ends."""
        return self.work / "scratch"

    @property
    def patched(self) -> bool:
        """Whether the tree gets the patches."""
        return not self.options.no_patches


@dataclass(frozen=True)
class Made:
    """A compiled wheel, how many compiler processes ran at once, and what the compiler cache did."""

    compiled: pep517.Compiled
    jobs: int
    cache: Stats


def main(argv: Sequence[str]) -> int:
    """Build a target.

    Args:
        argv: The target's name, then the options.

    Returns:
        0: a build that fails raises an error.
    """
    name, *rest = [*argv] or [""]
    target = find_target(name)
    build(target, parse_build_options(rest, os.environ, prog=f"nox -s build-{name} --"))
    return 0


def build(
    target: Target,
    options: BuildOptions,
    *,
    patches_root: Path = PATCHES_DIR,
    work_root: Path = ROOT / "build",
    hash_seed: int = 0,
) -> list[Path]:
    """Build, repair, check and store both wheels of a target.

    Args:
        target: What to build.
        options: How.
        patches_root: The folder with a folder of patches for each upstream release.
        work_root: The folder for scratch trees and logs.
        hash_seed: Python's hash seed in the build; the result must not depend on it.

    Returns:
        The wheels in the wheelhouse, the basic one first; none with `--check`.

    Raises:
        BuilderError: Any step failed; the wheelhouse is as it was.
    """
    show_details(options.verbose)
    folder = patches_root / target.upstream
    series = () if options.no_patches else load_series(folder)
    # The GPUs of this machine say nothing about another one's.
    local = local_architectures() if target.machine.is_here else ()
    selection = select(options.arch, target.architectures, local)
    say(f"{target.name}: {target.describe()}")
    say(f"  architectures: {selection.reason}")
    job = Job(
        target=target,
        options=options,
        release=load_release(folder),
        selection=selection,
        series=series,
        patches=read_patch_files(folder, series) if series else (),
        project=load_project(os.environ),
        work=work_root / target.name,
        contract=patches_root == PATCHES_DIR and not options.no_patches,
        hash_seed=hash_seed,
        compilers=preflight.check_compilers(target, selection, options, os.environ),
    )
    if not job.project.revision:
        warn("this is not a git checkout, so the wheels can't name the commit that they are made by")
    say(f"  g++ {job.compilers.host.version} ({job.compilers.host.path})")
    preflight.check_folders(options, job.work)
    with locked(job.work):
        _remove(job.scratch)
        job.scratch.mkdir()
        try:
            wheels = _build(job)
        finally:
            if not options.keep_build:
                _remove(job.scratch)
    for wheel in wheels:
        say(f"  {wheel} ({wheel.stat().st_size / 1e6:.1f} MB, sha256 {file_sha256(wheel)})")
    return wheels


def _build(job: Job) -> list[Path]:
    """Go the way of a wheel, each step in turn."""
    # The pinned release is known by its content, so that it is not downloaded where all is up to date.
    source = _obtain(job) if job.options.source else None
    fingerprint = make_fingerprint(
        target=job.target,
        selection=job.selection,
        options=job.options,
        release=job.release,
        source=source,
        patches=job.patches,
        project=job.project,
        cuda_version=job.compilers.cuda_version,
        host_compiler=job.compilers.host.digest(),
    )
    shared = bool(job.options.cache_remote)
    there = [] if job.options.force else up_to_date(job.options.wheelhouse, fingerprint, shared=shared)
    if there and not job.options.check:
        say("\nUp to date (--force builds again):")
        return there
    room = preflight.needs(job.target, job.options, job.work)
    preflight.check_room(room)
    source = source or _obtain(job)
    applied = _patch(job, source)
    if job.options.check:
        _show_plan(job, room, there)
        return []
    torch_version, tools = _prepare(job)
    made = _compile(job, source, tools)
    record = make_record(
        target=job.target,
        selection=job.selection,
        source=source,
        applied=applied,
        toolchain=tools,
        torch_version=torch_version,
        compiled=made.compiled,
        jobs=made.jobs,
        cache=made.cache,
        fingerprint=fingerprint,
        durations_seconds=job.durations.seconds,
    )
    finished = _finish(job, made.compiled.wheel, tools, _provenance(job, source, applied, tools), record)
    published = publish(finished, job.options.wheelhouse)
    say("\nBuilt:")
    return published


def _obtain(job: Job) -> Source:
    title = job.options.source or f"SageAttention {job.release.version}"
    with job.durations.step("source", f"Obtaining {title}"):
        return obtain(job.options, job.release, job.scratch)


def _patch(job: Job, source: Source) -> list[Applied]:
    with job.durations.step("patches", "Applying patches"):
        applied = apply_series(job.series, source.tree)
        for patch in applied:
            say(f"  {patch.name}: {patch.summary}")
        if not job.patched:
            warn("--no-patches: this wheel has every fault of the release that the patches fix")
    return applied


def _show_plan(job: Job, room: Sequence[preflight.Need], there: Sequence[Path]) -> None:
    installed = torch_env.is_installed(job.target)
    say("\nPlan:")
    say(f"  torch {job.target.torch}: {'is installed' if installed else 'to be installed'}")
    say(f"  disk: {', '.join(map(str, room))}")
    say(f"  {_job_plan(job).reason}")
    say(f"  {job.options.wheelhouse}: {'is up to date' if there else 'gets two wheels'}")


def _job_plan(job: Job) -> resources.JobPlan:
    return resources.plan_jobs(resources.cores(), resources.available_memory_bytes(), job.options.jobs)


def _prepare(job: Job) -> tuple[str, Toolchain]:
    """Install torch and the compilers; return torch's version, and the compilers."""
    target = job.target
    with job.durations.step("environment", f"Installing torch {target.torch} for CUDA {target.cuda}"):
        torch_version = torch_env.install(target, job.options)
        say(f"  torch {torch_version}")
    with job.durations.step("toolchain", f"Preparing the CUDA {target.cuda} compiler"):
        tools = resolve(target, job.options, torch_env.sites(target))
        say(f"  nvcc {tools.nvcc_version} ({tools.origin}), g++ {tools.gxx.version}")
    return torch_version, tools


def _compile(job: Job, source: Source, tools: Toolchain) -> Made:
    plan = _job_plan(job)
    log = job.work / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}.log"
    say(f"\n{plan.reason}\n  compiler output: {log}")
    # In here, since a compiler that is killed removes nothing.
    temporary, settings = job.scratch / "tmp", job.scratch / "build.json"
    temporary.mkdir()
    site = torch_env.sites(job.target)[0]
    with open_cache(job.options, tools, source.tree, site) as cache:
        pep517.write_settings(
            settings, job.target, job.selection, tools, cache, torch=site / "torch", jobs=plan.jobs
        )
        env = pep517.environment(
            tools,
            os.environ,
            settings=settings,
            machine=job.target.machine.name,
            epoch=job.release.source_date_epoch,
            hash_seed=job.hash_seed,
        )
        env = {**env, **cache.env, "TMPDIR": str(temporary)}
        title = f"Compiling for {architectures.join(job.selection.architectures)}"
        with job.durations.step("compile", title):
            compiled = pep517.run_build(
                source.tree, job.scratch / "wheel", log, env, jobs=plan.jobs, echo=job.options.verbose
            )
        stats = cache.stats()
    if job.options.cache:
        say(f"  compiler cache: {stats}")
    say(f"  {compiled.cpu_seconds:.0f} CPU s, at most {compiled.peak_memory_bytes / 1e6:.0f} MB a process")
    return Made(compiled, plan.jobs, stats)


def _provenance(job: Job, source: Source, applied: Sequence[Applied], tools: Toolchain) -> Provenance:
    """Return what the wheels say about how they were made."""
    summaries = {patch.name: patch.summary for patch in applied}
    packages = [package for site in reversed(_sites(job)) for package in installed_packages(site)]
    used = [*(package.material() for package in packages), *tools.components]
    used.append(Material("build-tool", "g++", tools.gxx.version))
    return Provenance(
        target=job.target,
        architectures=job.selection.architectures,
        source=source,
        patches=tuple(replace(patch, summary=summaries.get(patch.name, "")) for patch in job.patches),
        tools=tuple({part.name: part for part in used}.values()),
        project=job.project,
        epoch=job.release.source_date_epoch,
    )


def _finish(
    job: Job, built: Path, tools: Toolchain, told: Provenance, record: Mapping[str, Any]
) -> list[tuple[Path, dict[str, Any]]]:
    """Repair, complete and check both wheels; returns them with their records, the basic one first."""
    with job.durations.step("repair", f"Repairing the wheel for {job.target.platform_tag}"):
        repaired = repair.repair(built, job.target, job.scratch / "repaired", [tools.cuda_home / "lib64"])
        basic = finalize(built, told, job.scratch / "basic")
        full = finalize(
            repaired.wheel,
            told,
            job.scratch / "full",
            bundled=repaired.bundled,
            runtime_license=runtime_license_text(_sites(job)[0]),
        )
        for library in repaired.bundled:
            say(f"  bundled: {library.soname}")
        for soname, owner in repaired.left_out.items():
            say(f"  left to the process: {soname} ({owner})")
    with job.durations.step("check", "Checking both wheels, with only torch beside them"):
        checks = check_new([basic, full], job.target, job.options, job.scratch, contract=job.contract)
    bundled = [{"name": library.path, "sha256": library.original_sha256} for library in repaired.bundled]
    return [
        (basic, for_wheel(record, basic, bundled=[], checks=checks, wheels_of_build=2)),
        (full, for_wheel(record, full, bundled=bundled, checks=checks, wheels_of_build=2)),
    ]


def _sites(job: Job) -> tuple[Path, ...]:
    """Return the folders of a build's packages: that with torch, the compiler's, the environment's own."""
    return (*torch_env.sites(job.target), _site_packages())


def _site_packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)

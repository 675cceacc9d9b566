"""Takes one target from source to wheelhouse, step by step: the way of a wheel."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from builder.check.new_wheels import check_new, find_emulator
from builder.compile import jobs as resources
from builder.compile import pep517
from builder.compile.ccache import open_cache
from builder.finish.embed import Provenance, embed, runtime_license_text
from builder.finish.repair import repair
from builder.finish.store import locked, make_fingerprint, store, up_to_date
from builder.source.obtain import Source, obtain
from builder.source.patches import Series, apply_series, files_of, load_series
from builder.target import architectures
from builder.target.architectures import Selection, local_gpus, select
from builder.target.options import BuildOptions, parse_build_options
from builder.target.project import Project, load_project
from builder.target.targets import Target, find_target
from builder.target.upstream import FILE_NAME, PATCHES_DIR, SUMS_NAME, Release, build_constants, load_release
from builder.toolchain import torch_env
from builder.toolchain.cuda_home import Toolchain, check_cuda_home, resolve
from builder.toolchain.gxx import Gxx, find_gxx
from builder.util.errors import UsageError
from builder.util.files import ROOT, file_sha256
from builder.util.log import Durations, say, show_details, warn
from builder.wheel.sbom import Component

_GB = 10**9
# Free disk that a build needs, as measured.
_BUILD_BYTES = 1.2 * _GB  # source, objects and both wheels
_CUDA_HOME_BYTES = 0.3 * _GB  # 215 MB for CUDA 13.0, and the archives of CUDA 12.8
_TORCH_BYTES = {"13": 4.9 * _GB, "12": 6.9 * _GB}  # torch and the compiler's packages, installed


@dataclass(frozen=True)
class Job:
    """One build: what was asked for, resolved before anything runs.

    Attributes:
        patches: Name -> content of each file of the series, which go into the wheels.
        work: The folder for scratch trees and logs.
        check_client_calls: Also check the names and calls that other projects use: with our own patches.
        cuda_version: The CUDA compiler's.
    """

    target: Target
    options: BuildOptions
    release: Release
    selection: Selection
    series: Series
    patches: dict[str, bytes]
    project: Project
    work: Path
    check_client_calls: bool
    hash_seed: int
    cuda_version: str
    gxx: Gxx
    durations: Durations = field(default_factory=Durations)

    @property
    def scratch(self) -> Path:
        """The folder that is removed when the build ends, and before the next one."""
        return self.work / "scratch"


def main(argv: Sequence[str]) -> int:
    """Build a target, by its name and the options."""
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
    """Build, repair, check and store both wheels of a target; return those in the wheelhouse.

    With `--check` it returns none. The result must not depend on the hash seed, which is that of the
    Python that compiles.
    """
    show_details(options.verbose)
    folder = patches_root / target.upstream
    series = load_series(folder)
    # The GPUs of this machine say nothing about another one's.
    local = local_gpus() if target.machine.is_here else ()
    constants = build_constants(folder)
    selection = select(options.arch, target.architectures, local, constants["WITH_PTX"])
    say(f"{target.name}: {target.describe()}")
    say(f"  architectures: {selection.reason}")
    find_emulator(target, options)
    cuda = check_cuda_home(options.cuda_home, target, options) if options.cuda_home else target.cuda
    architectures.refuse_uncompilable(selection.architectures, cuda, constants["ARCHITECTURES"])
    job = Job(
        target=target,
        options=options,
        release=load_release(folder),
        selection=selection,
        series=series,
        patches={name: (folder / name).read_bytes() for name in {FILE_NAME, SUMS_NAME, *files_of(series)}},
        project=load_project(os.environ),
        work=work_root / target.name,
        check_client_calls=patches_root == PATCHES_DIR,
        hash_seed=hash_seed,
        cuda_version=cuda,
        gxx=find_gxx(cuda, os.environ, target.machine),
    )
    if not job.project.revision:
        warn("this is not a git checkout, so the wheels can't name the commit that they are made by")
    say(f"  g++ {job.gxx.version} ({job.gxx.path})")
    _check_writable(job.work, "Builds work there: let it be written.")
    _check_writable(options.wheelhouse, "Choose another one with --wheelhouse DIR.")
    _check_writable(options.cache_dir, "Choose another one with --cache-dir DIR.")
    with locked(job.work):
        if job.scratch.exists():
            shutil.rmtree(job.scratch)
        job.scratch.mkdir()
        try:
            wheels = _build(job)
        finally:
            if not options.keep_build:
                shutil.rmtree(job.scratch, ignore_errors=True)
    for wheel in wheels:
        say(f"  {wheel} ({wheel.stat().st_size / 1e6:.1f} MB, sha256 {file_sha256(wheel)})")
    return wheels


def _build(job: Job) -> list[Path]:
    """Go the way of a wheel, each step in turn."""
    target, options = job.target, job.options
    # The pinned release is known by its content, so that it is not downloaded where all is up to date.
    source = _obtain(job) if options.source else None
    fingerprint = make_fingerprint(
        target=target,
        selection=job.selection,
        options=options,
        release=job.release,
        source=source,
        patches=job.patches,
        project=job.project,
        cuda_version=job.cuda_version,
        host_compiler=job.gxx.digest(),
    )
    shared = bool(options.cache_remote)
    existing = [] if options.force else up_to_date(options.wheelhouse, fingerprint, shared=shared)
    if existing and not options.check:
        say("\nUp to date (--force builds again):")
        return existing
    _check_room(job)
    source = source or _obtain(job)
    with job.durations.step("patches", "Applying patches"):
        applied = apply_series(job.series, source.tree)
        for patch in applied:
            say(f"  {patch.name}: {patch.summary}")
    plan = resources.plan_jobs(resources.cores(), resources.available_memory_bytes(), options.jobs)
    if options.check:
        installed = torch_env.is_installed(target, job.options)
        say("\nPlan:")
        say(f"  torch {target.torch}: {'is installed' if installed else 'to be installed'}")
        say(f"  {plan.reason}")
        say(f"  {options.wheelhouse}: {'is up to date' if existing else 'gets two wheels'}")
        return []
    with job.durations.step("environment", f"Installing torch {target.torch} for CUDA {target.cuda}"):
        say(f"  torch {torch_env.install(target, options)}")
    with job.durations.step("toolchain", f"Preparing the CUDA {target.cuda} compiler"):
        tools = resolve(target, options, torch_env.sites(target), job.gxx)
        say(f"  nvcc {tools.nvcc_version}, g++ {tools.gxx.version}")
    wheel, cost = _compile(job, source, tools, plan)
    provenance = Provenance(
        target=target,
        architectures=job.selection.architectures,
        source=source,
        patches=job.patches,
        summaries={patch.name: patch.summary for patch in applied},
        tools=_tools(job, tools),
        project=job.project,
        epoch=job.release.source_date_epoch,
    )
    with job.durations.step("repair", f"Repairing the wheel for {target.platform_tag}"):
        repaired, bundled = repair(wheel, target, job.scratch / "repaired", tools.cuda_home / "lib64")
        terms = runtime_license_text(torch_env.sites(target)[0])
        full = job.scratch / "full"
        finished = [
            embed(wheel, provenance, job.scratch / "basic"),
            embed(repaired, provenance, full, bundled=bundled, runtime_license=terms),
        ]
    with job.durations.step("check", "Checking both wheels, with only torch beside them"):
        checks = check_new(finished, target, job.options, job.scratch, client_calls=job.check_client_calls)
    record = {
        "schema": 2,
        "fingerprint": fingerprint,
        "target": target.name,
        "checks": checks,
        "obtained_from": source.obtained_from,
        "built_on": {"libc": "-".join(platform.libc_ver()), "machine": platform.machine()},
        "cost": cost,
        "cache_remote": cost["compiler_cache"].pop("remote"),
        "durations_seconds": {name: round(value, 1) for name, value in job.durations.seconds.items()},
    }
    stored = store(finished, record, options.wheelhouse)
    say("\nBuilt:")
    return stored


def _obtain(job: Job) -> Source:
    title = job.options.source or f"SageAttention {job.release.version}"
    with job.durations.step("source", f"Obtaining {title}"):
        return obtain(job.options, job.release, job.scratch)


def _compile(
    job: Job, source: Source, tools: Toolchain, plan: resources.JobPlan
) -> tuple[Path, dict[str, Any]]:
    """Compile; return the wheel, and what it cost."""
    log = job.work / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}.log"
    say(f"\n{plan.reason}\n  compiler output: {log}")
    # In here, since a compiler that is killed removes nothing.
    temporary = job.scratch / "tmp"
    temporary.mkdir()
    torch = torch_env.sites(job.target)[0] / "torch"
    cache = open_cache(job.options, tools.identity, source.tree)
    settings = pep517.write_settings(
        source.tree, job.target, job.selection, tools, torch=torch, jobs=plan.jobs, launcher=cache.launcher
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
    return compiled.wheel, {
        "jobs": plan.jobs,
        "seconds": round(compiled.seconds, 1),
        "cpu_seconds": round(compiled.cpu_seconds, 1),
        "peak_process_memory_bytes": compiled.peak_memory_bytes,
        "compiler_cache": asdict(stats),
    }


def _tools(job: Job, tools: Toolchain) -> tuple[Component, ...]:
    """Return the packages that a build used and the compilers, for the SBOM."""
    # The environment's own packages first: where a name is in both, the target's folders count.
    folders = (Path(sysconfig.get_path("purelib")), *reversed(torch_env.sites(job.target)))
    used = [package.component() for folder in folders for package in torch_env.installed_packages(folder)]
    used += [*tools.components, Component("build-tool", "g++", tools.gxx.version)]
    return tuple({part.name: part for part in used}.values())


def _check_writable(folder: Path, remedy: str) -> None:
    """Stop where a folder, which need not exist yet, can't be written."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as trial:
            trial.write(b"x" * 4096)
            trial.flush()
    except OSError as error:
        raise UsageError(f"{folder} can't be written: {error.strerror}.", remedy) from None


def _check_room(job: Job) -> None:
    """Stop where a disk has less room than a build takes."""
    needs = [(job.work, _BUILD_BYTES)]
    needs += [] if job.options.cuda_home else [(job.options.cache_dir, _CUDA_HOME_BYTES)]
    if not torch_env.is_installed(job.target, job.options):
        needs.append((torch_env.PACKAGES, _TORCH_BYTES[job.target.cuda.partition(".")[0]]))
    disks: dict[int, tuple[Path, float]] = {}
    for folder, size_bytes in needs:
        disk = _existing(folder).stat().st_dev
        first, total = disks.get(disk, (folder, 0))
        disks[disk] = (first, total + size_bytes)
    for folder, size_bytes in disks.values():
        if shutil.disk_usage(_existing(folder)).free < size_bytes:
            raise UsageError(
                f"There is less than {size_bytes / _GB:.1f} GB free at {folder}.",
                "Make room there. --cache-dir DIR puts the cache elsewhere.",
            )


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))

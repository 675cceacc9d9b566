"""Takes one target from source to wheelhouse, step by step: the way of a wheel."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.check.new_wheels import check_new, find_emulator
from builder.compile import jobs as resources
from builder.compile import pep517
from builder.compile.ccache import open_cache
from builder.finish.embed import Provenance, embed, runtime_license_text
from builder.finish.repair import repair
from builder.finish.store import locked, store, up_to_date
from builder.source.obtain import Source, obtain
from builder.source.patches import Series, apply_series, files_of, load_series
from builder.target import architectures
from builder.target.architectures import Selection, local_gpus, select
from builder.target.options import BuildOptions, parse_build_options
from builder.target.project import Project, load_project
from builder.target.targets import (
    FILE_NAME,
    PATCHES_DIR,
    SUMS_NAME,
    Release,
    Target,
    build_constants,
    find_target,
    load_release,
)
from builder.toolchain import torch_env
from builder.toolchain.cuda_home import Toolchain, check_cuda_home, resolve
from builder.toolchain.gxx import Gxx, find_gxx
from builder.util.errors import UsageError
from builder.util.files import ROOT, file_sha256
from builder.util.log import say, show_details, step, warn
from builder.wheel.sbom import Component

BUILDER = ROOT / "builder"
# Code that can't affect a wheel's bytes.
_NOT_COUNTED = {"smoketest", "check", "publish", "__main__.py", "reproduce.py"}
# Code, the project's name and address, and the pins of the build's tools.
_COUNTED_SUFFIXES = {".py", ".toml", ".txt"}
# Free disk that a build needs, as measured; the folders that it writes to are taken to be on one disk.
_BUILD_GB = 1.5  # source, objects, both wheels and the CUDA_HOME
_TORCH_GB = {"13": 4.9, "12": 6.9}  # torch and the compiler's packages, installed


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
    _check_folders(job)
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
    fingerprint = make_fingerprint(job, source)
    shared = bool(options.cache_remote)
    existing = [] if options.force else up_to_date(options.wheelhouse, fingerprint, shared=shared)
    if existing and not options.check:
        say("\nUp to date (--force builds again):")
        return existing
    installed = torch_env.is_installed(target, options)
    room_gb = _BUILD_GB + (0 if installed else _TORCH_GB[target.cuda[:2]])
    if shutil.disk_usage(job.work).free < room_gb * 1e9:
        raise UsageError(f"There is less than {room_gb:.1f} GB free at {job.work}.", "Make room there.")
    source = source or _obtain(job)
    with step("Applying patches"):
        applied = apply_series(job.series, source.tree)
        for patch in applied:
            say(f"  {patch.name}: {patch.summary}")
    plan = resources.plan_jobs(resources.cores(), resources.available_memory_bytes(), options.jobs)
    if options.check:
        say("\nPlan:")
        say(f"  torch {target.torch}: {'is installed' if installed else 'to be installed'}")
        say(f"  {plan.reason}")
        say(f"  {options.wheelhouse}: {'is up to date' if existing else 'gets two wheels'}")
        return []
    with step(f"Installing torch {target.torch} for CUDA {target.cuda}"):
        say(f"  torch {torch_env.install(target, options)}")
    with step(f"Preparing the CUDA {target.cuda} compiler"):
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
    with step(f"Repairing the wheel for {target.platform_tag}"):
        repaired, bundled = repair(wheel, target, job.scratch / "repaired", tools.cuda_home / "lib64")
        terms = runtime_license_text(torch_env.sites(target)[0]) if bundled else b""
        full = job.scratch / "full"
        finished = [
            embed(wheel, provenance, job.scratch / "basic"),
            embed(repaired, provenance, full, bundled=bundled, runtime_license=terms),
        ]
    with step("Checking both wheels, with only torch beside them"):
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
    }
    stored = store(finished, record, options.wheelhouse)
    say("\nBuilt:")
    return stored


def make_fingerprint(job: Job, source: Source | None) -> str:
    """Return the digest of all that decides what a build's wheels hold.

    Jobs, caches and places change how long a build takes, not its result. The project's revision does not
    count either, or each commit would make all wheels stale. The source is that of `--source`, if any.
    """
    parts = {
        "target": repr(job.target),
        "architectures": [str(architecture) for architecture in job.selection.architectures],
        "release": repr(job.release),
        "source": [source.location, source.sha256, source.commit] if source and not source.verified else [],
        "patches": {name: hashlib.sha256(content).hexdigest() for name, content in job.patches.items()},
        "compilers": [str(job.options.cuda_home), job.cuda_version, job.gxx.digest()],
        "torch_index": job.options.torch_index,
        "project": [job.project.name, job.project.url],
        "code": code_digests(BUILDER),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_digests(builder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of the package `builder` that can change a wheel, by its path."""
    paths = sorted(path.relative_to(builder) for path in builder.rglob("*") if path.is_file())
    return {
        path.as_posix(): file_sha256(builder / path)
        for path in paths
        if path.suffix in _COUNTED_SUFFIXES and path.parts[0] not in _NOT_COUNTED
    }


def _obtain(job: Job) -> Source:
    with step(f"Obtaining {job.options.source or f'SageAttention {job.release.version}'}"):
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
    with step(f"Compiling for {architectures.join(job.selection.architectures)}"):
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


def _check_folders(job: Job) -> None:
    """Make the folders that a build writes to, or stop where one can't be written."""
    for folder in (job.work, job.options.wheelhouse, job.options.cache_dir):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            remedy = "Let it be written. --wheelhouse DIR and --cache-dir DIR name other folders."
            raise UsageError(f"{folder} can't be written: {error.strerror}.", remedy) from None

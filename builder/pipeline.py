"""One target from source to wheelhouse, step by step: the way a wheel goes."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from builder.check import audit, import_check
from builder.compile import compiler_cache
from builder.compile import jobs as resources
from builder.compile.frontend import Compiled, run_build
from builder.finish import provenance, repair
from builder.finish.record import for_wheel, learnt_costs, make_record
from builder.finish.wheelhouse import locked, publish, read_record, up_to_date
from builder.source.obtain import Source, obtain
from builder.source.patches import Applied, apply_series
from builder.source.series import Series, load_series
from builder.target import architectures
from builder.target.options import BuildOptions
from builder.target.project import load_project
from builder.target.selection import Selection, local_architectures, select
from builder.target.targets import Target, local_version
from builder.target.upstream import PATCHES_DIR, Release, load_release
from builder.toolchain import assembly as toolchain
from builder.toolchain import components
from builder.toolchain import venv as environment
from builder.toolchain.assembly import Toolchain
from builder.util.digest import file_sha256
from builder.util.log import say, step, warn
from builder.util.paths import ROOT

# Largest resident set of one compiler process, measured: below 0.8 GB on the stable interface, 3.3 GB on
# torch/extension.h, which only an unpatched tree includes.
PATCHED_JOB_BYTES = 800 * 10**6
UNPATCHED_JOB_BYTES = 3_400 * 10**6

# Folders whose code does not reach into a wheel: a change in them leaves the wheelhouse up to date.
_AFTER_THE_WHEEL = {"check", "publish", "smoketest"}


@dataclass
class Durations:
    """Wall time of each step, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Announce a step and keep its time under a short name."""
        start = time.monotonic()
        with step(title):
            yield
        self.seconds[name] = time.monotonic() - start


@dataclass(frozen=True)
class Job:
    """One build: what was asked for, resolved before anything runs.

    Attributes:
        target: What to build.
        options: How.
        release: The pinned upstream release.
        series: The patches; empty with `--no-patches`.
        selection: The architectures.
        patches: The folder that the series came from.
        work: The folder for scratch trees and logs.
        hash_seed: Python's hash seed in the build.
        durations: Filled as the steps go.
    """

    target: Target
    options: BuildOptions
    release: Release
    series: Series
    selection: Selection
    patches: Path
    work: Path
    hash_seed: int
    durations: Durations = field(default_factory=Durations)

    @property
    def scratch(self) -> Path:
        """Everything in here goes when the build ends."""
        return self.work / "scratch"

    @property
    def patched(self) -> bool:
        """Whether the tree gets the patches."""
        return not self.options.no_patches


@dataclass(frozen=True)
class Made:
    """A compiled wheel, how many compiler processes ran at once, and what the compiler cache did."""

    compiled: Compiled
    jobs: int
    cache: dict[str, Any]


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
        patches_root: The folder that holds a folder of patches for each upstream release.
        work_root: The folder for scratch trees and logs.
        hash_seed: Python's hash seed in the build; the result must not depend on it.

    Returns:
        The wheels in the wheelhouse, the basic one first.

    Raises:
        BuilderError: Any step failed; the wheelhouse is as it was.
    """
    patches = patches_root / target.upstream
    selection = select(options.arch, target.architectures, local_architectures())
    job = Job(
        target=target,
        options=options,
        release=load_release(patches),
        series=() if options.no_patches else load_series(patches),
        selection=selection,
        patches=patches,
        work=work_root / target.name,
        hash_seed=hash_seed,
    )
    say(f"{target.name}: {target.describe()}")
    say(f"  architectures: {selection.reason}")
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
    target, options = job.target, job.options
    source = None
    if options.source is not None:
        with job.durations.step("source", f"Taking {options.source}"):
            source = obtain(options, job.release, job.scratch)
    fingerprint = make_fingerprint(job, source or job.release)
    there = [] if options.force else up_to_date(options.wheelhouse, fingerprint)
    if there:
        say("\nUp to date (--force builds again):")
        return there
    with job.durations.step("environment", f"Installing torch {target.torch} for CUDA {target.cuda}"):
        torch_version = environment.install(target, options, Path(sys.executable))
    with job.durations.step("toolchain", f"Preparing the CUDA {target.cuda} compiler"):
        tools = toolchain.resolve(target, options, _site_packages(), options.cache_dir)
        architectures.refuse_uncompilable(job.selection.architectures, tools.cuda_version)
        say(f"  nvcc {tools.nvcc_version} ({tools.origin}), g++ {tools.host.version}")
    if source is None:
        with job.durations.step("source", f"Fetching SageAttention {job.release.version}"):
            source = obtain(options, job.release, job.scratch)
    applied = _patch(job, source)
    made = _compile(job, source, tools)
    record = make_record(
        target=target,
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
    told = _provenance(job, source, applied, tools)
    finished = _finish(job, made.compiled.wheel, tools, told, record)
    published = publish(finished, options.wheelhouse)
    say("\nBuilt:")
    return published


def _patch(job: Job, source: Source) -> list[Applied]:
    with job.durations.step("patches", "Applying patches"):
        applied = apply_series(job.series, source.tree)
        for patch in applied:
            say(f"  {patch.name}: {patch.summary}")
        if not job.patched:
            warn("--no-patches: this wheel has every fault of the release that the patches mend")
    return applied


def _compile(job: Job, source: Source, tools: Toolchain) -> Made:
    per_job = PATCHED_JOB_BYTES if job.patched else UNPATCHED_JOB_BYTES
    plan = resources.plan_jobs(
        resources.cores(), resources.available_memory_bytes(), per_job, job.options.jobs
    )
    log = job.work / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}.log"
    say(f"\n{plan.reason}\n  compiler output: {log}")
    events, costs = job.scratch / "events.jsonl", job.scratch / "costs.json"
    costs.write_text(json.dumps(learnt_costs(_records(job.options.wheelhouse))))
    # An unpatched tree knows no launcher.
    asked = job.options if job.patched else replace(job.options, cache=False)
    with compiler_cache.open_cache(asked, tools, source.tree, _site_packages()) as cache:
        env = {
            **toolchain.build_environment(tools, os.environ),
            **cache.env,
            **build_variables(
                job, jobs=plan.jobs, launcher=shlex.join(cache.launcher), costs=costs, events=events
            ),
        }
        title = f"Compiling for {architectures.join(job.selection.architectures)}"
        with job.durations.step("compile", title):
            compiled = run_build(
                source.tree,
                job.scratch / "wheel",
                log,
                env,
                jobs=plan.jobs,
                events=events if job.patched else None,
                echo=job.options.verbose,
            )
        stats = cache.stats()
    if asked.cache:
        say(f"  compiler cache: {stats}")
    say(f"  {compiled.cpu_seconds:.0f} CPU s, at most {compiled.peak_memory_bytes / 1e6:.0f} MB a process")
    return Made(compiled, plan.jobs, stats.as_dict())


def build_variables(job: Job, *, jobs: int, launcher: str, costs: Path, events: Path) -> dict[str, str]:
    """The variables that tell the tree's build backend what to build.

    Args:
        job: The build.
        jobs: Compiler processes at once.
        launcher: Command to put before each compiler; empty for none.
        costs: File with the costs of earlier builds.
        events: File that progress goes to.
    """
    listed = ";".join(str(architecture) for architecture in job.selection.architectures)
    common = {
        "SOURCE_DATE_EPOCH": str(job.release.source_date_epoch),
        "PYTHONHASHSEED": str(job.hash_seed),
        "TORCH_CUDA_ARCH_LIST": listed,
    }
    if not job.patched:
        # Upstream asks for --threads=8, which multiplies the processes that MAX_JOBS counts.
        return {**common, "MAX_JOBS": str(jobs), "EXT_PARALLEL": "1", "NVCC_APPEND_FLAGS": "--threads=1"}
    return {
        **common,
        "SAGEATTENTION_LOCAL_VERSION": local_version(job.target, job.selection),
        "SAGEATTENTION_TORCH_REQUIREMENT": job.target.torch_requirement,
        "SAGEATTENTION_ABI": job.target.abi,
        "SAGEATTENTION_JOBS": str(jobs),
        "SAGEATTENTION_LAUNCHER": launcher,
        "SAGEATTENTION_COSTS": str(costs),
        "SAGEATTENTION_EVENTS": str(events),
    }


def _provenance(
    job: Job, source: Source, applied: Sequence[Applied], tools: Toolchain
) -> provenance.Provenance:
    summaries = {patch.name: patch.summary for patch in applied}
    used = {
        part.name: part for part in (*components.installed_components(_site_packages()), *tools.components)
    }
    return provenance.Provenance(
        target=job.target,
        architectures=job.selection.architectures,
        source=source,
        patches=provenance.read_patch_files(job.patches, summaries) if applied else (),
        patch_count=len(applied),
        tools=tuple(
            provenance.BuildTool(part.name, part.version, part.sha256 or "", part.purl or "")
            for part in used.values()
        ),
        project=load_project(os.environ),
        epoch=job.release.source_date_epoch,
    )


def _finish(
    job: Job, built: Path, tools: Toolchain, told: provenance.Provenance, record: Mapping[str, Any]
) -> list[tuple[Path, dict[str, Any]]]:
    """Repair, complete and check both wheels; returns them with their records, the basic one first."""
    with job.durations.step("repair", f"Repairing the wheel for {job.target.platform_tag}"):
        repaired = repair.repair(built, job.target, job.scratch / "repaired", [tools.cuda_home / "lib64"])
        basic = provenance.finalize(built, told, job.scratch / "basic")
        full = provenance.finalize(
            repaired.wheel,
            told,
            job.scratch / "full",
            bundled=repaired.bundled,
            runtime_license=provenance.runtime_license_text(_site_packages()),
        )
        for library in repaired.bundled:
            say(f"  bundled: {library.soname}")
        for soname, owner in repaired.left_out.items():
            say(f"  left to the process: {soname} ({owner})")
    with job.durations.step("check", "Checking both wheels, in a new environment with only torch"):
        checks = _check(job, [basic, full])
    bundled = [{"name": library.path, "sha256": library.original_sha256} for library in repaired.bundled]
    return [
        (basic, for_wheel(record, basic, bundled=[], checks=checks, wheels_of_build=2)),
        (full, for_wheel(record, full, bundled=bundled, checks=checks, wheels_of_build=2)),
    ]


def _check(job: Job, wheels: Sequence[Path]) -> list[str]:
    """Audit the wheels, and import each in a new environment with only torch; returns what was checked."""
    checks: set[str] = set()
    for wheel in wheels:
        report = audit.audit_wheel(
            wheel,
            expect=job.target,
            house_rules=job.patched,
            waive=frozenset() if job.patched else audit.UNPATCHED,
        )
        say(audit.table([report]))
        report.raise_if_failed()
        checks.update(report.checks)
    index = job.options.torch_index or job.target.torch_index
    requirements = [f"torch=={job.target.torch}"]
    python = environment.make_clean_venv(job.scratch / "venv", sys.executable, requirements, index)
    # Upstream links its Hopper extension to the driver.
    tolerated = [] if job.patched else [import_check.NO_DRIVER]
    for wheel in wheels:
        environment.install_wheel(python, wheel)
        say(f"  {wheel.name}")
        for line in import_check.run(python, tolerate=tolerated):
            say(f"    {line}")
    return [*sorted(checks), "import"]


def make_fingerprint(job: Job, source: Source | Release) -> str:
    """A digest of all that decides what the wheels hold.

    Jobs, caches and places are not in it: they change how long a build takes, not its result.

    Args:
        job: The build.
        source: The source, or the release that stands for it before it is downloaded.
    """
    parts = {
        "target": repr(job.target),
        "architectures": [str(architecture) for architecture in job.selection.architectures],
        "source": source.sha256,
        "location": job.options.source,
        "patches": [(patch.name, patch.sha256) for patch in job.series],
        "cuda_home": str(job.options.cuda_home),
        "torch_index": job.options.torch_index,
        "code": code_digests(ROOT / "builder"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_digests(builder: Path) -> dict[str, str]:
    """SHA-256 of each file of the builder whose content can reach into a wheel, by its path.

    Args:
        builder: The folder of the package `builder`.
    """
    paths = (path.relative_to(builder) for path in builder.rglob("*") if path.is_file())
    return {
        path.as_posix(): file_sha256(builder / path)
        for path in sorted(paths)
        if path.suffix in {".py", ".txt", ".toml"} and path.parts[0] not in _AFTER_THE_WHEEL
    }


def _records(wheelhouse: Path) -> list[dict[str, Any]]:
    read = (read_record(path.with_suffix("")) for path in sorted(wheelhouse.glob("*.whl.json")))
    return [record for record in read if record]


def _site_packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)

# /// script
# requires-python = ">=3.10"
# dependencies = ["nox[uv]>=2025.10.14", "packaging>=24"]
# ///
"""SageAttention wheels.

nox -t cp312-cu130        build a target's wheels, then test them on this machine's GPU
nox -t build              build the wheels of every target
nox                       check a change to this project: lint, types, tests
nox -s SESSION -- --help  show a session's options
"""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
# `python noxfile.py` puts this folder on the path. The `nox` command does not.
sys.path.insert(0, str(ROOT))

from builder.target.targets import load_targets  # noqa: E402
from builder.util.errors import BuilderError  # noqa: E402
from builder.util.files import file_sha256, locked  # noqa: E402
from builder.util.log import without_secrets  # noqa: E402

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "types", "tests"]


def _hide_secrets(record: logging.LogRecord) -> bool:
    """Hide the password of an address in a command that nox prints."""
    record.msg, record.args = without_secrets(record.getMessage()), ()
    return True


logging.getLogger("nox").addFilter(_hide_secrets)

BUILD_LOCK, TESTS_LOCK = "builder/requirements.txt", "tests/requirements.txt"
PUBLISH_LOCK = "builder/publish/requirements.txt"
CHECKED = ("noxfile.py", "builder", "tests", "benchmarks", "docs")

try:
    TARGETS = load_targets(ROOT / "targets")
except BuilderError as error:
    raise SystemExit(f"error: {error}") from None
E2E_PYTHON = TARGETS["cp312-cu130"].python if "cp312-cu130" in TARGETS else None


def _install(session: nox.Session, lock: str) -> None:
    """Install a lock, which pip and uv check by its hashes, and isolate the session from the user's Python.

    The marker is written last: without it an install was interrupted, and the environment is made anew.
    """
    session.env.update(dict.fromkeys(("PYTHONHOME", "PYTHONPATH", "PYTHONSAFEPATH")))
    environment = session.virtualenv
    marker, digest = Path(environment.location, "installed.sha256"), file_sha256(ROOT / lock)
    with locked(Path(f"{environment.location}.lock"), lambda: session.log("waiting for another install")):
        if environment._reused and not (marker.is_file() and marker.read_text() == digest):
            shutil.rmtree(environment.location)
            environment.create()
            environment._reused = False  # so that it is installed with --no-install too
        marker.unlink(missing_ok=True)
        session.install("--require-hashes", "-r", lock)
        marker.write_text(digest)


def _builder(
    command: str, doc: str, *, target: str = "", tags: tuple[str, ...] = (), lock: str = BUILD_LOCK
) -> None:
    """Make a session that runs a command of the builder, for one target or for none in particular."""

    def run(session: nox.Session) -> None:
        _install(session, lock)
        arguments = [target, *session.posargs] if target else session.posargs
        session.run("python", "-m", "builder", command, *arguments)

    run.__doc__ = doc
    name, python = (f"{command}-{target}", TARGETS[target].python) if target else (command, None)
    nox.session(name=name, python=python, tags=tags)(run)


# --- Build wheels, and test them on a GPU.

for _name, _target in TARGETS.items():
    _builder("build", f"Build wheels for {_target.describe()}.", target=_name, tags=("build", _name))
for _name in TARGETS:
    _builder("smoketest", f"Test the wheels of {_name} on a GPU.", target=_name, tags=("smoketest", _name))
_builder("smoketest", "Test every wheel in the wheelhouse that fits this machine.")
for _name in TARGETS:
    _builder("reproduce", f"Build {_name} twice and compare the bytes.", target=_name, tags=("reproduce",))

# --- Check wheels without a GPU, and publish them.

_builder("audit", "Audit every wheel in the wheelhouse.", tags=("check",))
_builder(
    "compatibility", "Load the universal wheels with every torch and Python they claim.", tags=("check",)
)
_builder("index", "Write a package index of the wheelhouse to site/.")
_builder("release", "Make or complete a GitHub release of the wheelhouse.", lock=PUBLISH_LOCK)
_builder("outdated", "List newer versions of SageAttention, torch and CUDA.", lock=PUBLISH_LOCK)

# --- Change this project.


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style of the code, the workflows and compose.yaml."""
    _install(session, TESTS_LOCK)
    session.run("ruff", "check", *CHECKED)
    session.run("ruff", "format", "--check", *CHECKED)
    workflows = sorted(map(str, Path(".github", "workflows").glob("*.yml")))
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    session.run("zizmor", "--offline", "--quiet", ".github/workflows")


@nox.session
def types(session: nox.Session) -> None:
    """Check the type hints."""
    _install(session, TESTS_LOCK)
    session.run("mypy", *CHECKED)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the unit tests, without network and GPU, in under a minute."""
    _install(session, TESTS_LOCK)
    whole = () if session.posargs else ("--numprocesses=auto", "--cov")
    session.run("pytest", "-m", "not e2e and not torch", *whole, *session.posargs)


@nox.session(python=E2E_PYTHON)
def e2e(session: nox.Session) -> None:
    """Build a small CUDA package with the real compiler, torch and auditwheel."""
    _install(session, TESTS_LOCK)
    session.run("pytest", "-m", "e2e and not container", *session.posargs)
    # The smoke test's own tests, with the torch that the build above has left in the cache of packages.
    session.install(f"torch=={TARGETS['cp312-cu130'].torch}")
    session.run("pytest", "-m", "torch", "tests/smoketest", *session.posargs)


@nox.session(python=E2E_PYTHON)
def container(session: nox.Session) -> None:
    """Build the small package through compose.yaml, with podman."""
    _install(session, TESTS_LOCK)
    session.run("pytest", "-s", "tests/e2e/test_container.py", *session.posargs)


@nox.session(python=E2E_PYTHON)
def benchmark(session: nox.Session) -> None:
    """Time this build against upstream's own setup.py."""
    _install(session, BUILD_LOCK)
    session.run("python", "-m", "benchmarks.build_speed", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Pin the tools in pyproject.toml with hashes; `-- --upgrade` takes newer ones."""
    _install(session, BUILD_LOCK)
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.10"]
    command += ["--generate-hashes", "--no-annotate", "--custom-compile-command", "nox -s lock"]
    command += session.posargs
    session.run(*command, "--group", "build", "--output-file", BUILD_LOCK)
    for group, file in (("publish", PUBLISH_LOCK), ("dev", TESTS_LOCK)):
        session.run(*command, "--group", group, "--constraint", BUILD_LOCK, "--output-file", file)


if __name__ == "__main__":
    nox.main()

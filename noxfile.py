# /// script
# requires-python = ">=3.10"
# dependencies = ["nox[uv]>=2025.10.14", "packaging>=24"]
# ///
"""Sessions that build, check and ship SageAttention wheels: `nox -l` lists them."""

from __future__ import annotations

import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from builder.target.targets import Target, load_targets  # noqa: E402
from builder.util.errors import BuilderError  # noqa: E402

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

CONSTRAINTS = ("-c", "builder/constraints.txt")
BUILD_TOOLS = ("-r", "builder/requirements.txt", *CONSTRAINTS)
TEST_TOOLS = (*BUILD_TOOLS, "-r", "tests/requirements.txt", "-c", "tests/constraints.txt")
CHECKED = ("noxfile.py", "builder", "tests", "benchmarks", "docs")

try:
    TARGETS = load_targets(ROOT / "targets")
except BuilderError as error:
    raise SystemExit(f"error: {error}") from None


def _builder(session: nox.Session, command: str, *arguments: str) -> None:
    """Run one command of the builder in the session's environment."""
    session.install(*BUILD_TOOLS)
    session.run(
        "python", "-m", "builder", command, *arguments, *session.posargs, env={"PYTHONPATH": str(ROOT)}
    )


def _for_target(target: Target, prefix: str, command: str, doc: str) -> None:
    """Make the session `<prefix>-<target>` that runs a command of the builder for that target."""

    def run(session: nox.Session) -> None:
        _builder(session, command, target.name)

    run.__doc__ = doc
    nox.session(name=f"{prefix}-{target.name}", python=target.python)(run)


def _tool(command: str, doc: str) -> None:
    """Make a session that runs a command of the builder for no target in particular."""

    def run(session: nox.Session) -> None:
        _builder(session, command)

    run.__doc__ = doc
    nox.session(name=command)(run)


for _target in TARGETS.values():
    _for_target(_target, "build", "build", f"Build the wheels: {_target.describe()}.")
for _target in TARGETS.values():
    _for_target(_target, "smoketest", "smoketest", f"Test the wheels of {_target.name} on the local GPU.")
for _target in TARGETS.values():
    _for_target(
        _target, "reproduce", "reproduce", f"Build {_target.name} twice, differently, and compare the bytes."
    )

_tool("smoketest", "Test every wheel of the wheelhouse that this machine can run, or any with --wheel PATH.")
_tool("compatibility", "Load the universal wheels with every torch and Python that they claim.")
_tool("audit", "Check every wheel of the wheelhouse, or the ones given.")
_tool("index", "Write the package index and its page from the wheelhouse to site/.")
_tool("release", "Make or complete the GitHub release of the wheelhouse's wheels (--dry-run shows it).")
_tool("outdated", "Tell of newer SageAttention, torch and CUDA releases, and what to change.")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the unit tests: no network, no GPU, under a minute."""
    session.install(*TEST_TOOLS)
    session.run("pytest", "-m", "not e2e", *session.posargs)


@nox.session(python=TARGETS["cp312-cu130"].python if "cp312-cu130" in TARGETS else None)
def e2e(session: nox.Session) -> None:
    """Run the end-to-end tests: a small CUDA package through the real compiler, torch and auditwheel."""
    session.install(*TEST_TOOLS)
    session.run("pytest", "-m", "e2e", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the code's style and the workflows."""
    session.install("-r", "tests/lint-requirements.txt", *CONSTRAINTS, "-c", "tests/constraints.txt")
    session.run("ruff", "check", *_present(CHECKED))
    session.run("ruff", "format", "--check", *_present(CHECKED))
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *_workflows())
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    session.run("zizmor", "--offline", "--quiet", ".github/workflows")


@nox.session
def types(session: nox.Session) -> None:
    """Check the type hints."""
    session.install(*TEST_TOOLS, "-r", "tests/types-requirements.txt")
    session.run("mypy", *_present(CHECKED))


@nox.session(python=TARGETS["cp312-cu130"].python if "cp312-cu130" in TARGETS else None)
def benchmark(session: nox.Session) -> None:
    """Time this build against upstream's own setup.py on this machine, and print the table."""
    session.install(*BUILD_TOOLS)
    session.run("python", "benchmarks/build_speed.py", *session.posargs, env={"PYTHONPATH": str(ROOT)})


def _present(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if (ROOT / name).exists()]


def _workflows() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github" / "workflows").glob("*.yml"))


if __name__ == "__main__":
    nox.main()

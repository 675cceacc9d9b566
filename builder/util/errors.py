"""Every way that a build, an audit or a release can fail, each with its own exit code.

A message says what was wrong and what to do next. A user never sees a traceback for a mistake of theirs.
The docstrings make up the table in docs/troubleshooting.md: the first line says what is wrong, the rest
says what to do.
"""

from __future__ import annotations

from builder.util.log import without_secrets


class BuilderError(Exception):
    """Base of all errors that end a command: what was wrong, and what to do next where that says more."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = without_secrets(message), without_secrets(remedy)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UsageError(BuilderError):
    """An option or argument that can't be used.

    Correct the option. `-- --help` lists them.
    """

    exit_code = 2


class TargetError(BuilderError):
    """A target file that is wrong; the message names the file and the key.

    Correct that key. docs/develop.md shows a whole file.
    """

    exit_code = 3


class DownloadError(BuilderError):
    """A download that failed, or that has a different SHA-256 than the pinned one.

    Run the command again: it goes on where it stopped. `--cache-dir` names a folder with more space.
    `REQUESTS_CA_BUNDLE` names the certificates of a proxy. If the SHA-256 differs, don't go on: find out who
    serves the file.
    """

    exit_code = 4


class SourceError(BuilderError):
    """A source tree or archive that can't be built.

    Give `--source` the folder that holds `setup.py`, `csrc/` and `sageattention/`.
    """

    exit_code = 5


class PatchError(BuilderError):
    """A patch that does not apply; the message names the patch and the replacement.

    The patches are for the pinned release: build that one.
    """

    exit_code = 6


class ToolchainError(BuilderError):
    """A CUDA compiler that is missing, does not work, or has the wrong version.

    Omit `--cuda-home` and unset `CUDA_HOME`, or pass `--allow-cuda-minor`.
    """

    exit_code = 7


class HostCompilerError(ToolchainError):
    """A g++ that is missing, or that the CUDA compiler does not accept.

    Install one: `apt install g++`, or `dnf install gcc-c++`. If yours is too new, install the version that
    the message names.
    """

    exit_code = 8


class TorchEnvironmentError(BuilderError):
    """torch could not be installed, or is built for a different CUDA version.

    Check that the target's package index can be reached, or name another one with `--torch-index`. The
    environment needs up to 7 GB of disk.
    """

    exit_code = 9


class ArchitectureError(BuilderError):
    """A compute capability that the target, the source or the CUDA version lacks.

    Name architectures of the target, or pass `--arch all`.
    """

    exit_code = 10


class CompileError(BuilderError):
    """The compiler failed.

    Read the log: the message contains its last lines and its path.
    """

    exit_code = 11


class OutOfMemoryError(CompileError):
    """A compiler process was killed because memory ran out.

    Pass the `--jobs` that the message names, or free some memory.
    """

    exit_code = 12


class RepairError(BuilderError):
    """auditwheel could not make a wheel with the target's platform tag.

    This system's glibc or g++ is newer than the tag allows. Build with `docker compose up`, or with the g++
    that the message names.
    """

    exit_code = 13


class AuditError(BuilderError):
    """A wheel that failed a check.

    Each line names the check. docs/audit.md says what it compares.
    """

    exit_code = 14


class ReproducibilityError(BuilderError):
    """Two builds that should be equal differ.

    The message names the first member and section that differ. Please report it.
    """

    exit_code = 15


class ReleaseError(BuilderError):
    """A release that was refused, or that did not complete.

    Run the command again after a broken connection. Prefer a new tag to `--replace`.
    """

    exit_code = 16

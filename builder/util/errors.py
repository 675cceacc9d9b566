"""Every way that a build, an audit or a release can fail, each with its own exit code.

A message says what was wrong and what to do next. A user never sees a traceback for a mistake of theirs. The
docstrings make up the table in docs/troubleshooting.md.
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
    """An option or argument that can't be used."""

    exit_code = 2


class TargetError(BuilderError):
    """A target file that is wrong; the message names the file and the key."""

    exit_code = 3


class DownloadError(BuilderError):
    """A download that failed, or that has a different SHA-256 than the pinned one."""

    exit_code = 4


class SourceError(BuilderError):
    """A source tree or archive that can't be built."""

    exit_code = 5


class PatchError(BuilderError):
    """A patch that does not apply; the message names the patch and the replacement."""

    exit_code = 6


class ToolchainError(BuilderError):
    """A CUDA compiler that is missing, does not work, or has the wrong version."""

    exit_code = 7


class HostCompilerError(ToolchainError):
    """A g++ that is missing, or that the CUDA compiler does not accept."""

    exit_code = 8


class TorchEnvironmentError(BuilderError):
    """torch could not be installed, or is built for a different CUDA version."""

    exit_code = 9


class ArchitectureError(BuilderError):
    """A compute capability that the target, the source or the CUDA version lacks."""

    exit_code = 10


class CompileError(BuilderError):
    """The compiler failed."""

    exit_code = 11


class OutOfMemoryError(CompileError):
    """A compiler process was killed because memory ran out."""

    exit_code = 12


class RepairError(BuilderError):
    """auditwheel could not make a wheel with the target's platform tag."""

    exit_code = 13


class AuditError(BuilderError):
    """A wheel that failed a check."""

    exit_code = 14


class ReproducibilityError(BuilderError):
    """Two builds that should be equal differ."""

    exit_code = 15


class ReleaseError(BuilderError):
    """A release that was refused, or that did not complete."""

    exit_code = 16

"""Every way that a build, an audit or a release can fail, each with its own exit status.

A message says what was wrong and what to do next; nobody sees a traceback for a mistake of theirs.
"""

from __future__ import annotations


class BuilderError(Exception):
    """Base of all errors that end a command.

    Args:
        message: What was wrong, in one sentence.
        remedy: What to do next, in one sentence; empty where the message says it.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UsageError(BuilderError):
    """An option or argument that can't be used."""

    exit_code = 2


class TargetError(BuilderError):
    """A target file that is wrong; the message names file and key."""

    exit_code = 3


class DownloadError(BuilderError):
    """An archive that could not be had, or had the wrong bytes."""

    exit_code = 4


class SourceError(BuilderError):
    """A source tree or archive that can't be built from."""

    exit_code = 5


class PatchError(BuilderError):
    """A patch or rewrite that does not apply; the message names patch and hunk."""

    exit_code = 6


class ToolchainError(BuilderError):
    """No usable CUDA compiler, or one of the wrong version."""

    exit_code = 7


class HostCompilerError(ToolchainError):
    """g++ is missing, or newer than the CUDA compiler takes."""

    exit_code = 8


class TorchEnvironmentError(BuilderError):
    """torch could not be installed, or is built for another CUDA version."""

    exit_code = 9


class ArchitectureError(BuilderError):
    """A compute capability that the source or the CUDA version lacks."""

    exit_code = 10


class CompileError(BuilderError):
    """The compiler failed; the message holds its last lines and the log's path."""

    exit_code = 11


class OutOfMemoryError(CompileError):
    """A compiler process was killed for memory."""

    exit_code = 12


class RepairError(BuilderError):
    """auditwheel could not make a PEP 600 wheel of the platform tag's floor."""

    exit_code = 13


class AuditError(BuilderError):
    """A wheel that failed a check."""

    exit_code = 14


class ReproducibilityError(BuilderError):
    """Two builds that should be equal differ."""

    exit_code = 15


class ReleaseError(BuilderError):
    """The release API refused something, or an asset differs from the one there."""

    exit_code = 16

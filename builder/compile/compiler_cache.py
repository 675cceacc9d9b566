"""A compiler cache of this project's own, with ccache behind it.

ccache runs the compiler as its own child, so a compile's CPU time and memory show where they are used, it
needs no server, and a hit costs a few hundredths of a second: it does not even preprocess. Three things
are done to make its hits right and frequent:

- nvcc preprocesses a source once for the host and once for each architecture, and what a file includes may
  differ between them. ccache sees one of these passes only, and would miss a change that another one sees.
  So it runs in its depend mode, in which the list of included files is nvcc's own, made with `-MD`, and
  that names the files of all passes.
- The compiler is told apart by a digest of all programs that a compile runs (cicc and ptxas among them),
  not by the size and time of nvcc alone.
- The same compile has to be found again from another folder and another environment. Paths in the source
  tree are made relative (`base_dir`), and other folders that a command line names, such as the
  environment's torch headers, are named by a link in the cache, whose path is the same everywhere.

A small launcher script in front of ccache adds `-MD` and puts these links in the paths' places.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from builder.target.options import BuildOptions
from builder.util.log import warn

# ccache's counters (manual, "Cache statistics") that don't say how a compile ended: its storage, its
# sizes, details of a hit or miss that another counter counts, and calls that compile nothing.
_NOT_A_RESULT = re.compile(
    r".*_storage_.*|.*_kibibyte|.*_timestamp|files_in_cache|max_files_in_cache|cleanups_performed|"
    r"direct_cache_miss|preprocessed_cache_miss|called_for_link|called_for_preprocessing|no_input_file"
)
_HITS = ("direct_cache_hit", "preprocessed_cache_hit")
_MISS = "cache_miss"

_LAUNCHER = """\
#!/bin/sh
# compiler [argument...]: runs the compiler through ccache.
compiler=$1
shift
# ccache does not look at these, which change what nvcc does.
[ -z "$NVCC_PREPEND_FLAGS$NVCC_APPEND_FLAGS$NVCC_CCBIN" ] || exec "$compiler" "$@"
compiles=
depends=
output=
previous=
count=$#
while [ "$count" -gt 0 ]; do
  argument=$1
  shift
  count=$((count - 1))
@ALIASES@
  case $argument in
    -c | --compile | -dc | --device-c) compiles=yes ;;
    -MD | --generate-dependencies-with-compile) depends=yes ;;
    # Without the system's headers, which torch's may count as, the list would be short.
    -MMD | --generate-nonsystem-dependencies-with-compile) argument=-MD depends=yes ;;
  esac
  [ "$previous" = -o ] && output=$argument
  previous=$argument
  set -- "$@" "$argument"
done
if [ "$compiles" ] && [ -z "$depends" ]; then
  # Where the list would go is not known without -o: then the cache is not sure of its hits.
  [ "$output" ] || exec "$compiler" "$@"
  set -- "$@" -MD -MF "$output.d"
fi
exec @CCACHE@ "$compiler" "$@"
"""

_ALIAS = """\
  case $argument in
    *@FROM@) argument=${argument%@FROM@}@TO@ ;;
    *@FROM@/*) argument=${argument%%@FROM@/*}@TO@/${argument#*@FROM@/} ;;
  esac"""


@dataclass(frozen=True)
class Stats:
    """What a cache did for one build.

    Attributes:
        hits: Compiles that were taken from the cache.
        misses: Compiles that were run and stored.
        uncached: Compiles that were run and can't be cached, or could not be stored.
        reasons: Why, by ccache's own names.
    """

    hits: int = 0
    misses: int = 0
    uncached: int = 0
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = f", {self.uncached} not cached ({', '.join(self.reasons)})" if self.uncached else ""
        return f"{self.hits} hit{'s' * (self.hits != 1)}, {self.misses} miss{'es' * (self.misses != 1)}{more}"

    def as_dict(self) -> dict[str, Any]:
        """For a JSON record."""
        return asdict(self)


class NullCache:
    """No cache, with the same interface as `CompilerCache`."""

    @property
    def launcher(self) -> list[str]:
        """What to put before a compiler's command: nothing."""
        return []

    @property
    def env(self) -> dict[str, str]:
        """What the build's environment needs in addition: nothing."""
        return {}

    def stats(self) -> Stats:
        """No hits, no misses."""
        return Stats()

    def __enter__(self) -> NullCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class CompilerCache(NullCache):
    """ccache for one build, to be used in a `with` statement.

    Where the cache can't be used (no ccache, a folder that can't be written to) it warns and is as good as
    a `NullCache`; a build never fails for it.

    Args:
        folder: Where compiled objects are kept.
        size: Limit of that folder: a number with K, M, G or T (powers of 1024).
        identity: A digest of the compilers, `Toolchain.identity`.
        tree: The source tree; paths in it count relative to the current folder.
        aliases: Other folders that command lines name, each with a name that stands for its content.
        ccache: The program; None takes the one that is installed in this environment.
    """

    def __init__(
        self,
        folder: Path,
        size: str,
        *,
        identity: str,
        tree: Path,
        aliases: Mapping[Path, str] | None = None,
        ccache: Path | None = None,
    ) -> None:
        self._folder = folder
        self._size = size
        self._identity = identity
        self._tree = tree
        self._aliases = dict(aliases or {})
        self._ccache = ccache or installed_ccache()
        self._launcher: Path | None = None
        self._config: Path | None = None
        self._log: Path | None = None

    @property
    def launcher(self) -> list[str]:
        """What to put before a compiler's command; empty where there is no cache."""
        return [str(self._launcher)] if self._launcher else []

    @property
    def env(self) -> dict[str, str]:
        """What the build's environment needs in addition; none of it comes from the user's own ccache."""
        if self._launcher is None:
            return {}
        return {"CCACHE_CONFIGPATH": str(self._config), "CCACHE_STATSLOG": str(self._log)}

    def stats(self) -> Stats:
        """What the cache has done for this build until now."""
        if self._launcher is None or self._log is None or self._ccache is None:
            return Stats()
        if not self._log.exists() or self._log.stat().st_size == 0:
            return Stats()
        command = [str(self._ccache), "--print-log-stats", "--format", "json"]
        try:
            done = subprocess.run(
                command, env=self.env, capture_output=True, text=True, check=True, timeout=60
            )
            return parse_stats(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            warn(f"the compiler cache does not say what it did: {error}")
            return Stats()

    def __enter__(self) -> CompilerCache:
        if self._ccache is None:
            warn("there is no ccache in this environment; compiling without the compiler cache")
            return self
        try:
            self._prepare(self._ccache)
        except (OSError, subprocess.SubprocessError) as error:
            self._launcher = None
            warn(f"the compiler cache in {self._folder} can't be used ({error}); compiling without it")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log is not None:
            self._log.unlink(missing_ok=True)
        self._launcher = self._log = None

    def _prepare(self, ccache: Path) -> None:
        for name in ("objects", "tmp", "links", "bin"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        # It has to start, and be able to write: better found out here than in each compile.
        subprocess.run([str(ccache), "--version"], check=True, capture_output=True, timeout=60)
        handle, log = tempfile.mkstemp(prefix="stats-", suffix=".log", dir=self._folder / "tmp")
        os.close(handle)
        self._log = Path(log)
        links = {folder: self._link(folder, name) for folder, name in self._aliases.items()}
        settings = configuration(self._folder, self._size, self._identity, self._tree)
        self._config = _written(self._folder / "bin", "ccache-{}.conf", settings)
        self._launcher = _written(self._folder / "bin", "launcher-{}", launcher_script(ccache, links))

    def _link(self, folder: Path, name: str) -> Path:
        """A link to a folder whose own path only the folder's content decides; moved if it led elsewhere."""
        link = self._folder / "links" / name
        if not link.is_symlink() or link.readlink() != folder:
            part = link.with_name(f".{name}.{os.getpid()}")
            part.unlink(missing_ok=True)
            part.symlink_to(folder)
            part.replace(link)
        return link


def open_cache(options: BuildOptions, identity: str, tree: Path, site_packages: Path) -> NullCache:
    """The compiler cache that a build asks for; use it in a `with` statement.

    Args:
        options: `cache`, `cache_dir` and `cache_size` count.
        identity: A digest of the compilers, `Toolchain.identity`.
        tree: The source tree; compilers have to run in it.
        site_packages: Where torch is installed: its headers are named by their content.
    """
    if not options.cache:
        return NullCache()
    headers = site_packages / "torch" / "include"
    marks = site_packages / "torch" / "version.py"
    aliases = {}
    if headers.is_dir() and marks.is_file():
        aliases[headers] = "torch-" + hashlib.sha256(marks.read_bytes()).hexdigest()[:16]
    return CompilerCache(
        options.cache_dir / "ccache",
        options.cache_size,
        identity=identity,
        tree=tree,
        aliases=aliases,
    )


def installed_ccache() -> Path | None:
    """The ccache of this Python's environment; one on `PATH` is the user's own and stays out of it."""
    program = Path(sysconfig.get_path("scripts")) / "ccache"
    return program if os.access(program, os.X_OK) else None


def configuration(folder: Path, size: str, identity: str, tree: Path) -> str:
    """ccache's configuration file for a build (ccache manual, "Configuration options").

    Args:
        folder: The cache.
        size: Its limit: a number with K, M, G or T (powers of 1024).
        identity: A digest of the compilers.
        tree: The source tree.
    """
    trees = dict.fromkeys([str(tree.absolute()), str(tree.resolve())])
    settings = {
        "cache_dir": str(folder / "objects"),
        "temporary_dir": str(folder / "tmp"),
        "max_size": f"{size}iB",
        "compiler_check": f"string:{identity}",
        "base_dir": os.pathsep.join(trees),
        "depend_mode": "true",
        "hash_dir": "false",
        # The tree is this build's own copy, written a moment ago: young files are no sign of change.
        "sloppiness": "include_file_ctime, include_file_mtime",
    }
    # A `$` would start the name of a variable.
    return "".join(f"{name} = {value.replace('$', '$$')}\n" for name, value in settings.items())


def launcher_script(ccache: Path, links: Mapping[Path, Path]) -> str:
    """The script that stands before a compiler's command.

    Args:
        ccache: The program.
        links: Folders, each with the path that takes its place in the arguments.
    """
    longest_first = sorted(links.items(), key=lambda item: len(str(item[0])), reverse=True)
    aliases = [
        _ALIAS.replace("@FROM@", shlex.quote(str(folder))).replace("@TO@", shlex.quote(str(link)))
        for folder, link in longest_first
    ]
    text = _LAUNCHER.replace("@CCACHE@", shlex.quote(str(ccache)))
    return text.replace("@ALIASES@\n", "".join(f"{alias}\n" for alias in aliases))


def parse_stats(text: str) -> Stats:
    """What `ccache --print-log-stats --format json` says.

    Args:
        text: Its output.

    Raises:
        ValueError: It is something else.
    """
    counters = json.loads(text)
    if not isinstance(counters, dict) or not all(isinstance(count, int) for count in counters.values()):
        raise ValueError(f"not ccache's counters: {text[:100]!r}")
    results = {name: count for name, count in counters.items() if count and not _NOT_A_RESULT.fullmatch(name)}
    hits = sum(results.pop(name, 0) for name in _HITS)
    misses = results.pop(_MISS, 0)
    return Stats(hits, misses, sum(results.values()), tuple(sorted(results)))


def _written(folder: Path, name: str, text: str) -> Path:
    """An executable file named for its content, so that builds at the same time don't disturb each other."""
    path = folder / name.format(hashlib.sha256(text.encode()).hexdigest()[:16])
    if not path.is_file() or path.read_text() != text:
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(text)
        part.chmod(0o755)
        part.replace(path)
    return path

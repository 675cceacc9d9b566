"""Sets up the project's own compiler cache: ccache behind a small launcher script.

ccache runs the compiler as its own child, so a compile's CPU time and memory are counted with the build. It
needs no server, and a hit costs a few hundredths of a second: it does not even preprocess. Three things make
its hits right and frequent:

- nvcc preprocesses a source once for the host and once for each architecture, and these passes may include
  different files. ccache sees only one of them, and would miss a change that another one sees. So it runs
  in its depend mode, which uses nvcc's own list of included files. `-MD` makes that list, of all passes.
- The compiler is identified by a digest of all programs that a compile runs (cicc and ptxas among them),
  not by the size and time of nvcc alone.
- The same compile has to be found again from a different folder, environment and machine. Paths in the
  source tree are made relative (`base_dir`). Other folders that a command line names, such as torch's
  headers and the CUDA toolkit, are named by links in the tree. nvcc finds its own headers beside the path
  that it is called by, so it is called through such a link too.

The launcher adds `-MD` and writes these links in place of the paths.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile

from builder.compile.remote_cache import RemoteCache
from builder.target.options import BuildOptions
from builder.toolchain.compilers import Toolchain
from builder.util import files, process
from builder.util.digest import file_sha256
from builder.util.log import warn

# ccache's counters (manual, "Cache statistics") that don't say how a compile ended: its storage, its sizes,
# details of a hit or miss that another counter counts, and calls that compile nothing.
_NOT_A_RESULT = re.compile(
    r".*_storage_.*|.*_kibibyte|.*_timestamp|files_in_cache|max_files_in_cache|cleanups_performed|"
    r"direct_cache_miss|preprocessed_cache_miss|called_for_link|called_for_preprocessing|no_input_file"
)
_HITS = ("direct_cache_hit", "preprocessed_cache_hit")
_MISS = "cache_miss"

# Everything of one build's cache but the objects; in the source tree, with which it goes.
_PLACE = ".ccache"

_LAUNCHER = """\
#!/bin/sh
# compiler [argument...]: runs the compiler through ccache.
# The first three change what nvcc does, and ccache ignores them. The links are relative to the tree.
[ -z "$NVCC_PREPEND_FLAGS$NVCC_APPEND_FLAGS$NVCC_CCBIN" ] && [ -d @PLACE@ ] || exec "$@"
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
  # Without -o it is not known where the list goes, and hits could be wrong.
  [ "$output" ] || exec "$@"
  set -- "$@" -MD -MF "$output.d"
fi
exec @CCACHE@ "$@"
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
        hits: Compiles that were answered from the cache, this machine's own or the remote one.
        misses: Compiles that were run and stored.
        uncached: Compiles that were run and can't be cached, or could not be stored.
        reasons: Why, by ccache's own names.
        remote_hits: Those of the hits that came from the remote cache.
        remote: The remote cache's address, without secrets; empty if there was none. With one, the machine's
            own cache may hold what an earlier build took from it.
    """

    hits: int = 0
    misses: int = 0
    uncached: int = 0
    reasons: tuple[str, ...] = ()
    remote_hits: int = 0
    remote: str = ""

    def __str__(self) -> str:
        remote = f" ({self.remote_hits} from {self.remote})" if self.remote else ""
        more = f", {self.uncached} not cached ({', '.join(self.reasons)})" if self.uncached else ""
        misses = f"{self.misses} miss{'es' * (self.misses != 1)}"
        return f"{self.hits} hit{'s' * (self.hits != 1)}{remote}, {misses}{more}"


@dataclass(frozen=True)
class CompilerCache:
    """ccache, ready for one build; without arguments, no cache.

    Attributes:
        ccache: The program.
        launcher: What to put before a compiler's command.
        env: The environment variables that a build needs in addition; the user's own ccache has no part in
            them.
        remote: The remote cache; None for none.
    """

    ccache: Path | None = None
    launcher: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    remote: RemoteCache | None = None

    def stats(self) -> Stats:
        """Return what the cache has done for this build until now; warn of what the remote one did not do."""
        remote = self.remote.url if self.remote else ""
        if self.remote and (troubles := self.remote.troubles()):
            warn(f"the remote compiler cache {remote} is not of use: {'; '.join(troubles)}")
        try:
            if self.ccache is None or Path(self.env["CCACHE_STATSLOG"]).stat().st_size == 0:
                return Stats(remote=remote)
            command = [str(self.ccache), "--print-log-stats", "--format", "json"]
            return replace(parse_stats(process.run(command, env=self.env).output), remote=remote)
        except (OSError, process.CommandError, ValueError) as error:
            warn(f"the compiler cache's statistics can't be read: {error}")
            return Stats(remote=remote)


@contextmanager
def use_ccache(
    folder: Path,
    size: str,
    *,
    identity: str,
    tree: Path,
    aliases: Mapping[Path, str] | None = None,
    ccache: Path | None = None,
    remote: RemoteCache | None = None,
) -> Iterator[CompilerCache]:
    """Yield a compiler cache for one build.

    If it can't be used (no ccache, or its folder can't be written), this warns and yields one that does
    nothing; a build never fails for it.

    Args:
        folder: Where compiled objects are kept.
        size: Limit of that folder: a number with K, M, G or T (powers of 1024).
        identity: A digest of the compilers, `Toolchain.identity`.
        tree: The source tree, in which the compilers run; paths in it count relative to it.
        aliases: Other folders that command lines name, each with a name that stands for its content.
        ccache: The program; None is the one that is installed in this environment.
        remote: Where objects are shared with other machines; None for nowhere. What comes from there is
            kept apart from what was compiled here, so that a build without it has nothing of it.
    """
    ccache = ccache or installed_ccache()
    objects = folder / ("objects-shared" if remote else "objects")
    cache = CompilerCache()
    with ExitStack() as stack:
        try:
            if ccache is None:
                raise FileNotFoundError("there is no ccache in this environment")
            objects.mkdir(parents=True, exist_ok=True)
            # It has to start, and be able to write: better found out here than in each compile.
            process.run([ccache, "--version"])
            stack.enter_context(TemporaryFile(dir=objects))
            place = tree / _PLACE
            (place / "tmp").mkdir(parents=True, exist_ok=True)
            log = stack.enter_context(NamedTemporaryFile(prefix="stats-", dir=place))
            links = {path: _link(path, place / name) for path, name in (aliases or {}).items()}
            setting = stack.enter_context(remote.setting(tree, f"{_PLACE}/socket")) if remote else ""
            config = _write(place, "ccache", configuration(objects, size, identity, tree, setting))
            relative = {path: link.relative_to(tree) for path, link in links.items()}
            launcher = _write(place, "launcher", launcher_script(ccache, relative))
            env = {"CCACHE_CONFIGPATH": str(config), "CCACHE_STATSLOG": log.name}
            cache = CompilerCache(ccache, (str(launcher),), env, remote)
        except (OSError, process.CommandError) as error:
            warn(f"the compiler cache in {folder} can't be used ({error}); compiling without it")
        yield cache


def open_cache(
    options: BuildOptions, tools: Toolchain, tree: Path, site_packages: Path
) -> AbstractContextManager[CompilerCache]:
    """Return the compiler cache that a build asks for, to use in a `with` statement.

    Args:
        options: `cache`, and all that begin with it.
        tools: The compilers.
        tree: The source tree; compilers have to run in it.
        site_packages: Where torch is installed: its headers are named by their content.
    """
    if not options.cache:
        return nullcontext(CompilerCache())
    headers, version = site_packages / "torch" / "include", site_packages / "torch" / "version.py"
    aliases = {tools.cuda_home: "cuda"}
    if headers.is_dir() and version.is_file():
        aliases[headers] = f"torch-{file_sha256(version)[:16]}"
    remote = None
    if options.cache_remote:
        secret, read_only = options.cache_secret, options.cache_remote_read_only
        remote = RemoteCache(options.cache_remote, secret, read_only=read_only)
    return use_ccache(
        options.cache_dir / "ccache",
        options.cache_size,
        identity=tools.identity,
        tree=tree,
        aliases=aliases,
        remote=remote,
    )


def installed_ccache() -> Path | None:
    """Return the ccache of this Python's environment; one on `PATH` is the user's own and is not used."""
    program = Path(sysconfig.get_path("scripts")) / "ccache"
    return program if os.access(program, os.X_OK) else None


def configuration(objects: Path, size: str, identity: str, tree: Path, remote: str = "") -> str:
    """Return ccache's configuration file for a build (ccache manual, "Configuration options").

    Args:
        objects: The cache.
        size: Its limit: a number with K, M, G or T (powers of 1024).
        identity: A digest of the compilers.
        tree: The source tree.
        remote: The remote storage, as ccache's setting has it; empty for none.
    """
    trees = dict.fromkeys([str(tree.absolute()), str(tree.resolve())])
    settings = {
        "cache_dir": str(objects),
        "temporary_dir": str(tree.absolute() / _PLACE / "tmp"),
        "max_size": f"{size}iB",
        "compiler_check": f"string:{identity}",
        "base_dir": os.pathsep.join(trees),
        "depend_mode": "true",
        "hash_dir": "false",
        # The tree is this build's own copy, just written: young files don't mean that anything changes them.
        "sloppiness": "include_file_ctime, include_file_mtime",
        "remote_storage": remote,
    }
    # A `$` would start the name of a variable.
    return "".join(f"{name} = {value.replace('$', '$$')}\n" for name, value in settings.items())


def launcher_script(ccache: Path, links: Mapping[Path, Path]) -> str:
    """Return the script that is put before a compiler's command.

    Args:
        ccache: The program.
        links: Folders, each with the path that replaces it in the command, relative to the tree.
    """
    longest_first = sorted(links.items(), key=lambda item: len(str(item[0])), reverse=True)
    aliases = [
        _ALIAS.replace("@FROM@", shlex.quote(str(folder))).replace("@TO@", shlex.quote(str(link)))
        for folder, link in longest_first
    ]
    text = _LAUNCHER.replace("@CCACHE@", shlex.quote(str(ccache))).replace("@PLACE@", _PLACE)
    return text.replace("@ALIASES@\n", "".join(f"{alias}\n" for alias in aliases))


def parse_stats(text: str) -> Stats:
    """Return what `ccache --print-log-stats --format json` says.

    Args:
        text: Its output.

    Raises:
        ValueError: It is not that.
    """
    counters = json.loads(text)
    if not isinstance(counters, dict) or not all(isinstance(count, int) for count in counters.values()):
        raise ValueError(f"not ccache's counters: {text[:100]!r}")
    results = {name: count for name, count in counters.items() if count and not _NOT_A_RESULT.fullmatch(name)}
    hits = sum(results.pop(name, 0) for name in _HITS)
    misses = results.pop(_MISS, 0)
    remote_hits = counters.get("remote_storage_hit", 0)
    return Stats(hits, misses, sum(results.values()), tuple(sorted(results)), remote_hits)


def _link(folder: Path, link: Path) -> Path:
    """Make a link to a folder, in place of one that leads elsewhere."""
    if not link.is_symlink() or link.readlink() != folder:
        with files.beside(link) as new:
            new.symlink_to(folder)
    return link


def _write(folder: Path, name: str, text: str) -> Path:
    """Write an executable file named for its content, so that builds at the same time don't clash."""
    path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    files.write(path, text, executable=True)
    return path

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

Objects are shared with other machines by ccache's own remote storage. A server that fails or does not answer
in time costs that time in each compile, and fails no build.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

from builder.target.options import BuildOptions
from builder.toolchain.cuda_home import Toolchain
from builder.util import files, process
from builder.util.files import file_sha256
from builder.util.http import public_address
from builder.util.log import warn

# ccache's counters (manual, "Cache statistics") that don't say how a compile ended: its storage, its sizes,
# details of a hit or miss that another counter counts, and calls that compile nothing.
_NOT_A_RESULT = re.compile(
    r".*_storage_.*|.*_kibibyte|.*_timestamp|files_in_cache|max_files_in_cache|cleanups_performed|"
    r"direct_cache_miss|preprocessed_cache_miss|called_for_link|called_for_preprocessing|no_input_file"
)

# Everything of one build's cache but the objects; in the source tree, with which it goes.
_FOLDER = ".ccache"
# Without `helper` ccache looks for a program of its own for Redis and HTTP. The times are in milliseconds.
_REMOTE = "{url} helper=_builtin_ connect-timeout=2000 operation-timeout=10000 read-only={read_only}"

_LAUNCHER = """\
#!/bin/sh
# compiler [argument...]: runs the compiler through ccache.
# The first three change what nvcc does, and ccache ignores them. The links are relative to the tree.
[ -z "$NVCC_PREPEND_FLAGS$NVCC_APPEND_FLAGS$NVCC_CCBIN" ] && [ -d @FOLDER@ ] || exec "$@"
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
        launcher: What to put before a compiler's command.
        env: The environment variables that a build needs in addition.
        remote: The remote cache's address, without secrets; empty for none.
    """

    launcher: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    remote: str = ""

    def stats(self) -> Stats:
        """Return what the cache has done for this build until now; warn of failures of the remote one."""
        try:
            if not self.launcher or Path(self.env["CCACHE_STATSLOG"]).stat().st_size == 0:
                return Stats(remote=self.remote)
            command = [str(installed_ccache()), "--print-log-stats", "--format", "json"]
            counts = json.loads(process.run(command, env=self.env).output)
        except (OSError, process.CommandError, ValueError) as error:
            warn(f"the compiler cache's statistics can't be read: {error}")
            return Stats(remote=self.remote)
        for name in ("error", "timeout"):
            if count := counts.get(f"remote_storage_{name}", 0):
                warn(f"remote compiler cache {self.remote}: {count} {name}{'s' * (count != 1)}")
        results = {
            name: count for name, count in counts.items() if count and not _NOT_A_RESULT.fullmatch(name)
        }
        hits = sum(results.pop(name, 0) for name in ("direct_cache_hit", "preprocessed_cache_hit"))
        misses = results.pop("cache_miss", 0)
        remote_hits = counts.get("remote_storage_hit", 0)
        return Stats(hits, misses, sum(results.values()), tuple(sorted(results)), remote_hits, self.remote)


@contextmanager
def open_cache(
    options: BuildOptions, tools: Toolchain, tree: Path, site_packages: Path
) -> Iterator[CompilerCache]:
    """Yield the compiler cache that a build asks for.

    If it can't be used (no ccache, or its folder can't be written), this warns and yields one that does
    nothing; a build never fails for it.

    Args:
        options: `cache`, and all that begin with it.
        tools: The compilers.
        tree: The source tree; compilers have to run in it, and paths in it count relative to it.
        site_packages: Where torch is installed: its headers are named by their content.
    """
    if not options.cache:
        yield CompilerCache()
        return
    headers, version = site_packages / "torch" / "include", site_packages / "torch" / "version.py"
    links = {tools.cuda_home: Path(_FOLDER, "cuda")}
    if headers.is_dir() and version.is_file():
        links[headers] = Path(_FOLDER, f"torch-{file_sha256(version)[:16]}")
    # What comes from other machines is kept apart, so that a build without it has nothing of it.
    objects = options.cache_dir / "ccache" / ("objects-shared" if options.cache_remote else "objects")
    cache = CompilerCache()
    with ExitStack() as stack:
        try:
            # It has to start, and be able to write: better found out here than in each compile.
            process.run([ccache := installed_ccache(), "--version"])
            objects.mkdir(parents=True, exist_ok=True)
            stack.enter_context(TemporaryFile(dir=objects))
            folder = tree / _FOLDER
            (folder / "tmp").mkdir(parents=True, exist_ok=True)
            for path, link in links.items():
                (tree / link).unlink(missing_ok=True)
                (tree / link).symlink_to(path)
            config, log = folder / "ccache.conf", folder / "stats"
            config.touch(mode=0o600)  # the remote cache's address may hold a password
            config.write_text(_configuration(options, objects, tools.identity, tree), encoding="utf-8")
            log.write_bytes(b"")
            files.write(folder / "launcher", _launcher(ccache, links), executable=True)
            env = {"CCACHE_CONFIGPATH": str(config), "CCACHE_STATSLOG": str(log)}
            remote = public_address(options.cache_remote)
            cache = CompilerCache((str(folder / "launcher"),), env, remote)
        except (OSError, process.CommandError) as error:
            warn(f"the compiler cache in {objects} can't be used ({error}); compiling without it")
        yield cache


def installed_ccache() -> Path:
    """Return the ccache of this Python's environment; one on `PATH` is the user's own and is not used."""
    return Path(sysconfig.get_path("scripts")) / "ccache"


def _configuration(options: BuildOptions, objects: Path, identity: str, tree: Path) -> str:
    """Return ccache's configuration file for a build (ccache manual, "Configuration options")."""
    read_only = str(options.cache_remote_read_only).lower()
    remote = _REMOTE.format(url=options.cache_remote, read_only=read_only) if options.cache_remote else ""
    settings = {
        "cache_dir": str(objects),
        "temporary_dir": str(tree.absolute() / _FOLDER / "tmp"),
        "max_size": f"{options.cache_size}iB",
        "compiler_check": f"string:{identity}",
        "base_dir": os.pathsep.join(dict.fromkeys([str(tree.absolute()), str(tree.resolve())])),
        "depend_mode": "true",
        "hash_dir": "false",
        # The tree is this build's own copy, just written: young files don't mean that anything changes them.
        "sloppiness": "include_file_ctime, include_file_mtime",
        "remote_storage": remote,
    }
    # A `$` would start the name of a variable.
    return "".join(f"{name} = {value.replace('$', '$$')}\n" for name, value in settings.items())


def _launcher(ccache: Path, links: Mapping[Path, Path]) -> str:
    """Return the script that is put before a compiler's command.

    Args:
        ccache: The program.
        links: Folders, each with the link that replaces it in the command, relative to the tree.
    """
    longest_first = sorted(links.items(), key=lambda item: len(str(item[0])), reverse=True)
    aliases = [
        _ALIAS.replace("@FROM@", shlex.quote(str(folder))).replace("@TO@", shlex.quote(str(link)))
        for folder, link in longest_first
    ]
    text = _LAUNCHER.replace("@CCACHE@", shlex.quote(str(ccache))).replace("@FOLDER@", _FOLDER)
    return text.replace("@ALIASES@", "\n".join(aliases))

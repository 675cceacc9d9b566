"""Sets up the project's own compiler cache: ccache.

A hit costs a few hundredths of a second: ccache does not even preprocess. Three things make its hits right:

- nvcc preprocesses a source once for the host and once for each architecture, and ccache sees only one of
  these passes. So it runs in its depend mode, which uses nvcc's own list of files that all passes include.
- The compiler is identified by a digest of all programs that a compile runs (cicc and ptxas among them),
  not by the size and time of nvcc alone.
- The same compile has to be found again from a different folder, environment and machine. So commands name
  no path outside the tree, but links in it (`pep517.write_settings`), and paths are relative (`base_dir`).

Objects are shared with other machines by ccache's own remote storage, which fails no build.
"""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

from builder.target.options import BuildOptions
from builder.util import process
from builder.util.log import counted, public_address, warn

_STATS = "stats"
# Without `helper` ccache looks for a program of its own for Redis and HTTP. The times are in milliseconds.
_REMOTE = "{url} helper=_builtin_ connect-timeout=2000 operation-timeout=10000 read-only={read_only}"


@dataclass(frozen=True)
class Stats:
    """What a cache did for one build, in compiles."""

    hits: int = 0
    misses: int = 0
    remote_hits: int = 0  # those of the hits that came from the remote cache
    remote: str = ""  # its address, without secrets; empty for none

    def __str__(self) -> str:
        remote = f" ({self.remote_hits} from {self.remote})" if self.remote else ""
        return f"{counted(self.hits, 'hit')}{remote}, {counted(self.misses, 'miss', 'es')}"


@dataclass(frozen=True)
class CompilerCache:
    """ccache, ready for one build; without arguments, no cache."""

    launcher: tuple[str, ...] = ()  # goes before a compiler's command
    env: Mapping[str, str] = field(default_factory=dict)  # what a build needs in addition
    remote: str = ""  # as in `Stats`

    def stats(self) -> Stats:
        """Return what the cache has done for this build until now; warn of failures of the remote one."""
        counts: dict[str, int] = {}
        try:
            if self.launcher:
                command = [*self.launcher, "--print-log-stats", "--format", "json"]
                counts = json.loads(process.run(command, env=self.env).output)
        except (process.CommandError, ValueError) as error:
            warn(f"the compiler cache's statistics can't be read: {error}")
        for name in ("error", "timeout"):
            if number := counts.get(f"remote_storage_{name}", 0):
                warn(f"remote compiler cache {self.remote}: {counted(number, name)}")
        hits = counts.get("direct_cache_hit", 0) + counts.get("preprocessed_cache_hit", 0)
        return Stats(hits, counts.get("cache_miss", 0), counts.get("remote_storage_hit", 0), self.remote)


def open_cache(options: BuildOptions, identity: str, tree: Path) -> CompilerCache:
    """Return the compiler cache that a build asks for, or with a warning none, where it can't be used.

    `identity` is the toolchain's, `tree` the source tree in which the compilers run.
    """
    if not options.cache:
        return CompilerCache()
    # What comes from other machines is kept apart, so that a build without it has nothing of it.
    objects = options.cache_dir / "ccache" / ("objects-shared" if options.cache_remote else "objects")
    folder = tree / ".ccache"  # everything of one build's cache but the objects, goes with the source tree
    # One on PATH is the user's own.
    ccache = Path(sysconfig.get_path("scripts")) / "ccache"
    config = folder / "ccache.conf"
    # In a Redis server's address, `:password@` is understood without the colon alone.
    url, read_only = options.cache_remote.replace("://:", "://"), str(options.cache_remote_read_only).lower()
    settings = {  # ccache manual, "Configuration options"
        "cache_dir": str(objects),
        "temporary_dir": str(folder.absolute() / "tmp"),
        "stats_log": str(folder.absolute() / _STATS),
        "max_size": f"{options.cache_size}iB",
        "compiler_check": f"string:{identity}",
        "base_dir": os.pathsep.join(dict.fromkeys([str(tree.absolute()), str(tree.resolve())])),
        "depend_mode": "true",
        "hash_dir": "false",
        # The tree is this build's own copy, just written: young files don't mean that anything changes them.
        "sloppiness": "include_file_ctime, include_file_mtime",
        "remote_storage": _REMOTE.format(url=url, read_only=read_only) if url else "",
    }
    try:
        # It has to start, and be able to write: better found out here than in each compile.
        process.run([ccache, "--version"])
        objects.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=objects):
            pass
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        (folder / _STATS).write_bytes(b"")
        config.touch(mode=0o600)  # the remote cache's address may hold a password
        # A `$` would start the name of a variable.
        lines = [f"{name} = {value.replace('$', '$$')}\n" for name, value in settings.items()]
        config.write_text("".join(lines), encoding="utf-8")
    except (OSError, process.CommandError) as error:
        warn(f"the compiler cache in {objects} can't be used ({error}); compiling without it")
        return CompilerCache()
    remote = public_address(options.cache_remote) if options.cache_remote else ""
    return CompilerCache((str(ccache),), {"CCACHE_CONFIGPATH": str(config)}, remote)

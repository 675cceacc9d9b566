"""Every limit of size and time, in one place. The smoke test has its own."""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Times, in seconds.
COMMAND_SECONDS = 60  # a program that only answers a question: a compiler's version, git, nvidia-smi
TRIAL_SECONDS = 600  # a small kernel, compiled from cold disks
RESOLVE_SECONDS = 300  # uv, which asks an index
IMPORT_SECONDS = 600  # torch and a wheel, imported in a new process from cold disks
PROBE_SECONDS = 900  # torch and all operators of a wheel, looked at in a new process
REQUEST_SECONDS = 60  # a connection, and each next piece of an answer
ANSWER_SECONDS = 300  # a whole answer: a page, or a JSON file
UPLOAD_SECONDS = 300  # an answer of a release's API, which comes when the whole asset has arrived
REACHABLE_SECONDS = 8  # an index that is only asked whether it is there
REMOTE_SECONDS = 10  # an object, from or to the remote compiler cache; a compile is waiting
RULE_SECONDS = 10  # one replacement of a patch in one file, which takes milliseconds
LONGEST_BACKOFF_SECONDS = 60  # a pause before another attempt
LONGEST_WAIT_SECONDS = 900  # for a rate limit to end; running again later costs nothing
STALE_SECONDS = 24 * 3600  # no build takes so long: older files are from one that was killed

ATTEMPTS = 5  # how often in a row something is tried that may work the next time
MIRROR_ATTEMPTS = 3  # the same, where there is another address to try

# Sizes, in bytes.
CHUNK_BYTES = MIB  # read at once
DOWNLOAD_BYTES = GIB  # of a file whose size is not pinned: a source of SageAttention has a few MB
SLOWEST_BYTES = 64 * KIB  # fewer bytes than this in REQUEST_SECONDS are no download
UNPACKED_ARCHIVE_BYTES = 8 * GIB
# An archive may make so many bytes for each of its own, and so many more: sources make 10, zeros 1,000.
UNPACKED_RATIO = 100
UNPACKED_FLOOR_BYTES = 16 * MIB
UNPACKED_WHEEL_BYTES = 4 * GIB
REMOTE_OBJECT_BYTES = 256 * MIB  # a compiled file in the remote compiler cache; they have up to 10 MB
ARCHIVE_MEMBERS = 200_000
COMPATIBILITY_ROOM_BYTES = 15 * 10**9  # free disk for environments with every torch
HOUSE_WHEEL_BYTES = 60 * 10**6  # larger ones are built wrongly: all wheels of this project are far smaller
WHEELHOUSE_ROOM_BYTES = 2 * HOUSE_WHEEL_BYTES  # free disk for both wheels of a build
ENVIRONMENT_BYTES = 4_900 * 10**6  # torch and the compiler of CUDA 13, installed
CUDA_12_ENVIRONMENT_BYTES = 6_900 * 10**6  # the same of CUDA 12
CROSS_ENVIRONMENT_BYTES = 1_300 * 10**6  # the compiler of CUDA 13, and torch of another machine by itself
BUILD_ROOM_BYTES = 10**9  # free disk for the source, objects, both wheels and what they are checked in
ANSWER_BYTES = 16 * MIB  # a page, or a JSON file: PyTorch's list of torch wheels has 1.5 MB
PAGES = 100  # of a list; each has 100 entries
LISTED_WHEELS = 10_000  # of an index: each has 1 kB in wheels.json
# "Each file included in a release must be under 2 GiB" and "up to 1000 release assets" (GitHub Docs, "About
# releases", storage and bandwidth quotas). The notes' limit is what the API answers to a longer body.
ASSET_BYTES = 2 * GIB - 1
ASSETS = 1000
NOTES_CHARACTERS = 125_000
# Largest resident set of one compiler process, measured: below 0.8 GB on the stable interface, 3.3 GB on
# torch/extension.h, which only an unpatched tree includes.
PATCHED_JOB_BYTES = 800 * 10**6
UNPATCHED_JOB_BYTES = 3_400 * 10**6
BUILD_RESERVE_BYTES = GIB // 2  # beside the compilers: the build backend, the compiler cache, nox

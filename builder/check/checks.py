"""What the audit checks, in the order of its report.

A check yields pairs of a level and a sentence. An error: the wheel breaks, or doesn't run where its tag says.
A house rule: this project promises more (an SBOM, no debug sections, a version that names what it is for); to
break one is an error in a wheel of this project, and a warning in others'. Warning and note: worth knowing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from os.path import normpath
from pathlib import Path, PurePosixPath

from packaging.metadata import ExceptionGroup, Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from builder.check.audited_wheel import (
    EXTENSIONS,
    LEAST,
    ONLY,
    AuditedWheel,
    owner_of_copy,
    stem,
)
from builder.finish.store import read_record, record_path
from builder.target.architectures import Architecture, Selection, join
from builder.target.targets import local_version, machine_of
from builder.util.errors import RepairError
from builder.util.files import file_sha256
from builder.util.toml import tomllib
from builder.wheel.fatbin import ptx_architectures
from builder.wheel.libraries import (
    CUDA_RUNTIME,
    DRIVER,
    PYTHON,
    TORCH,
    TORCH_CUDA,
    load_policy,
    owner_of,
    reached_tag,
    too_new,
    way_out,
)
from builder.wheel.sbom import SBOM_NAME, parse, problems
from builder.wheel.wheelfile import record_problems

ERROR, HOUSE_RULE, WARNING, NOTE = "error", "house rule", "warning", "note"
Findings = Iterator[tuple[str, str]]
_EXTENSION_SUFFIX = re.compile(r"\.cpython-(?P<number>\d+)(?:-[\w-]+)?\.so")
_PYTHON_SYMBOL = re.compile(r"_?Py[A-Z_]\w*")
_OTHER_PACKAGES = {"torch", "triton", "nvidia", "numpy"}
_TABLE = tomllib.loads(Path(__file__).with_name("torch_functions.toml").read_text(encoding="utf-8"))
# The first torch series, `2.7`, that has each function of torch's stable C interface.
TORCH_FUNCTIONS = {name: series for series, names in _TABLE.items() for name in names}
_LARGEST_BYTES = 60 * 10**6  # larger ones are built wrongly: all wheels of this project are far smaller


def record(audited: AuditedWheel) -> Findings:
    """RECORD has the right digest for each file, and each library can be read."""
    for problem in (*record_problems(audited.wheel), *audited.unreadable):
        yield ERROR, problem


def files(audited: AuditedWheel) -> Findings:
    """No file is left over from a build, or something else than its name says."""
    for name, part in audited.contents.items():
        if name.endswith((".pyc", ".pyo")):
            yield HOUSE_RULE, f"{name} is byte code, which Python runs in place of the source"
        if re.search(r"\.so(\.\d+)*$", name) and not part.elf:
            yield ERROR, f"{name} is not a shared library"


def names(audited: AuditedWheel) -> Findings:
    """METADATA, WHEEL and the file's name agree, and the wheel installs one package."""
    wheel, label, metadata = audited.wheel, audited.label, audited.wheel.metadata
    try:
        Metadata.from_email(wheel.read(wheel.in_dist_info("METADATA")))
    except ExceptionGroup as group:
        for error in group.exceptions:
            yield ERROR, f"METADATA: {error}"
    if wheel.dist_info != f"{label.distribution}-{label.version}.dist-info":
        yield ERROR, f"the folder {wheel.dist_info} is not named for the file"
    name, version = metadata.get("name", ""), metadata.get("version", "")
    if (canonicalize_name(name), Version(version)) != parse_wheel_filename(wheel.path.name)[:2]:
        yield ERROR, f"METADATA is of {name} {version}, and the file name of {label.version}"
    tags = {str(tag) for tag in wheel.wheel_metadata.get_all("Tag", [])}
    if tags != {str(tag) for tag in label.tags}:
        yield ERROR, f"the file WHEEL has the tags {', '.join(sorted(tags)) or 'none'}, unlike the file name"
    if str(wheel.wheel_metadata["Root-Is-Purelib"]).strip().lower() == "true" and audited.libraries:
        yield ERROR, "the file WHEEL says that it is pure Python, and it contains shared libraries"
    own = {wheel.dist_info, label.distribution, f"{label.distribution}.libs"}
    for entry in sorted({member.split("/")[0] for member in wheel.names} - own):
        level = ERROR if entry.lower() in _OTHER_PACKAGES else HOUSE_RULE
        yield level, f"it installs {entry} beside {label.distribution}"


def tag(audited: AuditedWheel) -> Findings:
    """The libraries fit the wheel's tag, and the tag fits the target."""
    label, expect = audited.label, audited.expect
    for platform in label.platform.split("."):
        if audited.libraries and not re.match("(many|musl)?linux", platform):
            yield ERROR, f"it has shared libraries for Linux, and the tag says {platform}"
        if platform.startswith("manylinux"):
            try:
                policy = load_policy(platform)
            except RepairError as error:
                yield ERROR, error.message
                continue
            for name, library in audited.libraries.items():
                for symbols in too_new(library, policy):
                    yield ERROR, f"{name} needs {symbols}; {way_out(policy)}"
    if label.platform.startswith("linux_"):
        yield NOTE, f"its symbols fit {reached_tag(audited.libraries.values()) or 'no manylinux tag'}"
    machine = machine_of(label.platform)
    for name, library in audited.libraries.items():
        if machine and library.machine != machine.elf:
            yield ERROR, f"{name} is for {library.machine}, and the tag says {machine.name}"
        match = _EXTENSION_SUFFIX.search(name)
        if match and f"cp{match['number']}" not in label.abi.split("."):
            yield ERROR, f"{name} is for CPython {match['number']}, and the tag says {label.abi}"
    if expect is not None:
        allowed = [expect.wheel_tag(end) for end in (f"linux_{expect.machine.name}", expect.platform_tag)]
        if label.tag not in allowed:
            yield ERROR, f"the target {expect.name} makes wheels tagged {' or '.join(allowed)}"


def libraries(audited: AuditedWheel) -> Findings:
    """Each library that is needed is in the wheel, or something else provides it."""
    cuda, platform = audited.label.cuda, audited.label.platform
    for name, library in audited.libraries.items():
        for soname in library.needed:
            needs = f"{name} needs {soname}"
            major = soname.rpartition(".")[2]
            other_cuda = cuda and major.isdigit() and major != cuda.split(".")[0]
            if owner_of_copy(soname) is CUDA_RUNTIME and other_cuda:
                yield ERROR, f"{needs}, and the wheel is for CUDA {cuda}"
            if soname in audited.inside:
                continue
            owner = owner_of(soname, audited.system_libraries)
            if owner is None:
                yield ERROR, f"{needs}, which neither torch nor the driver nor the system provides"
            elif owner is PYTHON:
                yield ERROR, f"{needs}: {PYTHON.why}"
            elif owner is DRIVER:
                yield HOUSE_RULE, f"{needs}: it can't be imported where there is no driver"
            elif owner is CUDA_RUNTIME and platform.startswith("manylinux"):
                yield HOUSE_RULE, f"{needs}, which the tag {platform} doesn't promise"


def bundled(audited: AuditedWheel) -> Findings:
    """The wheel contains SageAttention's libraries and the CUDA runtime, and no torch or driver."""
    owners = [(PurePosixPath(name).name, owner_of_copy(name)) for name in audited.contents]
    for owner in (TORCH, DRIVER, TORCH_CUDA, PYTHON):
        if copies := [name for name, brought_by in owners if brought_by is owner]:
            level = WARNING if owner is TORCH_CUDA else ERROR
            yield level, f"it contains its own copy of {owner.name}: {', '.join(copies)}: {owner.why}"
    for name in audited.libraries:
        if stem(name) not in EXTENSIONS and owner_of_copy(name) is None:
            yield HOUSE_RULE, f"{name} is not a library of SageAttention"


def architectures(audited: AuditedWheel) -> Findings:
    """Each extension is there, and contains the cubins for the architectures that the wheel claims."""
    # What it says it is for: by its version, its SBOM, its target, or at last its cubins.
    claimed = {Architecture.parse(f"sm_{number}") for number in audited.label.architectures}
    claimed = claimed or set(map(Architecture.parse, audited.stated.get("architectures", "").split()))
    claimed = claimed or set(audited.expect.architectures if audited.expect else audited.architectures)
    if not audited.extensions:
        yield ERROR, "no library in it contains GPU code"
    for name, part in audited.extensions.items():
        cubins = part.cubins
        if not cubins:
            yield ERROR, f"{name} contains no GPU code"
        if missing := _expected(stem(name), claimed) - cubins:
            yield ERROR, f"{name} has no cubin for {join(sorted(missing))}"
        base = Architecture.parse(LEAST.get(stem(name), "9.0a"))
        for container in sorted({code.container for code in part.codes}):
            own = [code for code in part.codes if code.container == container]
            file = f"the {container + 1}. of its source files"
            if lacking := cubins - {code.architecture for code in own if code.kind == "cubin"}:
                yield HOUSE_RULE, f"{name} has no cubin for {join(sorted(lacking))} of {file}"
            # Code with a suffix runs on no newer GPU, as PTX neither.
            if base in claimed and not base.feature and base not in ptx_architectures(own):
                yield HOUSE_RULE, f"{name} has no PTX for {base} of {file}, so newer GPUs can't run it"
        if extra := cubins - claimed:
            yield WARNING, f"{name} has cubins beyond what the wheel claims: {join(sorted(extra))}"
        if any(code.debug for code in part.codes):
            yield ERROR, f"{name} has GPU code made for a debugger (-G), which is many times slower"
    wanted = {name for name in EXTENSIONS if _expected(name, claimed)}
    present = EXTENSIONS & set(map(stem, audited.extensions))
    for name in sorted(wanted - present) if present else ():
        yield ERROR, f"the extension {name} is missing"


def _expected(extension: str, claimed: Collection[Architecture]) -> set[Architecture]:
    """The cubins that an extension must contain in a wheel that claims these architectures."""
    if extension in ONLY:
        return {Architecture.parse(ONLY[extension])} & set(claimed)
    least = Architecture.parse(LEAST.get(extension, "99.0"))
    return {architecture for architecture in claimed if architecture >= least}


def version(audited: AuditedWheel) -> Findings:
    """The local version says what the wheel is for."""
    label, expect = audited.label, audited.expect
    if expect is not None:
        chosen = tuple(sorted(audited.architectures))
        expected = local_version(expect, Selection(chosen, "", chosen == expect.architectures))
        if label.local_version != expected:
            yield ERROR, f"the version {label.version} should end in +{expected}, by target and cubins"
    elif label.universal != audited.stable and (label.universal or label.torch):
        yield ERROR, f"the version {label.version} disagrees with the tag's ABI, {label.abi}"


def requirement(audited: AuditedWheel) -> Findings:
    """The wheel requires the torch that its symbols need, and a Python that fits its tag."""
    torch, expect = audited.torch, audited.expect
    for line in audited.wheel.metadata.get("requires_dist", []):
        other = Requirement(line)
        if canonicalize_name(other.name) != "torch":
            yield HOUSE_RULE, f"requires {other} besides torch"
        if other.url:
            yield ERROR, f"requires {other.name} from an address: {other.url}"
    if expect is not None and torch != Requirement(expect.torch_requirement):
        yield ERROR, f"requires {torch or 'no torch'}, and the target says {expect.torch_requirement}"
    elif torch is None and not audited.unstable:
        yield HOUSE_RULE, "METADATA requires no torch"
    for name, library in audited.libraries.items():
        level = ERROR if audited.stable else HOUSE_RULE
        symbols = [each.name for each in library.undefined if _PYTHON_SYMBOL.fullmatch(each.name)]
        if symbols:
            yield level, f"{name} uses symbols of CPython, so it is for one Python: {_listed(symbols)}"
        if "libtorch_python.so" in library.needed:
            yield level, f"{name} needs libtorch_python.so, which is built for one Python"
    yield from _torch(audited)
    yield from _python(audited)


def _python(audited: AuditedWheel) -> Findings:
    """Each Python that the tag names is allowed."""
    text = audited.wheel.metadata.get("requires_python", "")
    allowed = SpecifierSet(text)
    if audited.stable and "3.99" not in allowed:
        yield ERROR, f"Requires-Python: {text} excludes newer Pythons, which its ABI is for"
    if "py3" in audited.label.python.split(".") and "3.0" in allowed:
        yield HOUSE_RULE, "neither Requires-Python nor the tag py3 says which Python is the oldest"
    for number in re.findall(r"cp3(\d+)", audited.label.python):
        if f"3.{number}" not in allowed:
            yield ERROR, f"Requires-Python: {text} excludes the Python of its own tag, cp3{number}"


def _torch(audited: AuditedWheel) -> Findings:
    """Each torch that is allowed has what the libraries use of it."""
    torch = audited.torch
    specifier = torch.specifier if torch is not None else SpecifierSet()
    for name, symbols in audited.torch_cxx.items():
        if symbols and audited.stable:
            where = "libtorch's C++ interface, which a stable wheel may not use"
            yield ERROR, f"{name} uses symbols of {where}: {_listed(symbols)}"
    if audited.unstable and not audited.stable:
        # `2.11` of `==2.11.*`, `==2.11.0` and `~=2.11.0`.
        series = "".join(re.findall(r"(?:==|~=(?=\d+\.\d+\.))(\d+\.\d+)", str(specifier))[:1])
        if not series:
            where = "libtorch's C++ interface, which changes with each torch version"
            instead = f"requires {torch or 'no torch'} instead of torch==X.Y.*"
            yield ERROR, f"uses {audited.unstable} symbols of {where}, and {instead}"
        elif audited.label.torch and audited.label.torch != series:
            yield ERROR, f"requires torch {series} and its version says {audited.label.torch}"
    for name, used in audited.torch_c.items() if torch is not None else ():
        known = {symbol: TORCH_FUNCTIONS[symbol] for symbol in used if symbol in TORCH_FUNCTIONS}
        if newer := [symbol for symbol, series in known.items() if _allows_older(specifier, series)]:
            needed = max((known[symbol] for symbol in newer), key=Version)
            yield ERROR, f"{name} uses {_listed(newer)}, for which torch {needed} is needed; requires {torch}"
        if unknown := [symbol for symbol in used if symbol not in known]:
            yield HOUSE_RULE, f"{name} uses what is not known of torch's C interface: {_listed(unknown)}"


def _allows_older(specifier: SpecifierSet, series: str) -> bool:
    major, minor = series.split(".")
    return f"{major}.{int(minor) - 1}.99" in specifier  # the last release before


def sbom(audited: AuditedWheel) -> Findings:
    """The wheel has an SBOM that lists all that it contains."""
    wheel, contents = audited.wheel, audited.contents
    folder = wheel.in_dist_info("sboms/")
    boms = [name for name in contents if name.startswith(folder)]
    for name in boms:
        try:
            parse(wheel.read(name))
        except ValueError as error:
            yield ERROR, f"{name}: {error}"
    own = f"{folder}{SBOM_NAME}"
    if own not in boms:
        missing = own if boms or audited.ours else "SBOM"
        yield HOUSE_RULE, f"it contains no {missing}: nothing says what it was made from"
    if audited.sbom is None:
        return
    for problem in problems(audited.sbom, {name: part.sha256 for name, part in contents.items()}):
        yield ERROR, problem
    kinds = {component.path: component.kind for component in audited.sbom.components}
    for name in (name for name in audited.libraries if kinds.get(name) == "file"):
        yield ERROR, f"the SBOM doesn't say what library {name} is"
    source = audited.sbom.source
    if not source.name:
        yield ERROR, "the SBOM names no source"
    elif not audited.sbom.verified:
        yield WARNING, f"built from an unverified source: {source.properties.get('location') or source.name}"


def build_record(audited: AuditedWheel) -> Findings:
    """The report beside the wheel, where there is one, is of this wheel."""
    wheel = audited.wheel.path
    path = record_path(wheel)
    if audited.ours and path.exists() and read_record(wheel).get("sha256") != file_sha256(wheel):
        yield ERROR, f"{path.name} is not the record of a wheel with this SHA-256"


def licence(audited: AuditedWheel) -> Findings:
    """The licence expression and the licence texts are there."""
    wheel, contents = audited.wheel, audited.contents
    expression = wheel.metadata.get("license_expression", "")
    if not expression:
        yield HOUSE_RULE, "METADATA has no License-Expression"
    if not any("licen" in name.lower() for name in contents if name.startswith(wheel.dist_info)):
        yield HOUSE_RULE, "it contains no licence text"
    licenses = wheel.in_dist_info("licenses/")
    for name in contents:
        if name.startswith(licenses) and not contents[name].size_bytes:
            yield ERROR, f"{name} is empty"
    for name in wheel.metadata.get("license_files", []):
        if not contents.keys() & {f"{licenses}{name}", wheel.in_dist_info(name)}:
            yield ERROR, f"License-File: {name} is not in it"
    if runtimes := [name for name in contents if owner_of_copy(name) is CUDA_RUNTIME]:
        if "LicenseRef-NVIDIA" not in expression:
            yield HOUSE_RULE, f"{runtimes[0]} is NVIDIA's, and the licence expression doesn't say so"
        if not any(name.startswith(f"{licenses}nvidia") for name in contents):
            yield HOUSE_RULE, f"{runtimes[0]} is NVIDIA's, and its licence text is not in it"


def description(audited: AuditedWheel) -> Findings:
    """METADATA links the project that built the wheel."""
    if audited.ours and not audited.linked:
        yield WARNING, "METADATA doesn't link the project that built it (builder/target/project.toml)"


def paths(audited: AuditedWheel) -> Findings:
    """No file contains a path of the machine that built it, but text that people wrote."""
    for name, part in audited.contents.items():
        written = name.startswith(audited.wheel.in_dist_info("patches/"))
        if part.build_paths and not written and not name.endswith(("/METADATA", ".md", ".txt", "/LICENSE")):
            count = len(part.build_paths)
            where = f"{count} path{'s' * (count > 1)} of the machine that built it"
            yield HOUSE_RULE, f"{name} contains {where}: {_listed(part.build_paths, 2)}"


def stack(audited: AuditedWheel) -> Findings:
    """No library asks for an executable stack."""
    for name, library in audited.libraries.items():
        if library.executable_stack:
            yield ERROR, f"{name} makes the process's stack executable; newer systems refuse to load it"


def rpath(audited: AuditedWheel) -> Findings:
    """Libraries are searched for only inside the wheel."""
    folders = {str(parent) for name in audited.contents for parent in PurePosixPath(name).parents}
    for name, library in audited.libraries.items():
        for entry in (*library.rpath, *library.runpath):
            origin = re.match(r"\$(?:ORIGIN|\{ORIGIN\})(?=/|$)", entry)
            if origin is None:
                yield ERROR, f"{name} searches {entry or 'the current folder'} for libraries"
                continue
            place = normpath(f"{PurePosixPath(name).parent}/{entry[origin.end() :]}")
            if place not in folders:
                level = ERROR if place.startswith("..") else HOUSE_RULE
                yield level, f"{name} searches {entry} for libraries, which is not in the wheel"


def debug(audited: AuditedWheel) -> Findings:
    """No library has debug sections."""
    for name, library in audited.libraries.items():
        if library.debug_sections:
            yield HOUSE_RULE, f"{name} has debug sections ({_listed(library.debug_sections)})"


def size(audited: AuditedWheel) -> Findings:
    """The wheel is not unusually large."""
    size_bytes = audited.wheel.path.stat().st_size
    if size_bytes > _LARGEST_BYTES:
        yield HOUSE_RULE, f"{size_bytes / 1e6:.1f} MB is more than {_LARGEST_BYTES / 1e6:.0f} MB"


CHECKS = {
    check.__name__: check
    for check in (
        *(record, files, names, tag, libraries, bundled, architectures, version, requirement, sbom),
        *(build_record, licence, description, paths, stack, rpath, debug, size),
    )
}


def _listed(entries: Sequence[str], most: int = 3) -> str:
    """Return the first entries as one text, and how many more there are."""
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entries[:most]) + more

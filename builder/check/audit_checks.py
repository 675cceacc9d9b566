"""What is checked of a wheel, one function for each check: `builder.check.audit` runs them.

A check takes the opened wheel and yields pairs of a level and a sentence. Four levels:

- *error*: the wheel breaks, lies, or doesn't run where its tag says.
- *house rule*: this project promises more than that (an SBOM, no debug sections, a version that names
  what it is for). An error in a wheel of this project, a warning in others'.
- *warning* and *note*: worth knowing.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from builder.finish.provenance import RUNTIME_LICENSE, SBOM_NAME, provenance_of
from builder.finish.sbom import ReadMaterial, read_sbom, sbom_problems
from builder.target.architectures import Architecture, join
from builder.target.selection import Selection
from builder.target.targets import Target, local_version
from builder.util.errors import ArchitectureError, AuditError
from builder.wheel.elf import SharedLibrary, is_elf, read_elf
from builder.wheel.fatbin import Code, cubin_architectures, ptx_architectures, read_fatbin
from builder.wheel.libraries import CUDA_RUNTIME, DRIVER, PYTHON, TORCH, TORCH_CUDA, Owner, owner_of
from builder.wheel.manylinux import Policy, load_policy, reached_tag, violations, way_out
from builder.wheel.wheelfile import Wheel, WheelError, record_problems

ERROR, HOUSE_RULE, WARNING, NOTE = "error", "house rule", "warning", "note"

# GitHub takes release assets below 2 GiB.
LARGEST_ASSET_BYTES = 2 << 30
# A wheel without a platform promise is held to what the project's own promise.
_DEFAULT_POLICY = "manylinux_2_34_x86_64"

# What each extension is compiled for, as the sources are written: the Hopper kernels need what only
# 9.0a has, the fp8 kernels need 8.9, the others run everywhere.
_LEAST = {"_qattn_sm80": "8.0", "_qattn_sm89": "8.9", "_fused": "8.0"}
_ONLY = {"_qattn_sm90": "9.0a"}
_UPSTREAM_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "12.0")

# A copy that auditwheel took along: libtorch_cpu-1a2b3c4d.so. Its name loses the digest before a look-up.
_COPY = re.compile(r"-[0-9a-f]{8}(?=\.so)")
# Mangled C++ names of torch's own namespaces (Itanium ABI: a name follows its length).
_TORCH_CXX = re.compile(r"_Z.*?(?<!\d)(?:2at|3c10|5torch|6caffe2)(?=[A-Z\d])")
_TORCH_C = re.compile(r"(?:aoti_torch_|aoti_|torch_|AOTI)\w+")
_PYTHON_SYMBOL = re.compile(r"_?Py[A-Z_]\w*")
_EXTENSION_SUFFIX = re.compile(r"\.cpython-(?P<number>\d+)(?:-[\w-]+)?\.so")
# Folders that people and CI services build in, and any environment's site-packages. Not /usr or /lib:
# those name the same thing on every machine.
_BUILD_PATH = re.compile(
    rb"(?<![\w.$+@%/-])/(?:(?:home|root|tmp|work|workspace|build|builds|mnt|opt|src|srv|data|project|github|__w"
    rb"|io|Users|var)/[\w.+@-]{2,}(?:/[\w.+@-]+)*|(?:[\w.+@-]+/)+(?:site|dist)-packages(?:/[\w.+@-]+)+)"
)
# Names that do not come from the machine that built, and why.
_HARMLESS_PATHS: dict[bytes, str] = {
    b"/opt/rh/": "the compiler of the manylinux images names its own files so",
    b"/var/run/": "a place at run time",
    b"/tmp/torchinductor": "torch's cache at run time",
}
_LISTED = 3


@dataclass(frozen=True)
class Content:
    """One file of a wheel, read once."""

    sha256: str
    size_bytes: int
    library: SharedLibrary | None
    codes: tuple[Code, ...]
    build_paths: tuple[str, ...]


class Subject:
    """A wheel under audit: read once, looked at by every check."""

    def __init__(self, wheel: Wheel, expect: Target | None, size_limit_bytes: int) -> None:
        self.wheel = wheel
        self.expect = expect
        self.size_limit_bytes = size_limit_bytes
        self.unreadable: list[str] = []
        self.contents: dict[str, Content] = {}
        for name in wheel.names:
            self.contents[name] = self._read(name)

    def _read(self, name: str) -> Content:
        data = self.wheel.read(name)
        library: SharedLibrary | None = None
        codes: tuple[Code, ...] = ()
        # A bundled torch is an error by its name alone, and takes minutes to read.
        if is_elf(data) and forbidden_copy(name) is not TORCH:
            try:
                library = read_elf(data, name)
                codes = read_fatbin(library.fatbin)
            except AuditError as error:
                self.unreadable.append(error.message if name in error.message else f"{name}: {error.message}")
        return Content(
            hashlib.sha256(data).hexdigest(),
            len(data),
            library,
            codes,
            () if self._foreign(name) else build_paths(data),
        )

    def _foreign(self, name: str) -> bool:
        # Bundled libraries were made elsewhere: a path in them says nothing of this build's machine.
        return name.split("/", maxsplit=1)[0].endswith(".libs")

    @cached_property
    def libraries(self) -> dict[str, SharedLibrary]:
        """Name -> each shared library that could be read."""
        return {name: part.library for name, part in self.contents.items() if part.library is not None}

    @cached_property
    def named_libraries(self) -> list[tuple[str, SharedLibrary]]:
        """Each shared library with its name as messages say it: without folders."""
        return [(PurePosixPath(name).name, library) for name, library in sorted(self.libraries.items())]

    @cached_property
    def extensions(self) -> dict[str, Content]:
        """Name -> each library of the package that has GPU code, or the name of one of SageAttention's."""
        return {
            name: part
            for name, part in self.contents.items()
            if part.library is not None
            and not self._foreign(name)
            and (part.codes or stem(name) in {*_LEAST, *_ONLY})
        }

    @cached_property
    def architectures(self) -> frozenset[Architecture]:
        """What any library in it has a cubin for."""
        return frozenset(
            cubin for part in self.extensions.values() for cubin in cubin_architectures(part.codes)
        )

    @cached_property
    def stable(self) -> bool:
        """Whether the wheel claims to fit every newer Python and torch."""
        return "abi3" in self.wheel.name.abi.split(".")

    @cached_property
    def policy(self) -> Policy | None:
        """The most demanding promise of the wheel's platform tags; None where it makes none."""
        promised = [load_policy(tag) for tag in self.platforms if tag.startswith("manylinux")]
        return min(promised, key=lambda policy: policy.glibc, default=None)

    @cached_property
    def system_libraries(self) -> frozenset[str]:
        """What the wheel may expect of every system by its tag, or by this project's where it has none."""
        return (self.policy or load_policy(_DEFAULT_POLICY)).libraries

    @cached_property
    def inside(self) -> frozenset[str]:
        """File names and SONAMEs of what is in the wheel."""
        sonames = {library.soname for library in self.libraries.values()}
        return frozenset(PurePosixPath(name).name for name in self.contents) | sonames

    @property
    def platforms(self) -> list[str]:
        """The platform tags of the file's name."""
        return self.wheel.name.platform.split(".")

    @cached_property
    def requirements(self) -> list[Requirement]:
        """Requires-Dist, without lines that are none."""
        found = []
        for line in self.wheel.metadata.get_all("Requires-Dist", []):
            try:
                found.append(Requirement(str(line)))
            except InvalidRequirement:
                continue
        return found

    @property
    def torch(self) -> Requirement | None:
        """The requirement on torch; None without."""
        return next((entry for entry in self.requirements if canonicalize_name(entry.name) == "torch"), None)

    @cached_property
    def told(self) -> Mapping[str, str]:
        """What the wheel's SBOM says of it as a whole; empty without an SBOM that can be read."""
        try:
            return provenance_of(self.wheel)
        except (ValueError, WheelError):
            return {}

    @cached_property
    def materials(self) -> tuple[ReadMaterial, ...]:
        """The components of the wheel's own SBOM; empty without one that can be read."""
        name = self.wheel.in_dist_info(f"sboms/{SBOM_NAME}")
        try:
            return read_sbom(self.wheel.read(name)) if name in self.contents else ()
        except ValueError:
            return ()

    @cached_property
    def label(self) -> Label:
        """What the local version says."""
        return Label.parse(self.wheel.name.local_version)

    @cached_property
    def unstable(self) -> dict[str, tuple[str, ...]]:
        """Extension -> symbols of libtorch's C++ interface that it takes."""
        found = {name: unstable_torch_symbols(library) for name, library in self.named_libraries}
        return {name: symbols for name, symbols in found.items() if symbols}


@dataclass(frozen=True)
class Label:
    """A local version label, `cu130.torch2.11.sm89`, in parts; each is empty where it isn't there."""

    cuda: str
    torch: str
    universal: bool
    architectures: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Label:
        """Read what this project, PyTorch and others write after the `+`; unknown parts don't count."""
        cuda = re.search(r"(?:^|\.)cu(\d{2,3})(?=\.|torch|$)", text)
        torch = re.search(r"torch(\d+(?:\.\d+)?)", text)
        return cls(
            cuda=f"{cuda[1][:-1]}.{cuda[1][-1]}" if cuda else "",
            torch=torch[1] if torch else "",
            universal="universal" in text.split("."),
            architectures=tuple(re.findall(r"(?:^|\.)sm_?(\d{2,3}[af]?)(?=\.|$)", text)),
        )


def stem(name: str) -> str:
    """A library's name without folders and endings: `_fused` of `sageattention/_fused.cpython-312-....so`."""
    return PurePosixPath(name).name.split(".")[0]


def forbidden_copy(name: str) -> Owner | None:
    """Who should bring a library that a wheel holds a copy of; None where the copy does no harm.

    Args:
        name: In the wheel, perhaps with the digest that auditwheel gives it.
    """
    file = _COPY.sub("", PurePosixPath(name).name)
    owner = owner_of(file, frozenset()) if ".so" in file else None
    return owner if owner in (TORCH, DRIVER, TORCH_CUDA, PYTHON) else None


def unstable_torch_symbols(library: SharedLibrary) -> tuple[str, ...]:
    """The undefined symbols that only libtorch's C++ interface has, which changes with each torch version."""
    return tuple(symbol.name for symbol in library.undefined if _TORCH_CXX.match(symbol.name))


def stable_torch_symbols(library: SharedLibrary) -> tuple[str, ...]:
    """The undefined symbols of torch's stable C interface."""
    return tuple(symbol.name for symbol in library.undefined if _TORCH_C.fullmatch(symbol.name))


def unlimited_python_symbols(library: SharedLibrary, python: tuple[int, int]) -> tuple[str, ...]:
    """The undefined symbols of CPython that its limited API of a version lacks (PEP 384).

    Args:
        library: The extension.
        python: The oldest Python that it is for, `(3, 10)`.
    """
    taken = [symbol.name for symbol in library.undefined if _PYTHON_SYMBOL.fullmatch(symbol.name)]
    if not taken:
        return ()
    # Only here, since this project's own wheels take no such symbol.
    limited = importlib.import_module("abi3info")
    models = importlib.import_module("abi3info.models")

    def is_limited(name: str) -> bool:
        symbol = models.Symbol(name)
        entry = limited.FUNCTIONS.get(symbol) or limited.DATAS.get(symbol)
        return entry is not None and bool(entry.added <= models.PyVersion(*python))

    return tuple(name for name in taken if not is_limited(name))


def build_paths(data: bytes) -> tuple[str, ...]:
    """Absolute paths in a file that can only come from the machine that built it, sorted, each once."""
    found = {match[0] for match in _BUILD_PATH.finditer(data)}
    return tuple(sorted(path.decode() for path in found if not path.startswith(tuple(_HARMLESS_PATHS))))


def expected_architectures(name: str, claimed: Collection[Architecture]) -> frozenset[Architecture] | None:
    """The cubins that an extension must hold; None where nothing is known of an extension of that name.

    Args:
        name: The extension's, without endings: `_qattn_sm89`.
        claimed: The architectures that the wheel is for.
    """
    if name in _ONLY:
        return frozenset(claimed) & {Architecture.parse(_ONLY[name])}
    if name in _LEAST:
        least = Architecture.parse(_LEAST[name])
        return frozenset(architecture for architecture in claimed if architecture >= least)
    return None


def _record(subject: Subject) -> Iterator[tuple[str, str]]:
    for problem in record_problems(subject.wheel):
        yield ERROR, problem
    for problem in subject.unreadable:
        yield ERROR, problem


def _names(subject: Subject) -> Iterator[tuple[str, str]]:
    wheel, metadata = subject.wheel, subject.wheel.metadata
    name, version = str(metadata["Name"] or ""), str(metadata["Version"] or "")
    if canonicalize_name(name) != canonicalize_name(wheel.name.distribution):
        yield ERROR, f"METADATA is of {name!r} and the file name of {wheel.name.distribution!r}"
    try:
        if Version(version) != Version(wheel.name.version.replace("_", "+", 1)):
            yield ERROR, f"METADATA says version {version} and the file name {wheel.name.version}"
    except InvalidVersion:
        yield ERROR, f"METADATA has the version {version!r}, which is none (PEP 440)"
    tags = {str(tag) for tag in wheel.wheel_metadata.get_all("Tag", [])}
    if tags != {str(tag) for tag in wheel.name.tags}:
        yield ERROR, f"the file WHEEL has the tags {', '.join(sorted(tags)) or 'none'}, unlike the file name"
    if str(wheel.wheel_metadata["Root-Is-Purelib"]).strip().lower() == "true" and subject.libraries:
        yield ERROR, "the file WHEEL says that it is pure Python, and it holds shared libraries"
    strange = {member.split("/")[0] for member in wheel.names} - {
        wheel.dist_info,
        wheel.name.distribution,
        f"{wheel.name.distribution}.libs",
    }
    for entry in sorted(strange):
        yield WARNING, f"it installs {entry} beside {wheel.name.distribution}"


def _tag(subject: Subject) -> Iterator[tuple[str, str]]:
    for platform in subject.platforms:
        if platform.startswith("manylinux"):
            policy = load_policy(platform)
            for name, library in subject.named_libraries:
                for violation in violations(library, policy):
                    yield ERROR, f"{name} needs {violation}; {way_out([violation], policy)}"
    if subject.policy is None and subject.platforms == ["linux_x86_64"]:
        reached = reached_tag(subject.libraries.values())
        yield NOTE, f"its symbols fit {reached}" if reached else "its symbols fit no manylinux tag"
    for name, library in subject.named_libraries:
        if library.machine != "x64" and any(platform.endswith("x86_64") for platform in subject.platforms):
            yield ERROR, f"{name} is for {library.machine}, and the tag says x86_64"
        match = _EXTENSION_SUFFIX.search(name)
        if match and f"cp{match['number']}" not in subject.wheel.name.abi.split("."):
            yield ERROR, f"{name} is for CPython {match['number']}, and the tag says {subject.wheel.name.abi}"
    if subject.expect is not None:
        allowed = [subject.expect.wheel_tag(end) for end in ("linux_x86_64", subject.expect.platform_tag)]
        if subject.wheel.name.tag not in allowed:
            yield ERROR, f"the target {subject.expect.name} makes wheels tagged {' or '.join(allowed)}"


def _libraries(subject: Subject) -> Iterator[tuple[str, str]]:
    for name, library in subject.named_libraries:
        for soname in library.needed:
            if soname in subject.inside:
                continue
            owner = owner_of(soname, subject.system_libraries)
            if owner is None:
                yield (
                    ERROR,
                    f"{name} needs {soname}, which neither torch nor the driver nor the system brings",
                )
            elif owner is PYTHON:
                yield ERROR, f"{name} needs {soname}: {PYTHON.why}"
            elif owner is DRIVER:
                yield HOUSE_RULE, f"{name} needs {soname}: it can't be imported where there is no driver"
            elif owner is CUDA_RUNTIME:
                yield from _runtime(subject, name, soname)


def _runtime(subject: Subject, name: str, soname: str) -> Iterator[tuple[str, str]]:
    major = soname.rpartition(".")[2]
    cuda = subject.expect.cuda if subject.expect else subject.label.cuda
    if cuda and major.isdigit() and major != cuda.split(".")[0]:
        yield ERROR, f"{name} needs {soname}, and the wheel is for CUDA {cuda}"
    if subject.policy is not None:
        yield HOUSE_RULE, f"{name} needs {soname}, which the tag {subject.policy.tag} doesn't promise"


def _bundled(subject: Subject) -> Iterator[tuple[str, str]]:
    copies: dict[Owner, list[str]] = {}
    for name in subject.contents:
        owner = forbidden_copy(name)
        if owner is not None:
            copies.setdefault(owner, []).append(PurePosixPath(name).name)
    for owner, names in copies.items():
        listed = ", ".join(names)
        if owner is TORCH:
            yield (
                ERROR,
                f"it brings its own torch, so importing it aborts the interpreter: {listed} ({owner.why})",
            )
        elif owner is TORCH_CUDA:
            yield WARNING, f"it brings second copies: {listed} ({owner.why})"
        else:
            yield ERROR, f"it brings what it must not: {listed} ({owner.why})"


def _architectures(subject: Subject) -> Iterator[tuple[str, str]]:
    codes = {PurePosixPath(name).name: part.codes for name, part in sorted(subject.extensions.items())}
    found = {name: frozenset(cubin_architectures(pieces)) for name, pieces in codes.items()}
    everything = subject.architectures
    try:
        claimed = claimed_architectures(subject, everything)
    except ArchitectureError as error:
        yield ERROR, error.message
        return
    if not found:
        yield ERROR, "no library in it holds GPU code"
    for name, cubins in found.items():
        if not cubins:
            yield ERROR, f"{name} holds no GPU code"
        expected = expected_architectures(stem(name), claimed)
        if expected is not None and (missing := expected - cubins):
            yield ERROR, f"{name} has no cubin for {join(sorted(missing))}"
        if extra := cubins - claimed:
            yield WARNING, f"{name} has cubins beyond what the wheel claims: {join(sorted(extra))}"
        if ptx := ptx_architectures(codes[name]):
            yield NOTE, f"{name} has PTX for {join(ptx)}"
        if any(code.debug for code in codes[name]):
            yield ERROR, f"{name} has GPU code made for a debugger (-G), which is many times slower"
    if missing := claimed - everything:
        yield ERROR, f"no extension has a cubin for {join(sorted(missing))}"
    present = {stem(name) for name in found}
    wanted = {name for name in (*_LEAST, *_ONLY) if expected_architectures(name, claimed)}
    for name in sorted(wanted - present) if present & {*_LEAST, *_ONLY} else ():
        yield ERROR, f"the extension {name} is missing"


def claimed_architectures(subject: Subject, found: frozenset[Architecture]) -> frozenset[Architecture]:
    """The architectures that a wheel says it is for: by its version, its SBOM, or its target.

    Args:
        subject: The wheel.
        found: Those that it has cubins for; taken where nothing says more.

    Raises:
        ArchitectureError: One of them is none.
    """
    if subject.label.architectures:
        return frozenset(Architecture.parse(f"sm_{number}") for number in subject.label.architectures)
    if told := subject.told.get("architectures"):
        return frozenset(map(Architecture.parse, told.split()))
    return frozenset(subject.expect.architectures) if subject.expect is not None else found


def _version(subject: Subject) -> Iterator[tuple[str, str]]:
    label, name = subject.label, subject.wheel.name
    found = subject.architectures
    if subject.expect is not None:
        chosen = tuple(sorted(found))
        selection = Selection(chosen, "", chosen == subject.expect.architectures)
        expected = local_version(subject.expect, selection)
        if name.local_version != expected:
            yield ERROR, f"the version {name.version} should end in +{expected}, by its target and its cubins"
        return
    capabilities = {architecture.capability for architecture in found}
    lacking = [text for text in _UPSTREAM_ARCHITECTURES if text not in capabilities]
    if found and lacking and not label.architectures:
        yield (
            HOUSE_RULE,
            f"it holds only {join(sorted(found))} and its version doesn't say so (no {', '.join(lacking)})",
        )
    if not label.cuda:
        yield HOUSE_RULE, f"the version {name.version} doesn't say for which CUDA it is"
    if not label.torch and not label.universal:
        yield HOUSE_RULE, f"the version {name.version} doesn't say for which torch it is"
    if label.universal != subject.stable and (label.universal or label.torch):
        yield ERROR, f"the version {name.version} disagrees with the tag's ABI, {name.abi}"


def _requirement(subject: Subject) -> Iterator[tuple[str, str]]:
    torch = subject.torch
    if subject.expect is not None and (torch is None or not _same(torch, subject.expect.torch_requirement)):
        yield ERROR, f"requires {torch or 'no torch'}, and the target says {subject.expect.torch_requirement}"
    elif torch is None and not subject.unstable:
        yield HOUSE_RULE, "METADATA requires no torch"
    if subject.stable:
        yield from _stable_requirement(subject, torch)
    elif subject.unstable:
        series = pinned_series(torch.specifier) if torch is not None else ""
        count = sum(map(len, subject.unstable.values()))
        if not series:
            where = "libtorch's C++ interface, which changes with each torch version"
            instead = f"requires {torch or 'no torch'} instead of torch==X.Y.*"
            yield ERROR, f"takes {count} symbols of {where}, and {instead}"
        elif subject.label.torch and subject.label.torch != series:
            yield ERROR, f"requires torch {series} and its version says {subject.label.torch}"
    yield from _python_requirement(subject)


def _same(requirement: Requirement, text: str) -> bool:
    other = Requirement(text)
    return requirement.specifier == other.specifier and requirement.marker is None and not requirement.extras


def _stable_requirement(subject: Subject, torch: Requirement | None) -> Iterator[tuple[str, str]]:
    for name, symbols in sorted(subject.unstable.items()):
        more = f" and {len(symbols) - _LISTED} more" if len(symbols) > _LISTED else ""
        listed = ", ".join(symbols[:_LISTED]) + more
        yield ERROR, f"{name} takes from libtorch's C++ interface, which a stable wheel may not: {listed}"
    oldest = min(map(int, re.findall(r"cp3(\d+)", subject.wheel.name.python)), default=0)
    for name, library in subject.named_libraries:
        if "libtorch_python.so" in library.needed:
            yield ERROR, f"{name} needs libtorch_python.so, which is built for one Python"
        try:
            symbols = unlimited_python_symbols(library, (3, oldest))
        except ImportError:
            yield ERROR, f"{name} takes symbols of CPython; install abi3info to tell whether it may"
            continue
        if symbols:
            listed = ", ".join(symbols[:_LISTED])
            yield ERROR, f"{name} takes what CPython's limited API of 3.{oldest} lacks: {listed}"
    if torch is not None and not any(clause.operator in {">=", "==", "~="} for clause in torch.specifier):
        yield ERROR, f"requires {torch}, without the oldest torch whose stable interface it uses"
    elif torch is not None and pinned_series(torch.specifier):
        yield WARNING, f"requires {torch}: one torch only, though its ABI is stable"


def pinned_series(specifier: SpecifierSet) -> str:
    """The one torch series that a requirement allows, `2.11` of `==2.11.*`; empty where it allows more."""
    for clause in specifier:
        parts = clause.version.removesuffix(".*").split(".")
        if clause.operator == "==" and len(parts) >= 2:
            return ".".join(parts[:2])
        if clause.operator == "~=" and len(parts) == 3:
            return ".".join(parts[:2])
    return ""


def _python_requirement(subject: Subject) -> Iterator[tuple[str, str]]:
    text = str(subject.wheel.metadata["Requires-Python"] or "")
    try:
        allowed = SpecifierSet(text)
    except InvalidSpecifier:
        yield ERROR, f"Requires-Python: {text!r} is no version specifier"
        return
    for tag in subject.wheel.name.python.split("."):
        match = re.fullmatch(r"cp3(\d+)", tag)
        if match and f"3.{match[1]}" not in allowed:
            yield ERROR, f"Requires-Python: {text} excludes the Python of its own tag, {tag}"


def _sbom(subject: Subject) -> Iterator[tuple[str, str]]:
    folder = subject.wheel.in_dist_info("sboms/")
    own = f"{folder}{SBOM_NAME}"
    boms = [name for name in subject.contents if name.startswith(folder)]
    if not boms:
        yield HOUSE_RULE, "it holds no SBOM: nothing says what it was made of"
    for name in boms:
        try:
            read_sbom(subject.wheel.read(name))
        except ValueError as error:
            yield ERROR, f"{name}: {error}"
    if own not in boms or not subject.materials:
        return
    patches = subject.wheel.in_dist_info("patches/")
    must_list = [*subject.libraries, *(name for name in subject.contents if name.startswith(patches))]
    files = {name: part.sha256 for name, part in subject.contents.items()}
    for problem in sbom_problems(subject.materials, files, must_list=must_list):
        yield ERROR, problem
    for part in subject.materials:
        if part.kind == "extension" and (extension := subject.extensions.get(part.name)):
            cubins = join(cubin_architectures(extension.codes), " ")
            if part.properties.get("architectures", "") != cubins:
                yield ERROR, f"{part.name} has cubins for {cubins}, and the SBOM says otherwise"
        if part.kind == "source" and part.properties.get("verified") != "true":
            yield WARNING, f"built from an unverified source: {part.properties.get('location') or part.name}"
    requirement = str(subject.torch or "").replace(" ", "")
    if (told := subject.told.get("torch")) and requirement and Requirement(told) != Requirement(requirement):
        yield ERROR, f"the SBOM says {told}, and METADATA requires {requirement}"


def _licence(subject: Subject) -> Iterator[tuple[str, str]]:
    metadata = subject.wheel.metadata
    expression = str(metadata["License-Expression"] or "")
    files = [str(name) for name in metadata.get_all("License-File", [])]
    if not expression:
        yield HOUSE_RULE, "METADATA has no License-Expression"
    else:
        try:
            canonicalize_license_expression(expression)
        except InvalidLicenseExpression as error:
            yield ERROR, f"License-Expression: {error}"
    if not any(
        "licen" in name.lower() for name in subject.contents if name.startswith(subject.wheel.dist_info)
    ):
        yield HOUSE_RULE, "it holds no licence text"
    for name in files:
        places = [subject.wheel.in_dist_info(f"licenses/{name}"), subject.wheel.in_dist_info(name)]
        if not any(place in subject.contents for place in places):
            yield ERROR, f"License-File: {name} is not in it"
    bundled = [
        name
        for name in subject.contents
        if ".so" in name and owner_of(_COPY.sub("", PurePosixPath(name).name), frozenset()) is CUDA_RUNTIME
    ]
    if bundled and RUNTIME_LICENSE not in expression:
        yield HOUSE_RULE, f"{bundled[0]} is NVIDIA's, and the licence expression doesn't say so"


def _description(subject: Subject) -> Iterator[tuple[str, str]]:
    links = [str(entry) for entry in subject.wheel.metadata.get_all("Project-URL", [])]
    if subject.told and not any(link.startswith("Wheel build,") for link in links):
        yield WARNING, "METADATA doesn't link the project that built it (builder/project.toml)"


def _paths(subject: Subject) -> Iterator[tuple[str, str]]:
    for name, part in subject.contents.items():
        # Upstream's read-me and the patches are text that people wrote.
        written = name.startswith(subject.wheel.in_dist_info("patches/")) or name.endswith(
            ("/METADATA", ".md", ".txt", "/LICENSE")
        )
        if part.build_paths and not written:
            count = len(part.build_paths)
            listed = ", ".join(part.build_paths[:2])
            yield (
                HOUSE_RULE,
                f"{name} names {count} path{'s' * (count > 1)} of the machine that built it: {listed}",
            )


def _stack(subject: Subject) -> Iterator[tuple[str, str]]:
    for name, library in subject.named_libraries:
        if library.executable_stack:
            yield ERROR, f"{name} makes the process's stack executable; newer systems refuse to load it"


def _rpath(subject: Subject) -> Iterator[tuple[str, str]]:
    folders = {str(parent) for name in subject.contents for parent in PurePosixPath(name).parents}
    for name, library in sorted(subject.libraries.items()):
        for entry in (*library.rpath, *library.runpath):
            inside = resolve_origin(entry, name)
            if inside is None:
                yield ERROR, f"{name} searches {entry or 'the current folder'} for libraries"
            elif inside not in folders:
                yield HOUSE_RULE, f"{name} searches {entry} for libraries, which is not in the wheel"


def resolve_origin(entry: str, library: str) -> str | None:
    """Where in the installed environment an RPATH entry leads; None for one that doesn't start at $ORIGIN.

    Args:
        entry: One entry: `$ORIGIN/../sageattention.libs`.
        library: Archive name of the library that has it.
    """
    start = re.match(r"\$(?:ORIGIN|\{ORIGIN\})(?=/|$)", entry)
    if start is None:
        return None
    parts: list[str] = list(PurePosixPath(library).parent.parts)
    for part in PurePosixPath(entry[start.end() :].lstrip("/")).parts:
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return str(PurePosixPath(*parts))


def _debug(subject: Subject) -> Iterator[tuple[str, str]]:
    for name, library in subject.named_libraries:
        if library.debug_sections:
            yield (
                HOUSE_RULE,
                f"{name} has debug sections ({', '.join(library.debug_sections[:_LISTED])}, ...)",
            )


def _size(subject: Subject) -> Iterator[tuple[str, str]]:
    size = subject.wheel.path.stat().st_size
    if size >= LARGEST_ASSET_BYTES:
        yield ERROR, f"{size / 1e9:.2f} GB is more than a release can hold ({LARGEST_ASSET_BYTES >> 30} GiB)"
    elif size > subject.size_limit_bytes:
        yield HOUSE_RULE, f"{size / 1e6:.1f} MB is more than {subject.size_limit_bytes / 1e6:.0f} MB"


CHECKS: dict[str, Callable[[Subject], Iterator[tuple[str, str]]]] = {
    "record": _record,
    "names": _names,
    "tag": _tag,
    "libraries": _libraries,
    "bundled": _bundled,
    "architectures": _architectures,
    "version": _version,
    "requirement": _requirement,
    "sbom": _sbom,
    "licence": _licence,
    "description": _description,
    "paths": _paths,
    "stack": _stack,
    "rpath": _rpath,
    "debug": _debug,
    "size": _size,
}

"""The container route of compose.yaml, with podman-compose, builds the stand-in.

The image is made of Debian's packages, this Python and this uv, or named by the variable IMAGE. What podman
needs on a machine, such as a runtime or a network, belongs in containers.conf and in a compose file that
COMPOSE_FILE names.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.series import E2E, write_series

from builder.util.files import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.container]

IMAGE = os.environ.get("IMAGE", "")
NEEDED = ("podman",) if IMAGE else ("podman", "debootstrap", "uv")
PACKAGES = "g++,git,ca-certificates,libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,libreadline8"
# Where the script of compose.yaml looks for its Python.
PYTHON = Path("opt/python/cp312-cp312")
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
OWNER = (1234, 5678)


def said(*command: str | Path) -> str:
    """Run a command and return what it says; its errors go to the test's output."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"no {' and no '.join(missing)} (apt install podman debootstrap)")
    return IMAGE or _make_image(tmp_path_factory)


def _make_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"localhost/sageattention-wheels-test:{python}"
    if subprocess.run(["podman", "image", "exists", name], check=False).returncode == 0:
        return name
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root; name an image with IMAGE")
    root = tmp_path_factory.mktemp("image") / "root"
    said("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root)
    left_out = shutil.ignore_patterns("site-packages", "test", "__pycache__")
    shutil.copytree(sys.base_prefix, root / PYTHON, symlinks=True, ignore=left_out)
    (root / "etc/ld.so.conf.d/python.conf").write_text(f"/{PYTHON}/lib\n")
    said("chroot", root, "ldconfig")
    (root / f"usr/local/bin/python{python}").symlink_to(f"/{PYTHON}/bin/python{python}")
    shutil.copy(shutil.which("uv") or "", root / "usr/local/bin")
    # It trusts what this machine trusts.
    if trusted := ssl.get_default_verify_paths().cafile:
        shutil.copy(trusted, root / CERTIFICATES)
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as packed:
        change = ["--change", f"ENV SSL_CERT_FILE=/{CERTIFICATES}"]
        subprocess.run(["podman", "import", *change, "-", name], stdin=packed.stdout, check=True)
    return name


class Route:
    """A checkout whose release is the stand-in, and what its containers leave."""

    def __init__(self, folder: Path, image: str) -> None:
        self.folder, self.image = folder, image
        self.wheelhouse = folder / "wheelhouse"
        self.project = f"sageattention-test-{os.getpid()}"
        files = said("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
        for name in files:
            if (ROOT / name).is_file() and not name.startswith("patches/v2.2.0/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        write_series(folder / "patches" / "v2.2.0")
        shutil.copytree(E2E / "minisage", folder / "minisage")
        # The stand-in has no clients.
        nothing: dict[str, object] = {"names": {}, "specs": [], "accepts": {}, "calls": []}
        (folder / "builder" / "smoketest" / "contract.json").write_text(json.dumps(nothing))
        self.wheelhouse.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(self.wheelhouse, *OWNER)
        self.owner = (self.wheelhouse.stat().st_uid, self.wheelhouse.stat().st_gid)

    def compose(self, *arguments: str, build: str = "") -> bool:
        env = {**os.environ, "IMAGE": self.image, "TARGET": "cp312-cu130", "ARGUMENTS": build}
        command = ["podman-compose", "-p", self.project, *arguments]
        return subprocess.run(command, cwd=self.folder, env=env, check=False).returncode == 0

    def build(self, more: str = "") -> bool:
        return self.compose("run", "--rm", "-T", "build", build=f"--source minisage --arch 9.0 {more}")

    def wheels(self) -> dict[str, Path]:
        """What is in the wheelhouse, but hidden files."""
        return {path.name: path for path in self.wheelhouse.iterdir() if path.name[0] != "."}


@pytest.fixture(scope="module")
def route(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Route]:
    route = Route(tmp_path_factory.mktemp("route") / "checkout", image)
    try:
        if not route.compose("run", "--rm", "-T", "build", "true"):
            pytest.skip("podman runs no container here; its error is above")
        yield route
    finally:
        route.compose("down", "--volumes")


def test_the_route_builds_leaves_nothing_of_a_failure_and_is_warm_the_second_time(route: Route) -> None:
    broken = route.folder / "minisage" / "csrc" / "fused" / "fused.cu"
    whole = broken.read_text()
    broken.write_text(whole + "\nthis is no C++\n")
    before = {path: path.stat().st_mtime_ns for path in route.folder.rglob("*")}
    assert not route.build()
    assert not route.wheels()

    broken.write_text(whole)
    assert route.build()
    wheels = route.wheels()
    assert len([name for name in wheels if name.endswith(".whl")]) == 2
    assert len(wheels) == 4
    for path in route.wheelhouse.rglob("*"):
        about = path.stat()
        assert (about.st_uid, about.st_gid) == route.owner, path
        assert about.st_mode & 0o777 == 0o644, path

    first = {name: path.read_bytes() for name, path in wheels.items()}
    begin = time.monotonic()
    assert route.build("--force")
    seconds = time.monotonic() - begin
    for name, path in route.wheels().items():
        if name.endswith(".json"):
            cost = json.loads(path.read_text())["cost"]
            assert cost["compiler_cache"]["misses"] == 0
            assert cost["compiler_cache"]["hits"] > 0
        else:
            assert path.read_bytes() == first[name]
    print(f"the second build took {seconds:.0f} s")

    outside = {path for path in route.folder.rglob("*") if route.wheelhouse not in (path, *path.parents)}
    assert outside == {path for path in before if route.wheelhouse not in (path, *path.parents)}
    assert all(path.stat().st_mtime_ns == before[path] for path in outside - {broken})

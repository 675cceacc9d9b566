"""The index's pages: what they say, and what real pip and real uv make of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import venv
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fakes.index_wheels import (
    NATIVE,
    OLDER_CUDA,
    UNIVERSAL,
    UNIVERSAL_ARM,
    WHEELS_URL,
    links,
    make_ours,
    make_wheel,
    write_site,
)
from fakes.static_server import StaticServer

from builder.util.files import file_sha256

MINOR = sys.version_info.minor
TOOLS = ("pip", "uv")


def test_a_folder_for_each_cuda_version_offers_its_pep_600_wheels_alone(
    wheelhouse: Path, tmp_path: Path
) -> None:
    site = write_site(wheelhouse, tmp_path / "site", "--uploaded", "2026-11-01T10:00:00Z")
    assert links(site / "cu130") == {"sageattention": {"href": "sageattention/"}}
    assert [*links(site / "cu128" / "sageattention")] == [OLDER_CUDA]
    assert [*links(site / "cu130" / "sageattention")] == [UNIVERSAL, NATIVE]
    metadata = site / "cu130" / "sageattention" / f"{NATIVE}.metadata"
    assert links(metadata.parent)[NATIVE] == {
        "href": NATIVE.replace("+", "%2B") + "#sha256=" + file_sha256(wheelhouse / NATIVE),
        "data-requires-python": "==3.12.*",
        "data-upload-time": "2026-11-01T10:00:00Z",
        "data-core-metadata": f"sha256={file_sha256(metadata)}",
        "data-dist-info-metadata": f"sha256={file_sha256(metadata)}",
    }
    assert b"Requires-Dist: torch==2.11.*" in metadata.read_bytes()
    assert (metadata.parent / NATIVE).read_bytes() == (wheelhouse / NATIVE).read_bytes()


def test_the_newest_revision_comes_first(tmp_path: Path) -> None:
    names = [
        UNIVERSAL.replace("universal.2", "universal.10"),
        UNIVERSAL,
        UNIVERSAL.replace(".2-", "-"),
        NATIVE,
    ]
    make_ours(tmp_path / "wheelhouse", *names)
    site = write_site(tmp_path / "wheelhouse", tmp_path / "site")
    assert [*links(site / "cu130" / "sageattention")] == names, (
        "and the page's picker takes the first that fits"
    )


def test_the_json_pages_say_what_the_html_pages_say(wheelhouse: Path, tmp_path: Path) -> None:
    site = write_site(wheelhouse, tmp_path / "site", "--base-url", WHEELS_URL)
    assert {path.suffix for path in site.rglob("*.*")} == {".html", ".json", ".v1_json"}, "nothing is copied"
    root = json.loads((site / "cu130" / "index.v1_json").read_text())
    assert root == {"meta": {"api-version": "1.1"}, "projects": [{"name": "sageattention"}]}
    page = json.loads((site / "cu130" / "sageattention" / "index.v1_json").read_text())
    files = page.pop("files")
    versions = ["2.2.0+cu130.torch2.11.2", "2.2.0+cu130.universal.2"]
    assert page == {"meta": {"api-version": "1.1"}, "name": "sageattention", "versions": versions}
    assert {
        file["filename"]: {
            "href": f"{file['url']}#sha256={file['hashes']['sha256']}",
            "data-requires-python": file["requires-python"],
            "data-upload-time": file["upload-time"],
            "data-core-metadata": f"sha256={file['core-metadata']['sha256']}",
            "data-dist-info-metadata": f"sha256={file['dist-info-metadata']['sha256']}",
        }
        for file in files
    } == links(site / "cu130" / "sageattention")
    assert [file["size"] for file in files] == [
        (wheelhouse / file["filename"]).stat().st_size for file in files
    ]


def make_native(folder: Path, *, torch: str = "2.11", minor: int = MINOR) -> Path:
    """Make a native wheel for the Python that runs this, or for another one."""
    python = f"cp3{minor}"
    name = f"sageattention-2.2.0+cu130.torch{torch}.2-{python}-{python}-manylinux_2_28_x86_64.whl"
    return make_ours(folder, name)[0]


@pytest.fixture(scope="session")
def pip(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that runs real pip, a new one: an older Python's does not know `--uploaded-prior-to`."""
    folder = tmp_path_factory.mktemp("pip")
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "python"), "-m", "pip"]
    subprocess.run([*command, "install", "--quiet", "--upgrade", "pip>=26"], check=True, timeout=120)
    return command


class Client:
    """pip or uv, installing into a clean environment from the site under test and a made-up default index.

    The default index has what the real one has: torch, and a `sageattention` 1.0.6 that fits everywhere.
    """

    def __init__(self, tool: str, pip: list[str], folder: Path, server: StaticServer) -> None:
        self.tool, self.folder = tool, folder
        self.python = folder / "environment" / "bin" / "python"
        venv.create(folder / "environment", with_pip=False)
        default, extra = f"{server.url}/default/", f"{server.url}/site/cu130/"
        if tool == "pip":
            self.command = [*pip, "--python", str(self.python), "install", "--no-cache-dir"]
            self.indexes = ["--index-url", default, "--extra-index-url", extra]
        else:
            self.command = [sys.executable, "-m", "uv", "pip", "install", "--python", str(self.python)]
            self.indexes = ["--default-index", default, "--index", extra]

    def publish(self, *options: str) -> Path:
        """Write the index of the wheelhouse where the client looks for it."""
        return write_site(self.folder / "wheelhouse", self.folder / "www" / "site", *options)

    def install(self, *arguments: str) -> tuple[int, str]:
        """Install; the exit status, and what was printed. Nothing else steers pip or uv."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))
        }
        environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        environment |= {
            "UV_NO_CONFIG": "1",
            "UV_CACHE_DIR": str(self.folder / "cache"),
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [*self.command, *self.indexes, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    def installed(self) -> dict[str, str]:
        """Names and versions of what the environment holds."""
        folders = (self.python.parents[1] / "lib").rglob("*.dist-info")
        return dict(folder.name.removesuffix(".dist-info").split("-") for folder in folders)


@pytest.fixture(params=TOOLS)
def client(
    request: pytest.FixtureRequest, tmp_path: Path, pip: list[str], serve: Callable[[Path], StaticServer]
) -> Client:
    default = tmp_path / "www" / "default"
    for torch in ("2.9.1", "2.10.0", "2.11.0", "2.12.0", "2.13.0rc1"):
        make_wheel(default / "torch", f"torch-{torch}-py3-none-any.whl")
    make_wheel(default / "sageattention", "sageattention-1.0.6-py3-none-any.whl")
    return Client(request.param, pip, tmp_path, serve(tmp_path / "www"))


@pytest.mark.e2e
def test_what_fits_is_installed_and_keeps_the_torch_that_is_there(client: Client, tmp_path: Path) -> None:
    native = make_native(tmp_path / "wheelhouse")
    make_ours(tmp_path / "wheelhouse", native.name.replace("manylinux_2_28", "linux"))
    make_native(tmp_path / "wheelhouse", minor=MINOR + 1)
    client.publish()
    assert client.install("torch==2.11.0")[0] == 0
    status, output = client.install("sageattention==2.2.0")
    assert status == 0, output
    assert client.installed() == {"torch": "2.11.0", "sageattention": "2.2.0+cu130.torch2.11.2"}


@pytest.mark.e2e
def test_the_universal_wheel_is_preferred_and_takes_the_newest_torch(client: Client, tmp_path: Path) -> None:
    make_native(tmp_path / "wheelhouse")
    make_ours(tmp_path / "wheelhouse", UNIVERSAL)
    client.publish()
    status, output = client.install("sageattention")
    assert status == 0, output
    assert client.installed() == {"torch": "2.12.0", "sageattention": "2.2.0+cu130.universal.2"}


@pytest.mark.e2e
@pytest.mark.parametrize("wanted", ["", "torch==2.9.*", "torch>2.8.9999", "--constraint"])
def test_a_vendors_pre_release_of_torch_stays(client: Client, tmp_path: Path, wanted: str) -> None:
    """NVIDIA's containers have such a torch, and a file of constraints that names it."""
    make_ours(tmp_path / "wheelhouse", UNIVERSAL)
    client.publish()
    vendors = "2.9.0a0+145a3a7bda.nv25.10"
    assert client.install(str(make_wheel(tmp_path, f"torch-{vendors}-py3-none-any.whl")))[0] == 0
    (tmp_path / "constraint.txt").write_text(f"torch=={vendors}\n")
    options = (
        [wanted, str(tmp_path / "constraint.txt")] if wanted == "--constraint" else [wanted] * bool(wanted)
    )
    status, output = client.install("sageattention", *options)
    assert status == 0, output
    assert client.installed() == {"torch": vendors, "sageattention": "2.2.0+cu130.universal.2"}


@pytest.mark.e2e
@pytest.mark.parametrize(("wanted", "words"), [("", "[Hh]ash"), ("torch==2.10.*", "torch")])
def test_other_bytes_and_another_torch_are_refused(
    client: Client, tmp_path: Path, wanted: str, words: str
) -> None:
    native = make_native(tmp_path / "wheelhouse")
    site = client.publish()
    make_ours(site / "cu130" / "sageattention", native.name, code="import os\n")
    status, output = client.install("sageattention==2.2.0", *[wanted] * bool(wanted))
    assert status != 0, output
    assert client.installed() == {}
    assert re.search(words, output)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("client", "python", "machine", "fits"),
    [
        *((tool, "3.9", "x86_64", False) for tool in TOOLS),
        *((tool, "3.10", "x86_64", True) for tool in TOOLS),
        *((tool, "3.12", "riscv64", False) for tool in TOOLS),
        *((tool, "3.14", "x86_64", True) for tool in TOOLS),
        *((tool, "3.14", "aarch64", True) for tool in TOOLS),
        ("pip", "3.14t", "x86_64", True),  # uv knows a free-threaded Python by its interpreter alone
        ("pip", "3.14t", "aarch64", True),
    ],
    indirect=["client"],
)
def test_each_python_and_machine_gets_its_wheel_from_one_index(
    client: Client, tmp_path: Path, python: str, machine: str, fits: bool
) -> None:
    make_ours(tmp_path / "wheelhouse", UNIVERSAL, UNIVERSAL_ARM)
    client.publish()
    options = ["--no-deps", "--only-binary", ":all:", "--target", str(tmp_path / "out")]
    if client.tool == "pip":
        options += ["--python-version", python.rstrip("t"), "--abi", f"cp{python.replace('.', '')}"]
        options += ["--platform", f"manylinux_2_28_{machine}"]
    else:
        options += ["--python-version", python, "--python-platform", f"{machine}-manylinux_2_28"]
    status, output = client.install(*options, "sageattention==2.2.0")
    assert (status == 0) is fits, output
    if fits:
        (tags,) = (tmp_path / "out").glob("*.dist-info/WHEEL")
        assert f"py3-none-manylinux_2_28_{machine}" in tags.read_text()


@pytest.mark.e2e
@pytest.mark.parametrize("installed", ["", "universal", "universal.2", "universal.3"])
def test_a_new_revision_is_taken_though_the_index_keeps_the_earlier_wheels(
    client: Client, tmp_path: Path, installed: str
) -> None:
    first = UNIVERSAL.replace("universal.2-py3-none", "universal-cp310-abi3")
    later = [UNIVERSAL.replace("universal.2", f"universal.{revision}") for revision in (3, 10)]
    make_ours(tmp_path / "wheelhouse", first, UNIVERSAL, *later)
    make_native(tmp_path / "wheelhouse")
    client.publish()
    if installed:
        assert client.install(f"sageattention==2.2.0+cu130.{installed}")[0] == 0
        assert client.installed()["sageattention"] == f"2.2.0+cu130.{installed}"
    status, output = client.install("--upgrade", "sageattention")
    assert status == 0, output
    assert client.installed()["sageattention"] == "2.2.0+cu130.universal.10"


class JsonHandler(SimpleHTTPRequestHandler):
    """Sends the JSON page of a folder, with the content type of PEP 691."""

    extensions_map = {".v1_json": "application/vnd.pypi.simple.v1+json", "": "application/zip"}  # noqa: RUF012 - as in the base class

    def do_GET(self) -> None:
        self.path += "index.v1_json" if self.path.endswith("/") else ""
        super().do_GET()


@pytest.mark.e2e
@pytest.mark.parametrize(("date", "fits"), [("2026-10-31", False), ("2026-11-02", True)])
def test_a_date_shuts_out_what_was_published_later(
    client: Client, tmp_path: Path, date: str, fits: bool
) -> None:
    make_ours(tmp_path / "wheelhouse", UNIVERSAL)
    handler = partial(JsonHandler, directory=str(client.publish("--uploaded", "2026-11-01T10:00:00Z")))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        option = "--exclude-newer"
        if client.tool == "pip":  # takes the time from nothing but JSON
            client.indexes = ["--index-url", f"http://127.0.0.1:{server.server_port}/cu130/"]
            option = "--uploaded-prior-to"
        status, output = client.install("--no-deps", "sageattention==2.2.0", option, f"{date}T00:00:00Z")
        server.shutdown()
    assert (status == 0) is fits, output

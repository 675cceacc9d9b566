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
from fakes.index_wheels import NATIVE, OLDER_CUDA, UNIVERSAL, UNIVERSAL_ARM, make_ours, make_wheel
from fakes.site import WHEELS_URL, Links, write_site
from fakes.static_server import StaticServer

from builder.util.files import file_sha256

MINOR = sys.version_info.minor


def test_a_folder_for_each_cuda_version_offers_its_pep_600_wheels_alone(
    wheelhouse: Path, tmp_path: Path
) -> None:
    site = write_site(wheelhouse, tmp_path / "site")
    assert Links(site / "cu130" / "index.html").anchors == [{"href": "sageattention/"}]
    assert Links(site / "cu130" / "sageattention" / "index.html").texts == [UNIVERSAL, NATIVE]
    assert Links(site / "cu128" / "sageattention" / "index.html").texts == [OLDER_CUDA]


def test_links_carry_encoded_addresses_hashes_and_metadata(wheelhouse: Path, tmp_path: Path) -> None:
    site = write_site(wheelhouse, tmp_path / "site", "--uploaded", "2026-11-01T10:00:00Z")
    links = Links(site / "cu130" / "sageattention" / "index.html")
    native = links.anchors[links.texts.index(NATIVE)]
    metadata = site / "cu130" / "sageattention" / f"{NATIVE}.metadata"
    assert native == {
        "href": NATIVE.replace("+", "%2B") + "#sha256=" + file_sha256(wheelhouse / NATIVE),
        "data-requires-python": "==3.12.*",
        "data-upload-time": "2026-11-01T10:00:00Z",
        "data-core-metadata": f"sha256={file_sha256(metadata)}",
        "data-dist-info-metadata": f"sha256={file_sha256(metadata)}",
    }
    assert b"Requires-Dist: torch==2.11.*" in metadata.read_bytes()
    assert (site / "cu130" / "sageattention" / NATIVE).read_bytes() == (wheelhouse / NATIVE).read_bytes()


def test_the_json_pages_say_what_the_html_pages_say(wheelhouse: Path, tmp_path: Path) -> None:
    site = write_site(wheelhouse, tmp_path / "site", "--base-url", WHEELS_URL)
    for cuda in ("cu128", "cu130"):
        page = site / cuda / "sageattention"
        answer = json.loads((page / "index.v1_json").read_text())
        assert answer["meta"] == {"api-version": "1.1"}
        assert answer["name"] == "sageattention"
        assert answer["versions"] == sorted({file["filename"].split("-")[1] for file in answer["files"]})
        assert [
            {
                "href": f"{file['url']}#sha256={file['hashes']['sha256']}",
                "data-requires-python": file["requires-python"],
                "data-upload-time": file["upload-time"],
                "data-core-metadata": f"sha256={file['core-metadata']['sha256']}",
                "data-dist-info-metadata": f"sha256={file['dist-info-metadata']['sha256']}",
            }
            for file in answer["files"]
        ] == Links(page / "index.html").anchors
        for file in answer["files"]:
            assert file["size"] == (wheelhouse / file["filename"]).stat().st_size
        root = json.loads((site / cuda / "index.v1_json").read_text())
        assert root == {"meta": {"api-version": "1.1"}, "projects": [{"name": "sageattention"}]}


def native_name(torch: str, *, minor: int = MINOR, platform: str = "manylinux_2_17_x86_64") -> str:
    """A native wheel for the Python that runs this, or for another one; of a glibc that each system has."""
    return f"sageattention-2.2.0+cu130.torch{torch}-cp3{minor}-cp3{minor}-{platform}.whl"


def make_native(folder: Path, torch: str = "2.11", *, minor: int = MINOR, **name: str) -> Path:
    return make_ours(folder, native_name(torch, minor=minor, **name))[0]


def make_universal(folder: Path) -> Path:
    return make_ours(folder, UNIVERSAL.replace("2_34", "2_17"))[0]


def clean_environment(tmp_path: Path) -> dict[str, str]:
    """This process's environment without anything that steers pip or uv."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return kept | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv-cache"),
        "NO_PROXY": "127.0.0.1",
    }


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

    def __init__(self, tool: str, command: list[str], tmp_path: Path, server: StaticServer) -> None:
        self.python = tmp_path / "environment" / "bin" / "python"
        venv.create(tmp_path / "environment", with_pip=False)
        default, extra = f"{server.url}/default/", f"{server.url}/site/cu130/"
        if tool == "pip":
            self.command = [*command, "--python", str(self.python), "install", "--no-cache-dir"]
            self.command += ["--index-url", default, "--extra-index-url", extra]
        else:
            self.command = [*command, "pip", "install", "--python", str(self.python)]
            self.command += ["--default-index", default, "--index", extra]
        self.environment = clean_environment(tmp_path)

    def install(self, *requirements: str) -> tuple[int, str]:
        """Install; the exit status, and what was printed."""
        done = subprocess.run(
            [*self.command, *requirements],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    def installed(self) -> dict[str, str]:
        """Names and versions of what the environment holds."""
        script = (
            "import importlib.metadata as m, json;"
            "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
        )
        answer = subprocess.run([str(self.python), "-c", script], capture_output=True, text=True, check=True)
        found: dict[str, str] = json.loads(answer.stdout)
        return found


@pytest.fixture(params=["pip", "uv"])
def client(
    request: pytest.FixtureRequest, tmp_path: Path, pip: list[str], serve: Callable[[Path], StaticServer]
) -> Client:
    default = tmp_path / "www" / "default"
    for torch in ("2.10.0", "2.11.0", "2.12.0"):
        make_wheel(default / "torch", f"torch-{torch}-py3-none-any.whl")
    make_wheel(default / "sageattention", "sageattention-1.0.6-py3-none-any.whl")
    command = pip if request.param == "pip" else [sys.executable, "-m", "uv"]
    return Client(request.param, command, tmp_path, serve(tmp_path / "www"))


def publish(tmp_path: Path) -> None:
    write_site(tmp_path / "wheelhouse", tmp_path / "www" / "site")


@pytest.mark.e2e
def test_what_fits_is_installed_and_keeps_the_torch_that_is_there(client: Client, tmp_path: Path) -> None:
    make_native(tmp_path / "wheelhouse")
    make_native(tmp_path / "wheelhouse", platform="linux_x86_64")
    make_native(tmp_path / "wheelhouse", minor=MINOR + 1)
    publish(tmp_path)
    assert client.install("torch==2.11.0")[0] == 0
    status, output = client.install("sageattention==2.2.0")
    assert status == 0, output
    assert client.installed() == {"torch": "2.11.0", "sageattention": "2.2.0+cu130.torch2.11"}


@pytest.mark.e2e
def test_the_universal_wheel_is_preferred_and_fits_a_newer_torch(client: Client, tmp_path: Path) -> None:
    make_native(tmp_path / "wheelhouse")
    make_universal(tmp_path / "wheelhouse")
    publish(tmp_path)
    assert client.install("torch==2.12.0")[0] == 0
    status, output = client.install("sageattention")
    assert status == 0, output
    assert client.installed() == {"torch": "2.12.0", "sageattention": "2.2.0+cu130.universal"}


@pytest.mark.e2e
@pytest.mark.parametrize("case", ["other Python", "other platform", "other torch", "other bytes"])
def test_what_does_not_fit_is_refused(client: Client, tmp_path: Path, case: str) -> None:
    wanted = ["sageattention==2.2.0"]
    if case == "other Python":
        make_native(tmp_path / "wheelhouse", minor=MINOR + 1)
    elif case == "other platform":
        make_native(tmp_path / "wheelhouse", platform="manylinux_2_17_aarch64")
    else:
        make_native(tmp_path / "wheelhouse")
    if case == "other torch":
        wanted.append("torch==2.10.*")
    publish(tmp_path)
    if case == "other bytes":
        served = next((tmp_path / "www" / "site" / "cu130" / "sageattention").glob("*.whl"))
        make_wheel(served.parent, served.name, ["torch==2.11.*"], f"==3.{MINOR}.*", code="import os\n")
    status, output = client.install(*wanted)
    assert status != 0, output
    assert client.installed() == {}
    words = {"other torch": "torch", "other bytes": "[Hh]ash"}
    assert re.search(words.get(case, "sageattention"), output)


@pytest.mark.e2e
def test_the_metadata_file_spares_the_download_of_wheels_that_are_not_taken(
    tmp_path: Path, pip: list[str], serve: Callable[[Path], StaticServer]
) -> None:
    for torch in ("2.10", "2.11"):
        make_native(tmp_path / "wheelhouse", torch)
    make_wheel(tmp_path / "www" / "default" / "torch", "torch-2.10.0-py3-none-any.whl")
    publish(tmp_path)
    server = serve(tmp_path / "www")
    client = Client("pip", pip, tmp_path, server)
    assert client.install("sageattention")[0] == 0
    assert client.installed()["sageattention"] == "2.2.0+cu130.torch2.10"
    asked = [path for path in server.requests if "torch2.11" in path]
    assert asked == [f"/site/cu130/sageattention/{native_name('2.11').replace('+', '%2B')}.metadata"]


@pytest.mark.e2e
@pytest.mark.parametrize("tool", ["pip", "uv"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_each_machine_gets_its_own_wheel_from_one_index(
    tool: str, machine: str, pip: list[str], tmp_path: Path, serve: Callable[[Path], StaticServer]
) -> None:
    make_ours(tmp_path / "wheelhouse", UNIVERSAL, UNIVERSAL_ARM)
    write_site(tmp_path / "wheelhouse", tmp_path / "site")
    index, out = f"{serve(tmp_path / 'site').url}/cu130/", tmp_path / "out"
    if tool == "pip":
        command = [*pip, "download", "--no-cache-dir", "--index-url", index, "--dest", str(out)]
        command += ["--platform", f"manylinux_2_34_{machine}"]
    else:
        command = [sys.executable, "-m", "uv", "pip", "install", "--default-index", index]
        command += ["--target", str(out), "--python-platform", f"{machine}-manylinux_2_34"]
    command += ["--no-deps", "--only-binary", ":all:", "--python-version", "3.12", "sageattention"]
    done = subprocess.run(
        command, env=clean_environment(tmp_path), capture_output=True, text=True, timeout=120, check=False
    )
    if machine == "riscv64":
        assert done.returncode != 0, "there is no wheel for it, and none of another machine is taken"
        return
    assert done.returncode == 0, done.stderr
    wheels = [path.read_text() for path in out.glob("*.dist-info/WHEEL")] or [
        path.name for path in out.iterdir()
    ]
    assert f"manylinux_2_34_{machine}" in wheels[0]


@pytest.mark.e2e
@pytest.mark.parametrize("installed", [None, "2.2.0+cu130.universal"])
def test_a_new_revision_is_taken_though_the_index_keeps_the_earlier_wheels(
    client: Client, tmp_path: Path, installed: str | None
) -> None:
    first, wheelhouse = make_universal(tmp_path / "wheelhouse"), tmp_path / "wheelhouse"
    make_native(wheelhouse)
    again = [first.name.replace("universal", f"universal.r{number}") for number in (2, 3)]
    make_ours(wheelhouse, *(name.replace("cp310-abi3", "py3-none") for name in again))
    publish(tmp_path)
    if installed:
        assert client.install(f"sageattention=={installed}")[0] == 0
        assert client.installed()["sageattention"] == installed
    status, output = client.install("--upgrade", "sageattention")
    assert status == 0, output
    assert client.installed()["sageattention"] == "2.2.0+cu130.universal.r3"


@pytest.mark.e2e
@pytest.mark.parametrize(("date", "fits"), [("2026-10-31", False), ("2026-11-02", True)])
def test_uv_takes_the_time_of_a_wheel_from_html(
    tmp_path: Path, serve: Callable[[Path], StaticServer], date: str, fits: bool
) -> None:
    make_universal(tmp_path / "wheelhouse")
    write_site(tmp_path / "wheelhouse", tmp_path / "site", "--uploaded", "2026-11-01T10:00:00Z")
    command = [sys.executable, "-m", "uv", "pip", "install", "--target", str(tmp_path / "out"), "--no-deps"]
    command += [
        "--default-index",
        f"{serve(tmp_path / 'site').url}/cu130/",
        "--exclude-newer",
        f"{date}T00:00:00Z",
    ]
    done = subprocess.run(
        [*command, "sageattention"], env=clean_environment(tmp_path), check=False, timeout=120
    )
    assert (done.returncode == 0) is fits


class JsonServer(SimpleHTTPRequestHandler):
    """A server that sends the JSON page of a folder, with the content type of PEP 691."""

    extensions_map = {".v1_json": "application/vnd.pypi.simple.v1+json", "": "application/zip"}  # noqa: RUF012 - as in the base class

    def do_GET(self) -> None:
        self.path += "index.v1_json" if self.path.endswith("/") else ""
        super().do_GET()


@pytest.mark.e2e
@pytest.mark.parametrize(("date", "fits"), [("2026-10-31", False), ("2026-11-02", True)])
def test_pip_takes_the_time_of_a_wheel_from_json(
    tmp_path: Path, pip: list[str], date: str, fits: bool
) -> None:
    make_universal(tmp_path / "wheelhouse")
    site = write_site(tmp_path / "wheelhouse", tmp_path / "site", "--uploaded", "2026-11-01T10:00:00Z")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(JsonServer, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        command = [*pip, "download", "--no-cache-dir", "--no-deps", "--dest", str(tmp_path / "out")]
        command += ["--index-url", f"http://127.0.0.1:{server.server_port}/cu130/"]
        command += ["--uploaded-prior-to", f"{date}T00:00:00Z", "sageattention"]
        done = subprocess.run(command, env=clean_environment(tmp_path), check=False, timeout=120)
        server.shutdown()
    assert (done.returncode == 0) is fits

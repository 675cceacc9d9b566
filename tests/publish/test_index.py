"""The index: what its files say, and what real pip, real uv and a real browser make of them."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import pytest
from made_up_wheels import (
    INCOMPLETE,
    NATIVE,
    NATIVE_BASIC,
    OLDER_CUDA,
    UNIVERSAL,
    UNIVERSAL_BASIC,
    make_ours,
    make_wheel,
    write_record,
    write_report,
)

from builder.publish import catalogue, index
from builder.publish.page import Page
from builder.util.errors import DownloadError, UsageError

MINOR = sys.version_info.minor
TORCH_BASE = "https://github.com/someone/wheels/releases/download/v1/"


class Links(HTMLParser):
    """The anchors of a page: their attributes, and their text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[dict[str, str]] = []
        self.text: list[str] = []
        self._inside = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append({name: value or "" for name, value in attrs})
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text.append(data)


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    folder = tmp_path / "wheelhouse"
    make_ours(folder, NATIVE, NATIVE_BASIC, UNIVERSAL, UNIVERSAL_BASIC)
    make_ours(folder, OLDER_CUDA, target="cp311-cu128", cuda="12.8")
    return folder


def write(wheelhouse: Path, out: Path, *arguments: str) -> Path:
    assert index.main(["--wheelhouse", str(wheelhouse), "--out", str(out), *arguments]) == 0
    return out


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- the files ------------------------------------------------------------------------------------


def test_a_folder_for_each_cuda_version_offers_its_pep_600_wheels_alone(
    wheelhouse: Path, tmp_path: Path
) -> None:
    site = write(wheelhouse, tmp_path / "site")
    assert Links(site / "cu130" / "index.html").found == [{"href": "sageattention/"}]
    assert Links(site / "cu130" / "sageattention" / "index.html").text == [UNIVERSAL, NATIVE]
    assert Links(site / "cu128" / "sageattention" / "index.html").text == [OLDER_CUDA]


def test_links_carry_encoded_addresses_hashes_and_metadata(wheelhouse: Path, tmp_path: Path) -> None:
    site = write(wheelhouse, tmp_path / "site")
    links = Links(site / "cu130" / "sageattention" / "index.html")
    native = links.found[links.text.index(NATIVE)]
    metadata = (site / "cu130" / "sageattention" / f"{NATIVE}.metadata").read_bytes()
    assert native == {
        "href": NATIVE.replace("+", "%2B") + "#sha256=" + sha256((wheelhouse / NATIVE).read_bytes()),
        "data-requires-python": "==3.12.*",
        "data-core-metadata": f"sha256={sha256(metadata)}",
        "data-dist-info-metadata": f"sha256={sha256(metadata)}",
    }
    assert b"Requires-Dist: torch==2.11.*" in metadata
    assert (site / "cu130" / "sageattention" / NATIVE).read_bytes() == (wheelhouse / NATIVE).read_bytes()


def test_the_json_pages_say_what_the_html_pages_say(wheelhouse: Path, tmp_path: Path) -> None:
    site = write(wheelhouse, tmp_path / "site", "--base-url", TORCH_BASE)
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
                "data-core-metadata": f"sha256={file['core-metadata']['sha256']}",
                "data-dist-info-metadata": f"sha256={file['dist-info-metadata']['sha256']}",
            }
            for file in answer["files"]
        ] == Links(page / "index.html").found
        for file in answer["files"]:
            assert file["size"] == (wheelhouse / file["filename"]).stat().st_size
        root = json.loads((site / cuda / "index.v1_json").read_text())
        assert root == {"meta": {"api-version": "1.1"}, "projects": [{"name": "sageattention"}]}


def test_with_a_base_address_nothing_is_copied(wheelhouse: Path, tmp_path: Path) -> None:
    site = write(wheelhouse, tmp_path / "site", "--base-url", TORCH_BASE.rstrip("/"))
    assert {path.suffix for path in site.rglob("*") if path.is_file()} == {".html", ".json", ".v1_json"}
    href = Links(site / "cu128" / "sageattention" / "index.html").found[0]["href"]
    assert href.partition("#")[0] == TORCH_BASE + OLDER_CUDA.replace("+", "%2B")


def test_the_same_wheels_give_the_same_bytes_in_any_order_and_at_any_time(
    wheelhouse: Path, tmp_path: Path
) -> None:
    first = tree(write(wheelhouse, tmp_path / "first"))
    wheels = sorted(map(str, wheelhouse.glob("*.whl")), reverse=True)
    for wheel in wheels:
        os.utime(wheel, (1, 1))
    second = tmp_path / "elsewhere" / "second"
    assert index.main([*wheels, "--out", str(second)]) == 0
    assert tree(second) == first


def test_a_site_is_replaced_whole_and_stays_as_it_was_when_writing_fails(
    wheelhouse: Path, tmp_path: Path
) -> None:
    site = write(wheelhouse, tmp_path / "site")
    (wheelhouse / OLDER_CUDA).unlink()
    write(wheelhouse, site)
    assert not (site / "cu128").exists()
    before = tree(site)
    placed = index.place([catalogue.read_wheel(wheelhouse / UNIVERSAL)], None)
    (wheelhouse / UNIVERSAL).unlink()
    with pytest.raises(UsageError, match="can't be"):
        index.write_site(placed, Page(), site)
    assert tree(site) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "wheelhouse"]


def test_a_folder_that_is_no_index_is_not_replaced(wheelhouse: Path, tmp_path: Path) -> None:
    precious = tmp_path / "photos" / "cat.png"
    precious.parent.mkdir()
    precious.write_bytes(b"meow")
    with pytest.raises(UsageError, match="is no index"):
        write(wheelhouse, precious.parent)
    assert precious.read_bytes() == b"meow"


def test_a_wheel_that_lacks_architectures_is_refused_unless_allowed(wheelhouse: Path, tmp_path: Path) -> None:
    make_ours(wheelhouse, INCOMPLETE, complete=False, architectures=["8.9"])
    with pytest.raises(UsageError, match=re.escape(INCOMPLETE)):
        write(wheelhouse, tmp_path / "site")
    site = write(wheelhouse, tmp_path / "site", "--allow-incomplete")
    assert INCOMPLETE in Links(site / "cu130" / "sageattention" / "index.html").text


def test_an_incomplete_wheel_is_known_by_its_name_without_a_record(tmp_path: Path) -> None:
    wheel = catalogue.read_wheel(make_wheel(tmp_path, INCOMPLETE))
    assert (wheel.complete, wheel.architectures, wheel.cuda) == (False, ("8.9",), "cu130")


def test_basic_wheels_alone_are_no_index(tmp_path: Path) -> None:
    make_ours(tmp_path / "wheelhouse", NATIVE_BASIC)
    with pytest.raises(UsageError, match="only basic wheels"):
        write(tmp_path / "wheelhouse", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_basic_wheel_without_its_pep_600_wheel_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_ours(tmp_path / "wheelhouse", NATIVE_BASIC, UNIVERSAL)
    site = write(tmp_path / "wheelhouse", tmp_path / "site")
    assert NATIVE_BASIC in capsys.readouterr().err
    assert Links(site / "cu130" / "sageattention" / "index.html").text == [UNIVERSAL]
    assert (site / "basic" / NATIVE_BASIC).is_file()


def test_a_record_or_report_of_other_bytes_is_refused(tmp_path: Path) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    for told in ({"sha256": "0" * 64}, {}):
        report = write_report(wheel, wheel=told)
        with pytest.raises(UsageError, match=f"{re.escape(report.name)}: is of other bytes"):
            catalogue.read_wheel(wheel)
    report.unlink()
    write_record(wheel, wheel={"sha256": "0" * 64})
    with pytest.raises(UsageError, match=f"{re.escape(NATIVE)}: its record is of other bytes"):
        catalogue.read_wheel(wheel)


def test_what_is_no_wheel_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / NATIVE).write_bytes(b"half a whe")
    with pytest.raises(UsageError, match=re.escape(NATIVE)):
        catalogue.read_wheel(tmp_path / NATIVE)
    with pytest.raises(UsageError, match="no wheel"):
        catalogue.find_wheels([], tmp_path / "nowhere")
    renamed = make_wheel(tmp_path, UNIVERSAL).rename(tmp_path / OLDER_CUDA)
    with pytest.raises(UsageError, match="METADATA is of"):
        catalogue.read_wheel(renamed)
    plain = make_wheel(tmp_path, "sageattention-2.2.0-cp312-cp312-linux_x86_64.whl")
    with pytest.raises(UsageError, match="CUDA version"):
        catalogue.read_wheel(plain)


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        ({}, "passed"),
        ({"exit_code": 1, "outcome": "failures"}, "failed"),
        ({"exit_code": 25, "outcome": "sageattention-not-importable"}, "failed"),
        ({"exit_code": 20, "outcome": "no-gpu"}, "not run"),
        ({"exit_code": 27, "outcome": "stand-in"}, "not run"),
        ({"mode": "import-only"}, "not run"),
    ],
)
def test_only_a_smoke_test_on_a_gpu_that_passed_is_one(
    tmp_path: Path, report: dict[str, Any], outcome: str
) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    assert catalogue.read_wheel(wheel).smoke_test.outcome == "not run"
    write_report(wheel, **report)
    assert catalogue.read_wheel(wheel).smoke_test.outcome == outcome


# --- the wheels of earlier releases -----------------------------------------------------------------


def test_the_wheels_of_an_earlier_index_are_kept_and_equal_names_replaced(
    wheelhouse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = write(wheelhouse, tmp_path / "earlier", "--base-url", "https://example.invalid/v1/")
    new = tmp_path / "new"
    (wheel,) = make_ours(new, NATIVE)
    make_wheel(new, NATIVE, ["torch==2.11.*"], "==3.12.*", code="fixed = True\n")
    write_record(wheel)
    site = write(
        new,
        tmp_path / "site",
        "--base-url",
        "https://example.invalid/v2/",
        "--previous",
        str(earlier / "wheels.json"),
    )
    links = Links(site / "cu130" / "sageattention" / "index.html")
    assert {link["href"].split("/")[3]: name for link, name in zip(links.found, links.text, strict=True)} == {
        "v1": UNIVERSAL,
        "v2": NATIVE,
    }
    assert (site / "cu128" / "sageattention" / "index.html").is_file()
    assert NATIVE in capsys.readouterr().err
    assert len(json.loads((site / "wheels.json").read_text())["wheels"]) == 5


def test_an_earlier_index_that_can_not_be_had_stops_the_new_one(
    wheelhouse: Path, tmp_path: Path, serve: Callable[[Path], Server]
) -> None:
    (tmp_path / "www").mkdir()
    address = serve(tmp_path / "www").url
    write(wheelhouse, tmp_path / "site", "--previous", f"{address}wheels.json")
    before = tree(tmp_path / "site")
    with pytest.raises(UsageError, match="serves it itself"):
        write(wheelhouse, tmp_path / "site", "--previous", str(tmp_path / "site" / "wheels.json"))
    (tmp_path / "www" / "wheels.json").write_text("<html>Sorry")
    with pytest.raises(UsageError, match="is not an index"):
        write(wheelhouse, tmp_path / "site", "--previous", f"{address}wheels.json")
    with pytest.raises(DownloadError, match="does not answer"):
        write(wheelhouse, tmp_path / "site", "--previous", "http://127.0.0.1:9/wheels.json")
    assert tree(tmp_path / "site") == before


# --- the page ---------------------------------------------------------------------------------------


def test_the_page_lists_every_wheel_with_its_facts(wheelhouse: Path, tmp_path: Path) -> None:
    write_report(wheelhouse / NATIVE)
    write_record(wheelhouse / OLDER_CUDA, source={"verified": False})
    page = (write(wheelhouse, tmp_path / "site") / "index.html").read_text()
    for name in (NATIVE, NATIVE_BASIC, UNIVERSAL, UNIVERSAL_BASIC, OLDER_CUDA):
        assert page.count(sha256((wheelhouse / name).read_bytes())) == 1
    rows = re.findall(r'<tr role="row"><td.*?</tr>', page)
    texts = [re.sub(r"<[^>]+>", " ", row).split() for row in rows]
    assert len(rows) == 5
    native = texts[1]
    assert native[:9] == ["2.2.0", "3.12", "2.11", "13.0", "8.0", "8.6", "8.9", "9.0a", "12.0"]
    assert native[9:15] == ["passed", "NVIDIA", "H100,", "torch", "2.11.0+cu130:", "120"]
    assert texts[0][13:15] == ["not", "run"]
    assert sum("source not verified" in row for row in rows) == 1


def test_the_page_needs_nothing_from_elsewhere_and_its_policy_fits_it(
    wheelhouse: Path, tmp_path: Path
) -> None:
    page = (write(wheelhouse, tmp_path / "site", "--base-url", TORCH_BASE) / "index.html").read_text()
    assert re.findall(r"<(?:img|iframe|object|embed|audio|video)\b", page) == []
    assert re.findall(r"<(?:script|link)\b[^>]*\b(?:src|href)=\"(?!data:)", page) == []
    assert "@import" not in page
    assert "url(" not in page
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in page


def test_what_records_say_can_not_become_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    make_ours(tmp_path / "wheelhouse", NATIVE, architectures=[evil])
    write_report(tmp_path / "wheelhouse" / NATIVE, headline=evil, environment={"gpu": evil})
    page = (
        write(tmp_path / "wheelhouse", tmp_path / "site", "--repository", evil) / "index.html"
    ).read_text()
    assert "<script>alert" not in page


def test_install_lines_are_there_without_script(wheelhouse: Path, tmp_path: Path) -> None:
    page = (
        write(wheelhouse, tmp_path / "site", "--site-url", "https://me.example/w") / "index.html"
    ).read_text()
    outside_of_script = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert (
        '"sageattention==2.2.0" "torch==2.10.*" --extra-index-url https://me.example/w/cu128/'
        in outside_of_script
    )
    assert '"sageattention==2.2.0" "torch==2.10.*" --index https://me.example/w/cu130/' in outside_of_script


# --- real pip and real uv -------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    """A plain file server that keeps what was asked of it."""

    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


class Server:
    """A file server on the loopback address."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        handler = type("Recording", (Handler,), {"asked": self.asked})
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(handler, directory=str(folder))
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        forever = {"poll_interval": 0.01}
        threading.Thread(target=self._server.serve_forever, kwargs=forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    servers: list[Server] = []

    def start(folder: Path) -> Server:
        servers.append(Server(folder))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def native_name(torch: str, *, minor: int = MINOR, platform: str = "manylinux_2_17_x86_64") -> str:
    """A native wheel for the Python that runs this, or for another one; of a glibc that each system has."""
    return f"sageattention-2.2.0+cu130.torch{torch}-cp3{minor}-cp3{minor}-{platform}.whl"


def universal_name() -> str:
    return "sageattention-2.2.0+cu130.universal-cp310-abi3-manylinux_2_17_x86_64.whl"


def make_native(folder: Path, torch: str = "2.11", *, minor: int = MINOR, **name: str) -> Path:
    return make_wheel(
        folder, native_name(torch, minor=minor, **name), [f"torch=={torch}.*"], f"==3.{minor}.*"
    )


def make_universal(folder: Path) -> Path:
    return make_wheel(folder, universal_name(), ["torch>=2.10"], ">=3.10")


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
    """A command that runs real pip, from an environment of its own."""
    folder = tmp_path_factory.mktemp("pip")
    venv.create(folder, with_pip=True)
    return [str(folder / "bin" / "python"), "-m", "pip"]


class Client:
    """pip or uv, installing into a clean environment from the site under test and a made-up default index.

    The default index has what the real one has: torch, and a `sageattention` 1.0.6 that fits everywhere.
    """

    def __init__(self, tool: str, command: list[str], tmp_path: Path, server: Server) -> None:
        self.python = tmp_path / "environment" / "bin" / "python"
        venv.create(tmp_path / "environment", with_pip=False)
        default, extra = f"{server.url}default/", f"{server.url}site/cu130/"
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
    request: pytest.FixtureRequest, tmp_path: Path, pip: list[str], serve: Callable[[Path], Server]
) -> Client:
    default = tmp_path / "www" / "default"
    for torch in ("2.10.0", "2.11.0", "2.12.0"):
        make_wheel(default / "torch", f"torch-{torch}-py3-none-any.whl")
    make_wheel(default / "sageattention", "sageattention-1.0.6-py3-none-any.whl")
    for project in ("torch", "sageattention"):
        names = sorted(path.name for path in (default / project).glob("*.whl"))
        (default / project / "index.html").write_text(
            "".join(f'<a href="{name}">{name}</a>' for name in names)
        )
    command = pip if request.param == "pip" else [sys.executable, "-m", "uv"]
    return Client(request.param, command, tmp_path, serve(tmp_path / "www"))


def publish(tmp_path: Path) -> None:
    write(tmp_path / "wheelhouse", tmp_path / "www" / "site")


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
    told = {
        "other Python": "sageattention",
        "other platform": "sageattention",
        "other torch": "torch",
        "other bytes": "[Hh]ash",
    }
    assert re.search(told[case], output)


@pytest.mark.e2e
def test_the_metadata_file_spares_the_download_of_wheels_that_are_not_taken(
    tmp_path: Path, pip: list[str], serve: Callable[[Path], Server]
) -> None:
    for torch in ("2.10", "2.11"):
        make_native(tmp_path / "wheelhouse", torch)
    default = tmp_path / "www" / "default" / "torch"
    make_wheel(default, "torch-2.10.0-py3-none-any.whl")
    (default / "index.html").write_text(
        '<a href="torch-2.10.0-py3-none-any.whl">torch-2.10.0-py3-none-any.whl</a>'
    )
    publish(tmp_path)
    server = serve(tmp_path / "www")
    client = Client("pip", pip, tmp_path, server)
    assert client.install("sageattention")[0] == 0
    assert client.installed()["sageattention"] == "2.2.0+cu130.torch2.10"
    asked = [path for path in server.asked if "torch2.11" in path]
    assert asked == [f"/site/cu130/sageattention/{native_name('2.11').replace('+', '%2B')}.metadata"]


# --- a real browser ---------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium, driven by its own driver; nothing is downloaded for it."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on PATH (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=service.Service(driver))
    yield started
    started.quit()


@pytest.mark.e2e
def test_the_picker_prints_the_line_for_the_visitors_versions(
    wheelhouse: Path, tmp_path: Path, serve: Callable[[Path], Server], browser: Any
) -> None:
    select = pytest.importorskip("selenium.webdriver.support.ui").Select
    address = serve(write(wheelhouse, tmp_path / "site")).url
    browser.get(address)

    def pick(name: str, value: str) -> None:
        select(browser.find_element("id", name)).select_by_visible_text(value)

    def shown(name: str) -> str:
        text: str = browser.find_element("id", name).text
        return text

    pick("python", "3.11")
    pick("cuda", "12.8")
    pick("torch", "2.10")
    wanted = '"sageattention==2.2.0+cu128.torch2.10" "torch==2.10.*"'
    assert shown("pip") == f"python -m pip install {wanted} --extra-index-url {address}cu128/"
    assert shown("uv") == f"uv pip install {wanted} --index {address}cu128/"
    pick("python", "3.13")
    assert shown("answer").startswith("No wheel fits Python 3.13 with torch 2.10.")
    assert not browser.find_element("id", "pip").is_displayed()
    pick("cuda", "13.0")
    pick("torch", "2.12 or newer")
    browser.find_element("id", "fresh").click()
    assert shown("pip") == (
        'python -m pip install "sageattention==2.2.0+cu130.universal" "torch>=2.12" '
        f"--extra-index-url {address}cu130/ --extra-index-url https://download.pytorch.org/whl/cu130"
    )
    assert browser.get_log("browser") == []


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")]
)
def test_the_page_fits_the_screen_and_the_visitors_colours(
    wheelhouse: Path, tmp_path: Path, serve: Callable[[Path], Server], browser: Any, width: int, scheme: str
) -> None:
    for command, values in (
        ("setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        (
            "setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
        ),
    ):
        browser.execute_cdp_cmd(f"Emulation.{command}", values)
    browser.get(serve(write(wheelhouse, tmp_path / "site")).url)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert _contrasts(browser) == []
    unlabelled = browser.execute_script(
        "return [...document.querySelectorAll('select, input')].filter(f => !f.labels.length).map(f => f.id)"
    )
    assert unlabelled == []
    reached = _reached_by_keyboard(browser, 6)
    assert reached == ["python", "cuda", "torch", "fresh", "pip", "Copy the pip line"]


def _reached_by_keyboard(browser: Any, presses: int) -> list[str]:
    reached = []
    for _ in range(presses):
        browser.switch_to.active_element.send_keys("\ue004")  # Tab
        element = browser.switch_to.active_element
        reached.append(element.get_attribute("id") or " ".join(element.get_attribute("textContent").split()))
    return reached


def _contrasts(browser: Any) -> list[str]:
    """Texts whose contrast with what is behind them is below 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    found: list[str] = browser.execute_script(
        """
        const parse = (text) => text.match(/[\\d.]+/g).map(Number);
        const luminance = (rgb) => rgb.slice(0, 3).map((value) => value / 255)
          .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
          .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = (element) => {
          for (let e = element; e; e = e.parentElement) {
            const colour = parse(getComputedStyle(e).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
          }
          return [255, 255, 255];
        };
        return [...document.querySelectorAll('body *')]
          .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && e.offsetParent)
          .map((e) => {
            const colours = [parse(getComputedStyle(e).color), behind(e)];
            const pair = colours.map(luminance).sort((a, b) => b - a);
            return [(pair[0] + 0.05) / (pair[1] + 0.05), e.tagName + ' ' + e.textContent.trim().slice(0, 40)];
          })
          .filter(([ratio]) => ratio < 4.5).map(([ratio, text]) => ratio.toFixed(2) + ' ' + text);
        """
    )
    return found

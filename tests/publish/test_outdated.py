"""Watching for newer versions: against a server on this machine that plays every source."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from builder.publish import outdated
from builder.publish.newer import Change
from builder.publish.outdated import Answer, exit_status
from builder.publish.web import Web
from builder.target.architectures import Architecture
from builder.target.targets import load_targets
from builder.util.errors import TargetError
from builder.util.github.api import Api

COMMIT = "e" * 40
SHA = "a" * 64
REDIST = "https://developer.download.nvidia.com/compute/cuda/redist/"
ARCHIVE = "cuda_nvcc/linux-x86_64/cuda_nvcc-linux-x86_64-12.8.93-archive.tar.xz"
NEWER_ARCHIVE = "cuda_nvcc/linux-x86_64/cuda_nvcc-linux-x86_64-12.8.95-archive.tar.xz"


class Handler(http.server.BaseHTTPRequestHandler):
    wbufsize = -1
    pages: dict[str, tuple[int, str]]

    def do_GET(self) -> None:
        status, text = self.pages.get(urlsplit(self.path).path, (404, '{"message": "Not Found"}'))
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text.startswith(("{", "[")) else "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


class World:
    """Every source, played, and a checkout that pins the newest of each."""

    def __init__(self, url: str, pages: dict[str, tuple[int, str]], folder: Path) -> None:
        self.url, self.pages, self.folder = url, pages, folder

    def json(self, path: str, values: Any) -> None:
        self.pages[path] = (200, json.dumps(values))

    def links(self, path: str, *names: str) -> None:
        self.pages[path] = (
            200,
            "".join(f'<a href="/whl/{name.replace("+", "%2B")}">{name}</a>' for name in names),
        )

    def package(self, name: str, *versions: str) -> None:
        """Put versions of a package on the played default index: their names are all that is asked for."""
        names = [
            f"{name.replace('-', '_')}-{version}-py3-none-manylinux_2_17_x86_64.whl" for version in versions
        ]
        self.links(f"/simple/{name}/", *names)

    def run(self, *arguments: str) -> int:
        given = ["--targets", str(self.folder / "targets"), "--patches", str(self.folder / "patches")]
        given += ["--api-url", f"{self.url}/api"]
        given += ["--mirror", f"https://download.pytorch.org={self.url}/torch"]
        given += ["--mirror", f"https://developer.download.nvidia.com={self.url}/nvidia"]
        return outdated.main([*given, *arguments])


TARGET = """
abi = "native"
python = "{python}"
cuda = "{cuda}"
torch = "{torch}"
torch_index = "https://download.pytorch.org/whl/{tag}"
architectures = ["8.0", "9.0a"]
platform_tag = "manylinux_2_34_x86_64"
upstream = "v2.2.0"
"""

UPSTREAM = f"""
version = "2.2.0"
tag = "v2.2.0"
commit = "{COMMIT}"
url = "https://github.com/thu-ml/SageAttention/archive/refs/tags/v2.2.0.tar.gz"
sha256 = "{SHA}"
source_date_epoch = 1761613216
license = "Apache-2.0"
architectures = ["8.0", "9.0a"]
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    pages: dict[str, tuple[int, str]] = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Playing", (Handler,), {"pages": pages}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    made = World(f"http://127.0.0.1:{server.server_port}", pages, tmp_path)
    for name, value in {
        "UV_DEFAULT_INDEX": f"{made.url}/simple",
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv-cache"),
        "UV_HTTP_RETRIES": "0",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in (
        "GITHUB_TOKEN",
        "GH_TOKEN",
        "GITHUB_API_URL",
        "UV_INDEX",
        "UV_EXTRA_INDEX_URL",
        "UV_FIND_LINKS",
    ):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "targets"
    (folder / "toolchains").mkdir(parents=True)
    (folder / "cp312-cu130.toml").write_text(
        TARGET.format(python="3.12", cuda="13.0", torch="2.11.0", tag="cu130")
    )
    (folder / "cp311-cu128.toml").write_text(
        TARGET.format(python="3.11", cuda="12.8", torch="2.10.0", tag="cu128")
    )
    (folder / "toolchains" / "cu130.toml").write_text('packages = ["cuda-toolkit[nvcc]==13.0.2"]\n')
    (folder / "toolchains" / "cu128.toml").write_text(
        'packages = ["nvidia-cuda-nvcc-cu12==12.8.93"]\n[[archives]]\nname = "cuda_nvcc"\n'
        f'url = "{REDIST}{ARCHIVE}"\nsha256 = "{SHA}"\nsize_bytes = 100\n'
    )
    (tmp_path / "patches" / "v2.2.0").mkdir(parents=True)
    (tmp_path / "patches" / "v2.2.0" / "upstream.toml").write_text(UPSTREAM)
    (tmp_path / "patches" / "v2.2.0" / "upstream.sha256").write_text(f"{SHA}  setup.py\n")

    made.json("/api/repos/thu-ml/SageAttention", {"default_branch": "main"})
    made.json(
        "/api/repos/thu-ml/SageAttention/tags",
        [{"name": "v2.2.0", "commit": {"sha": COMMIT}}, {"name": "v2.1.1", "commit": {"sha": "1" * 40}}],
    )
    made.json(f"/api/repos/thu-ml/SageAttention/compare/{COMMIT}...main", {"ahead_by": 0, "commits": []})
    made.links("/torch/whl/cu130/torch/", *torch_names("2.11.0+cu130", "312"))
    made.links("/torch/whl/cu128/torch/", *torch_names("2.10.0+cu128", "311"))
    made.package("cuda-toolkit", "13.0.1", "13.0.2", "13.1.0")
    made.package("nvidia-cuda-nvcc-cu12", "12.8.93", "12.9.86")
    made.links("/nvidia/compute/cuda/redist/", "redistrib_12.8.1.json", "redistrib_12.9.0.json", "cuda_nvcc/")
    manifest(made, "12.8.1", ARCHIVE, SHA)
    yield made
    server.shutdown()
    server.server_close()


def torch_names(version: str, python: str) -> list[str]:
    return [
        f"torch-{version}-cp{python}-cp{python}-manylinux_2_28_x86_64.whl",
        f"torch-99.0.0-cp{python}-cp{python}-win_amd64.whl",
        "torch-98.0.0-cp313-cp313-manylinux_2_28_x86_64.whl",
        f"torch-97.0.0-cp{python}-cp{python}-manylinux_2_28_aarch64.whl",
        f"torch-96.0.0rc1-cp{python}-cp{python}-manylinux_2_28_x86_64.whl",
        "not a wheel",
    ]


def manifest(world: World, version: str, path: str, sha256: str) -> None:
    part = {"relative_path": path, "sha256": sha256, "size": "100"}
    world.json(f"/nvidia/compute/cuda/redist/redistrib_{version}.json", {"cuda_nvcc": {"linux-x86_64": part}})


def test_each_machine_is_asked_for_its_own_torch_and_packages(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    arm = TARGET.format(python="3.12", cuda="13.0", torch="2.11.0", tag="cu130").replace("x86_64", "aarch64")
    (world.folder / "targets" / "cp312-cu130-aarch64.toml").write_text(arm)
    with (world.folder / "targets" / "toolchains" / "cu130.toml").open("a") as file:
        file.write('runtime = ["cuda-toolkit[cudart]==13.0.1"]\n')
    assert world.run() == 20
    said = capsys.readouterr().out
    assert "cp312-cu130-aarch64.toml: torch: 2.11.0 -> 97.0.0" in said
    assert "up to date   torch for cp312-cu130 " in said
    assert "CUDA 13.0 packages for x86_64" in said
    assert "NOT ASKED    CUDA 13.0 packages for aarch64" in said, "the index has them for x86_64 only"
    change = "cu130.toml: runtime: cuda-toolkit[cudart]==13.0.1 -> cuda-toolkit[cudart]==13.0.2"
    assert said.count(change) == 1


def test_nothing_newer_is_zero_and_every_source_is_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["up to date"] * 7
    assert sum("SageAttention" in line for line in lines) == 2
    assert sum("torch for cp31" in line for line in lines) == 2


def test_newer_versions_are_twenty_and_say_what_to_change(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = [
        {"name": name, "commit": {"sha": COMMIT}}
        for name in ("v2.2.0", "v2.10.0", "v2.9.0", "v3.0.0rc1", "demo")
    ]
    world.json("/api/repos/thu-ml/SageAttention/tags", tags)
    commits = [
        {"sha": str(number) * 40, "commit": {"message": f"Mend {number}\n\nMore"}} for number in (1, 2)
    ]
    world.json(
        f"/api/repos/thu-ml/SageAttention/compare/{COMMIT}...main", {"ahead_by": 2, "commits": commits}
    )
    world.links(
        "/torch/whl/cu130/torch/", *torch_names("2.12.1+cu130", "312"), *torch_names("2.11.0+cu130", "312")
    )
    world.package("cuda-toolkit", "13.0.2", "13.0.3", "13.1.0")
    manifest(world, "12.8.2", NEWER_ARCHIVE, "b" * 64)
    world.links("/nvidia/compute/cuda/redist/", "redistrib_12.8.1.json", "redistrib_12.8.2.json")
    assert world.run() == 20
    printed = capsys.readouterr().out
    cu128 = "targets/toolchains/cu128.toml"
    for line in (
        "patches/v2.2.0/upstream.toml: tag: v2.2.0 -> v2.10.0",
        f"patches/v2.2.0/upstream.toml: commit: {COMMIT[:12]} -> {'2' * 12}",
        "targets/cp312-cu130.toml: torch: 2.11.0 -> 2.12.1",
        "targets/toolchains/cu130.toml: packages: cuda-toolkit[nvcc]==13.0.2 -> cuda-toolkit[nvcc]==13.0.3",
        f"{cu128}: archives[cuda_nvcc].url: {REDIST}{ARCHIVE} -> {REDIST}{NEWER_ARCHIVE}",
        f"{cu128}: archives[cuda_nvcc].sha256: {SHA} -> {'b' * 64}",
    ):
        assert f"  {line}\n" in printed
    assert "2 commits on main, newest: Mend 2. " in printed
    assert len(re.findall(r"^  \S.*->", printed, re.MULTILINE)) == 6


BROKEN = {
    "releases": "/api/repos/thu-ml/SageAttention/tags",
    "commits": f"/api/repos/thu-ml/SageAttention/compare/{COMMIT}...main",
    "torch": "/torch/whl/cu130/torch/",
    "packages": "/simple/cuda-toolkit/",
    "archives": "/nvidia/compute/cuda/redist/redistrib_12.8.1.json",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("answer", [(404, "gone"), (200, "<html>Please log in</html>"), (200, "{}")])
def test_a_source_that_did_not_answer_is_never_up_to_date(
    world: World, capsys: pytest.CaptureFixture[str], kind: str, answer: tuple[int, str]
) -> None:
    others = [argument for other in BROKEN if other != kind for argument in ("--ignore", other)]
    world.pages[BROKEN[kind]] = answer
    assert world.run(*others) == 21
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("NOT ASKED") for line in lines) == 1
    assert sum(line.startswith("up to date") for line in lines) == (1 if kind in ("torch", "packages") else 0)
    assert world.run(*others, "--ignore", kind) == 0


def test_something_newer_counts_though_another_source_is_down(world: World) -> None:
    world.pages["/torch/whl/cu128/torch/"] = (404, "gone")
    world.links("/torch/whl/cu130/torch/", *torch_names("2.11.1+cu130", "312"))
    assert world.run("--ignore", "packages") == 20


def test_a_moved_tag_is_reported(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.json("/api/repos/thu-ml/SageAttention/tags", [{"name": "v2.2.0", "commit": {"sha": "f" * 40}}])
    assert world.run("--ignore", "packages") == 20
    assert f"commit: {COMMIT} -> {'f' * 40}\n      The tag was moved" in capsys.readouterr().out


def test_a_manifest_with_a_different_digest_at_the_same_address_is_reported(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(world, "12.8.1", ARCHIVE, "c" * 64)
    assert world.run("--ignore", "packages") == 20
    assert "find out why before you build" in capsys.readouterr().out


def test_a_pinned_torch_that_is_gone_is_reported(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.links("/torch/whl/cu130/torch/", *torch_names("2.10.0+cu130", "312"))
    assert world.run("--ignore", "packages") == 20
    assert "no longer has the pinned one" in capsys.readouterr().out


def test_a_target_with_a_compiler_of_its_own_names_its_own_file(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    own = world.folder / "targets" / "cp312-cu130.toml"
    own.write_text(own.read_text() + '[toolchain]\npackages = ["cuda-toolkit[nvcc]==13.0.1"]\n')
    assert world.run() == 20
    change = "toolchain.packages: cuda-toolkit[nvcc]==13.0.1 -> cuda-toolkit[nvcc]==13.0.2"
    assert f"targets/cp312-cu130.toml: {change}\n" in capsys.readouterr().out


def test_a_wrong_target_is_an_error_of_its_own(world: World) -> None:
    (world.folder / "targets" / "cp312-cu130.toml").write_text("torch = 1\n")
    with pytest.raises(TargetError):
        world.run()


def test_exit_status() -> None:
    fine, down = Answer("torch", "a"), Answer("torch", "b", problem="down")
    newer = Answer("torch", "c", changes=(Change("f", "k", "1", "2"),))
    assert exit_status([fine]) == 0
    assert exit_status([fine, down]) == 21
    assert exit_status([fine, newer]) == 20
    assert exit_status([fine, newer, down]) == 20


def test_the_targets_of_this_checkout_can_be_asked_about() -> None:
    """Every source has an address: the sessions' own files are of the form that is watched."""
    root = Path(__file__).resolve().parents[2]
    targets = load_targets(root / "targets", root / "patches")
    questions = list(
        outdated._questions(
            targets,
            root / "targets",
            root / "patches",
            Web({}),
            Api("https://x.invalid", None),
        )
    )
    assert sorted({kind for kind, _, _ in questions}) == sorted(outdated.KINDS)
    assert sum(kind == "torch" for kind, _, _ in questions) == len(targets)
    assert Architecture.parse("9.0a") in next(iter(targets.values())).architectures

"""Watching for newer versions: against a server on this machine that plays every source."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.static_server import StaticServer

from builder.publish import outdated

COMMIT, SHA = "e" * 40, "a" * 64
ARCHIVE = "cuda_nvcc/linux-x86_64/cuda_nvcc-linux-x86_64-12.8.93-archive.tar.xz"
NEWER_ARCHIVE = ARCHIVE.replace("12.8.93", "12.8.95")
API = "api/repos/thu-ml/SageAttention"

TARGET = """
abi = "native"
python = "{python}"
cuda = "{cuda}"
torch = "{torch}"
torch_index = "{url}/whl/{tag}"
architectures = ["8.0", "9.0a"]
platform_tag = "manylinux_2_34_x86_64"
upstream = "v2.2.0"
"""


class Sources:
    """Every source, played by a static server, and a checkout that pins the newest of each."""

    def __init__(self, folder: Path, server: StaticServer) -> None:
        self.folder, self.server = folder, server
        for python, cuda, torch in (("3.12", "13.0", "2.11.0"), ("3.11", "12.8", "2.10.0")):
            tag, interpreter = f"cu{cuda.replace('.', '')}", python.replace(".", "")
            text = TARGET.format(python=python, cuda=cuda, torch=torch, tag=tag, url=server.url)
            self.pin(f"targets/cp{interpreter}-{tag}.toml", text)
            self.torch(tag, f"{torch}+{tag}", interpreter)
        self.pin("targets/toolchains/cu130.toml", 'packages = ["cuda-toolkit[nvcc]==13.0.2"]\n')
        archive = (
            f'name = "cuda_nvcc"\nurl = "{server.url}/redist/{ARCHIVE}"\nsha256 = "{SHA}"\nsize_bytes = 100\n'
        )
        packages = 'packages = ["nvidia-cuda-nvcc-cu12==12.8.93"]\n'
        self.pin("targets/toolchains/cu128.toml", f"{packages}[[archives]]\n{archive}")
        shutil.copytree(Path(__file__).parents[2] / "patches", folder / "patches")
        upstream = folder / "patches" / "v2.2.0" / "upstream.toml"
        upstream.write_text(re.sub(r'(?m)^commit = ".*"', f'commit = "{COMMIT}"', upstream.read_text()))

        self.tags(**{"v2.2.0": COMMIT, "v2.1.1": "1" * 40})
        self.serve(f"{API}/compare/{COMMIT}...HEAD", {"ahead_by": 0})
        self.package("cuda-toolkit", "13.0.1", "13.0.2", "13.1.0")
        self.package("nvidia-cuda-nvcc-cu12", "12.8.93", "12.9.86")
        self.links("redist/", "redistrib_12.8.1.json", "redistrib_12.80.1.json", "redistrib_12.9.0.json")
        self.manifest("12.8.1", ARCHIVE, SHA)

    def pin(self, path: str, text: str) -> None:
        """Write a file of the checkout."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def serve(self, path: str, content: object) -> None:
        file = self.server.folder / path
        file = file / "index.html" if path.endswith("/") else file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))

    def links(self, path: str, *names: str) -> None:
        self.serve(path, "".join(f'<a href="{name.replace("+", "%2B")}">{name}</a>' for name in names))

    def tags(self, **commits: str) -> None:
        tags = [{"name": name, "commit": {"sha": sha, "url": "x"}} for name, sha in commits.items()]
        self.serve(f"{API}/tags", tags)

    def package(self, name: str, *versions: str) -> None:
        """Put versions of a package on the default index: their names are all that is asked for."""
        stem = name.replace("-", "_")
        self.links(f"simple/{name}/", *(f"{stem}-{v}-py3-none-manylinux_2_17_x86_64.whl" for v in versions))

    def torch(self, tag: str, version: str, python: str) -> None:
        """Put a torch on PyTorch's index, among newer ones that are for something else."""
        names = (
            f"torch-{version}-cp{python}-cp{python}-manylinux_2_28_x86_64.whl",
            f"torch-99.0.0-cp{python}-cp{python}-win_amd64.whl",
            "torch-98.0.0-cp313-cp313-manylinux_2_28_x86_64.whl",
            f"torch-97.0.0-cp{python}-cp{python}-manylinux_2_28_aarch64.whl",
            f"torch-96.0.0rc1-cp{python}-cp{python}-manylinux_2_28_x86_64.whl",
        )
        self.links(f"whl/{tag}/torch/", *names)

    def manifest(self, version: str, path: str, sha256: str) -> None:
        part = {"relative_path": path, "sha256": sha256, "size": "100"}
        self.serve(f"redist/redistrib_{version}.json", {"cuda_nvcc": {"linux-x86_64": part}})

    def run(self, *arguments: str) -> int:
        folders = ["--targets", str(self.folder / "targets"), "--patches", str(self.folder / "patches")]
        return outdated.main([*folders, "--api-url", f"{self.server.url}/api", *arguments])


@pytest.fixture
def sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], StaticServer]
) -> Sources:
    server = serve(tmp_path / "www")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for name, value in {
        "UV_DEFAULT_INDEX": f"{server.url}/simple",
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv-cache"),
        "UV_HTTP_RETRIES": "0",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("GITHUB_TOKEN", "GH_TOKEN", "GITHUB_API_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return Sources(tmp_path, server)


def test_nothing_newer_is_zero_and_every_source_is_named(
    sources: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sources.run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["up to date"] * 7
    assert sum("SageAttention" in line for line in lines) == 2
    assert sum("torch for cp31" in line for line in lines) == 2


def test_newer_versions_are_twenty_and_say_what_to_change(
    sources: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.tags(**{"v2.2.0": "f" * 40}, **dict.fromkeys(("v2.10.0", "v2.9.0", "v3.0.0rc1", "demo"), COMMIT))
    sources.serve(f"{API}/compare/{COMMIT}...HEAD", {"ahead_by": 2})
    sources.serve(f"{API}/commits/HEAD", {"sha": "2" * 40, "commit": {"message": "Mend 2\n\nMore"}})
    sources.torch("cu130", "2.12.1+cu130", "312")
    sources.package("cuda-toolkit", "13.0.2", "13.0.3", "13.1.0")
    sources.manifest("12.8.10", NEWER_ARCHIVE, "b" * 64)
    sources.links("redist/", "redistrib_12.8.1.json", "redistrib_12.8.10.json", "redistrib_12.8.9.json")
    assert sources.run() == 20
    cu128, redist = "targets/toolchains/cu128.toml: archives[cuda_nvcc]", f"{sources.server.url}/redist/"
    assert capsys.readouterr().out.partition("To change:\n")[2].splitlines() == [
        f"  patches/v2.2.0/upstream.toml: commit: {COMMIT} -> {'f' * 40} (the tag was moved: see why)",
        "  patches/v2.2.0/upstream.toml: tag: v2.2.0 -> v2.10.0",
        f"  patches/v2.2.0/upstream.toml: commit: {COMMIT[:12]} -> {'2' * 12} (2 not released: Mend 2)",
        "  targets/cp312-cu130.toml: torch: 2.11.0 -> 2.12.1",
        f"  {cu128}.url: {redist}{ARCHIVE} -> {redist}{NEWER_ARCHIVE}",
        f"  {cu128}.sha256: {SHA} -> {'b' * 64}",
        "  targets/toolchains/cu130.toml: packages: cuda-toolkit[nvcc]==13.0.2 -> cuda-toolkit[nvcc]==13.0.3",
    ]


def test_each_machine_is_asked_for_its_own_torch_and_packages(
    sources: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    target = (sources.folder / "targets" / "cp312-cu130.toml").read_text()
    sources.pin("targets/cp312-cu130-aarch64.toml", target.replace("x86_64", "aarch64"))
    assert sources.run("--ignore", "archives", "--ignore", "releases", "--ignore", "commits") == 20
    printed = capsys.readouterr().out
    assert "cp312-cu130-aarch64.toml: torch: 2.11.0 -> 97.0.0" in printed
    assert "up to date   torch for cp312-cu130 " in printed
    assert "NO ANSWER    CUDA 13.0 packages for aarch64" in printed, "the index has them for x86_64 only"


BROKEN = {
    "releases": f"{API}/tags",
    "commits": f"{API}/compare/{COMMIT}...HEAD",
    "torch": "whl/cu130/torch/index.html",
    "packages": "simple/cuda-toolkit/index.html",
    "archives": "redist/redistrib_12.8.1.json",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_source_that_did_not_answer_is_never_up_to_date(
    sources: Sources, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    others = [argument for other in BROKEN if other != kind for argument in ("--ignore", other)]
    for content in ("<html>Please log in</html>", "{}"):
        sources.serve(BROKEN[kind], content)
        assert sources.run(*others) == 21
        lines = capsys.readouterr().out.splitlines()
        assert sum(line.startswith("NO ANSWER") for line in lines) == 1
        assert sum(line.startswith("up to date") for line in lines) == (kind in ("torch", "packages"))
    assert sources.run(*others, "--ignore", kind) == 0

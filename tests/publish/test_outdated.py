"""Watching for newer versions: against a server on this machine that plays every source."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.static_server import StaticServer

from builder.publish import github_api, outdated
from builder.target.targets import load_targets
from builder.util.errors import TargetError

COMMIT = "e" * 40
SHA = "a" * 64
ARCHIVE = "cuda_nvcc/linux-x86_64/cuda_nvcc-linux-x86_64-12.8.93-archive.tar.xz"
NEWER_ARCHIVE = "cuda_nvcc/linux-x86_64/cuda_nvcc-linux-x86_64-12.8.95-archive.tar.xz"
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

UPSTREAM = f"""
version = "2.2.0"
revision = 2
tag = "v2.2.0"
commit = "{COMMIT}"
url = "https://github.com/thu-ml/SageAttention/archive/refs/tags/v2.2.0.tar.gz"
sha256 = "{SHA}"
source_date_epoch = 1761613216
license = "Apache-2.0"
architectures = ["8.0", "9.0a"]
"""


class Sources:
    """Every source, played by a static server, and a checkout that pins the newest of each."""

    def __init__(self, folder: Path, server: StaticServer) -> None:
        self.folder, self.server = folder, server

    def write(self, path: str, content: object) -> None:
        file = self.server.folder / path
        file = file / "index.html" if path.endswith("/") else file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))

    def links(self, path: str, *names: str) -> None:
        self.write(path, "".join(f'<a href="{name.replace("+", "%2B")}">{name}</a>' for name in names))

    def package(self, name: str, *versions: str) -> None:
        """Put versions of a package on the default index: their names are all that is asked for."""
        distribution = name.replace("-", "_")
        self.links(
            f"simple/{name}/", *(f"{distribution}-{v}-py3-none-manylinux_2_17_x86_64.whl" for v in versions)
        )

    def torch(self, tag: str, *names: str) -> None:
        self.links(f"whl/{tag}/torch/", *names)

    def manifest(self, version: str, path: str, sha256: str) -> None:
        part = {"relative_path": path, "sha256": sha256, "size": "100"}
        self.write(f"redist/redistrib_{version}.json", {"cuda_nvcc": {"linux-x86_64": part}})

    def run(self, *arguments: str) -> int:
        folders = ["--targets", str(self.folder / "targets"), "--patches", str(self.folder / "patches")]
        return outdated.main([*folders, "--api-url", f"{self.server.url}/api", *arguments])


def torch_names(version: str, python: str) -> list[str]:
    return [
        f"torch-{version}-cp{python}-cp{python}-manylinux_2_28_x86_64.whl",
        f"torch-99.0.0-cp{python}-cp{python}-win_amd64.whl",
        "torch-98.0.0-cp313-cp313-manylinux_2_28_x86_64.whl",
        f"torch-97.0.0-cp{python}-cp{python}-manylinux_2_28_aarch64.whl",
        f"torch-96.0.0rc1-cp{python}-cp{python}-manylinux_2_28_x86_64.whl",
    ]


@pytest.fixture
def sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], StaticServer]
) -> Sources:
    made = Sources(tmp_path, serve(tmp_path / "www"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for name, value in {
        "UV_DEFAULT_INDEX": f"{made.server.url}/simple",
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv-cache"),
        "UV_HTTP_RETRIES": "0",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("GITHUB_TOKEN", "GH_TOKEN", "GITHUB_API_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "targets"
    (folder / "toolchains").mkdir(parents=True)
    for python, cuda, torch in (("3.12", "13.0", "2.11.0"), ("3.11", "12.8", "2.10.0")):
        cuda_tag, interpreter = f"cu{cuda.replace('.', '')}", python.replace(".", "")
        text = TARGET.format(python=python, cuda=cuda, torch=torch, tag=cuda_tag, url=made.server.url)
        (folder / f"cp{interpreter}-{cuda_tag}.toml").write_text(text)
        made.torch(cuda_tag, *torch_names(f"{torch}+{cuda_tag}", interpreter))
    (folder / "toolchains" / "cu130.toml").write_text('packages = ["cuda-toolkit[nvcc]==13.0.2"]\n')
    (folder / "toolchains" / "cu128.toml").write_text(
        'packages = ["nvidia-cuda-nvcc-cu12==12.8.93"]\n[[archives]]\nname = "cuda_nvcc"\n'
        f'url = "{made.server.url}/redist/{ARCHIVE}"\nsha256 = "{SHA}"\nsize_bytes = 100\n'
    )
    (tmp_path / "patches" / "v2.2.0").mkdir(parents=True)
    (tmp_path / "patches" / "v2.2.0" / "upstream.toml").write_text(UPSTREAM)
    (tmp_path / "patches" / "v2.2.0" / "upstream.sha256").write_text(f"{SHA}  setup.py\n")

    made.write(f"{API}/tags", [tag("v2.2.0", COMMIT), tag("v2.1.1", "1" * 40)])
    made.write(f"{API}/compare/{COMMIT}...HEAD", {"ahead_by": 0})
    made.package("cuda-toolkit", "13.0.1", "13.0.2", "13.1.0")
    made.package("nvidia-cuda-nvcc-cu12", "12.8.93", "12.9.86")
    made.links("redist/", "redistrib_12.8.1.json", "redistrib_12.80.1.json", "redistrib_12.9.0.json")
    made.manifest("12.8.1", ARCHIVE, SHA)
    return made


def tag(name: str, commit: str) -> dict[str, Any]:
    return {"name": name, "commit": {"sha": commit, "url": "https://example.invalid"}}


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
    names = ("v2.2.0", "v2.10.0", "v2.9.0", "v3.0.0rc1", "demo")
    sources.write(f"{API}/tags", [tag(name, COMMIT) for name in names])
    sources.write(f"{API}/compare/{COMMIT}...HEAD", {"ahead_by": 2})
    sources.write(f"{API}/commits/HEAD", {"sha": "2" * 40, "commit": {"message": "Mend 2\n\nMore"}})
    sources.torch("cu130", *torch_names("2.12.1+cu130", "312"), *torch_names("2.11.0+cu130", "312"))
    sources.package("cuda-toolkit", "13.0.2", "13.0.3", "13.1.0")
    sources.manifest("12.8.10", NEWER_ARCHIVE, "b" * 64)
    sources.links("redist/", "redistrib_12.8.1.json", "redistrib_12.8.10.json", "redistrib_12.8.9.json")
    assert sources.run() == 20
    printed = capsys.readouterr().out
    cu128, redist = "targets/toolchains/cu128.toml", f"{sources.server.url}/redist/"
    for line in (
        "patches/v2.2.0/upstream.toml: tag: v2.2.0 -> v2.10.0",
        f"patches/v2.2.0/upstream.toml: commit: {COMMIT[:12]} -> {'2' * 12}",
        "targets/cp312-cu130.toml: torch: 2.11.0 -> 2.12.1",
        "targets/toolchains/cu130.toml: packages: cuda-toolkit[nvcc]==13.0.2 -> cuda-toolkit[nvcc]==13.0.3",
        f"{cu128}: archives[cuda_nvcc].url: {redist}{ARCHIVE} -> {redist}{NEWER_ARCHIVE}",
        f"{cu128}: archives[cuda_nvcc].sha256: {SHA} -> {'b' * 64}",
    ):
        assert f"  {line}\n" in printed
    assert "2 commits on the default branch, newest: Mend 2. " in printed
    assert len(re.findall(r"^  \S.*->", printed, re.MULTILINE)) == 6


def test_each_machine_is_asked_for_its_own_torch_and_packages(
    sources: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    target = (sources.folder / "targets" / "cp312-cu130.toml").read_text()
    (sources.folder / "targets" / "cp312-cu130-aarch64.toml").write_text(target.replace("x86_64", "aarch64"))
    with (sources.folder / "targets" / "toolchains" / "cu130.toml").open("a") as file:
        file.write('runtime = ["cuda-toolkit[cudart]==13.0.1"]\n')
    assert sources.run() == 20
    printed = capsys.readouterr().out
    assert "cp312-cu130-aarch64.toml: torch: 2.11.0 -> 97.0.0" in printed
    assert "up to date   torch for cp312-cu130 " in printed
    assert "NO ANSWER    CUDA 13.0 packages for aarch64" in printed, "the index has them for x86_64 only"
    change = "cu130.toml: runtime: cuda-toolkit[cudart]==13.0.1 -> cuda-toolkit[cudart]==13.0.2"
    assert printed.count(change) == 1


BROKEN = {
    "releases": f"{API}/tags",
    "commits": f"{API}/compare/{COMMIT}...HEAD",
    "torch": "whl/cu130/torch/",
    "packages": "simple/cuda-toolkit/",
    "archives": "redist/redistrib_12.8.1.json",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("answer", [None, "<html>Please log in</html>", "{}"])
def test_a_source_that_did_not_answer_is_never_up_to_date(
    sources: Sources, capsys: pytest.CaptureFixture[str], kind: str, answer: str | None
) -> None:
    others = [argument for other in BROKEN if other != kind for argument in ("--ignore", other)]
    if answer is None:
        file = sources.server.folder / BROKEN[kind]
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    else:
        sources.write(BROKEN[kind], answer)
    assert sources.run(*others) == 21
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("NO ANSWER") for line in lines) == 1
    assert sum(line.startswith("up to date") for line in lines) == (1 if kind in ("torch", "packages") else 0)
    assert sources.run(*others, "--ignore", kind) == 0


def test_something_newer_counts_though_another_source_is_down(sources: Sources) -> None:
    sources.torch("cu128")
    sources.torch("cu130", *torch_names("2.11.1+cu130", "312"))
    assert sources.run("--ignore", "packages") == 20


def test_what_moved_changed_or_went_is_reported(sources: Sources, capsys: pytest.CaptureFixture[str]) -> None:
    sources.write(f"{API}/tags", [tag("v2.2.0", "f" * 40)])
    sources.manifest("12.8.1", ARCHIVE, "c" * 64)
    sources.torch("cu130", *torch_names("2.10.0+cu130", "312"))
    assert sources.run("--ignore", "packages") == 20
    printed = capsys.readouterr().out
    assert f"commit: {COMMIT} -> {'f' * 40}\n      The tag was moved" in printed
    assert "find out why before you build" in printed
    assert "no longer has the pinned one" in printed


def test_a_wrong_target_is_an_error_of_its_own(sources: Sources) -> None:
    (sources.folder / "targets" / "cp312-cu130.toml").write_text("torch = 1\n")
    with pytest.raises(TargetError):
        sources.run()


def test_the_targets_of_this_checkout_can_be_asked_about() -> None:
    root = Path(__file__).resolve().parents[2]
    targets = load_targets(root / "targets", root / "patches")
    github = github_api.connect("https://x.invalid", None)
    asked = [kind for kind, *_ in outdated._sources(targets, root / "targets", root / "patches", github)]
    assert sorted(set(asked)) == sorted(outdated.KINDS)
    assert asked.count("torch") == len(targets)

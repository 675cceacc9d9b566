"""The hosted workflows and the container route: what they may do, and that what they call is there."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.publish import index, outdated, release
from builder.target.options import parse_build_options
from builder.target.targets import load_targets

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path: Path) -> dict[str, Any]:
    """A YAML file; `on:`, which YAML 1.1 takes for true, under its own name."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    if True in values:
        values["on"] = values.pop(True)
    return values


def all_steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            for step in job.get("steps", []):
                yield f"{path.name}: {name}", step


def commands() -> Iterator[list[str]]:
    """Every call of nox in a workflow, or before a commit, as its words."""
    for repository in load(ROOT / ".pre-commit-config.yaml")["repos"]:
        yield from (shlex.split(hook["entry"]) for hook in repository["hooks"])
    for _, step in all_steps():
        for line in str(step.get("run", "")).splitlines():
            if line.startswith("nox "):
                yield shlex.split(line)


def test_a_release_takes_nothing_that_another_run_kept() -> None:
    kept = [step for _, step in all_steps() if str(step.get("uses", "")).startswith("actions/cache@")]
    assert [step["with"]["path"].rpartition("/")[2] for step in kept] == ["ccache", "uv"]
    assert {step["if"] for step in kept} == {"github.ref_type != 'tag'"}


def test_the_token_is_in_the_one_step_that_needs_it() -> None:
    holders = [
        (where, step.get("name"))
        for where, step in all_steps()
        if "github.token" in json.dumps(step.get("env", {}))
    ]
    assert holders == [("outdated.yml: outdated", "Ask"), ("release.yml: release", "Release")]


def test_every_session_that_is_called_is_there() -> None:
    called = set()
    for words in commands():
        after = words[words.index("-s") + 1 :]
        called |= {word for word in after[: after.index("--") if "--" in after else None] if word[0] != "-"}
    assert called >= {"lint", "types", "tests", "audit", "release", "index"}
    command = [sys.executable, "-m", "nox", "--list-sessions", "--json", "-s", *sorted(called)]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert listed.returncode == 0, listed.stderr
    assert {item["session"] for item in json.loads(listed.stdout)} == called


def test_every_option_that_is_given_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/wheels")  # as a runner does
    parsers = {"release": release._parser(), "index": index._parser(), "outdated": outdated._parser()}
    parsed = set()
    for words in commands():
        if "--" in words:
            session = words[words.index("-s") + 1]
            given = [
                word.replace("$RELEASE_URL", "https://a.example/") for word in words[words.index("--") + 1 :]
            ]
            given = [word.replace("$INDEX_URL", "https://a.example/") for word in given]
            given = [word.replace("$TAG", "v1") for word in given]
            given = [word.replace("$PUBLISHED", "2026-11-01T10:00:00Z") for word in given]
            parsers[session].parse_args(given)
            parsed.add(session)
    assert parsed == set(parsers)


def test_nox_shows_no_password(caplog: pytest.LogCaptureFixture) -> None:
    importlib.import_module("noxfile")
    logging.getLogger("nox").error("Command python --cache-remote redis://:s3cret@a.example/1 %s", "failed")
    assert caplog.messages == ["Command python --cache-remote redis://a.example/1 failed"]


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq on PATH (GitHub's runners have it)")
@pytest.mark.parametrize("wanted", ["", "cp312-cu130", "nothing", "..", 'x"; echo'])
def test_the_matrix_is_what_targets_holds(tmp_path: Path, wanted: str) -> None:
    output = tmp_path / "output"
    steps = load(ROOT / ".github" / "workflows" / "wheels.yml")["jobs"]["targets"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("id") == "read"]
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=ROOT,
        env={**os.environ, "WANTED": wanted, "GITHUB_OUTPUT": str(output)},
        check=False,
        capture_output=True,
    )
    names = sorted(load_targets(ROOT / "targets", ROOT / "patches"))
    if wanted and wanted not in names:
        assert done.returncode == 1
        assert not output.exists()
        return
    name, _, value = output.read_text().partition("=")
    assert (done.returncode, name) == (0, "targets")
    rows = json.loads(value)
    assert sorted(row["target"] for row in rows) == ([wanted] if wanted else names)
    for row in rows:
        arm = row["target"].endswith("-aarch64")
        assert row["runner"] == ("ubuntu-24.04-arm" if arm else "ubuntu-24.04")
        assert row["service"] == ("build-aarch64" if arm else "build")


# --- the container ----------------------------------------------------------------------------------


COMPOSE = load(ROOT / "compose.yaml")


def test_the_image_is_pinned_and_has_the_glibc_of_the_native_targets_floor() -> None:
    targets = load_targets(ROOT / "targets", ROOT / "patches").values()
    pinned = r"\$\{IMAGE:-quay\.io/pypa/(manylinux_2_34_\w+)@sha256:[0-9a-f]{64}\}"
    images = {
        match[1]: service["platform"]
        for service in COMPOSE["services"].values()
        if (match := re.fullmatch(pinned, service["image"]))
    }
    assert images.keys() >= {target.platform_tag for target in targets if not target.stable}
    assert images["manylinux_2_34_aarch64"] == "linux/arm64"
    assert images["manylinux_2_34_x86_64"] == "linux/amd64"


@pytest.mark.parametrize("service", ["build", "build-aarch64", "gpu"])
def test_the_containers_script_builds_and_gives_the_wheels_their_owner(tmp_path: Path, service: str) -> None:
    """The script itself, with other folders and with a stand-in for uv that notes how it was called."""
    described = COMPOSE["services"][service]
    script = described["command"][-1].replace("$$", "$")
    places = {name: tmp_path / name for name in ("checkout", "wheelhouse", "work")}
    for name, place in places.items():
        place.mkdir()
        script = re.sub(rf"(?<![\w.])/{name}\b", str(place), script)
    (places["checkout"] / "noxfile.py").write_text("# here\n")
    (places["checkout"] / "wheelhouse").mkdir()
    called = tmp_path / "called"
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(
        f'#!/bin/sh\ntest -f noxfile.py && test ! -e wheelhouse && printf "%s\\n" "$*" >> {called}\n'
    )
    uv.chmod(0o755)
    environment = {name: value for name, value in described["environment"].items() if name == "SMOKETEST"}
    environment |= {"TARGET": "cp312-cu130", "ARGUMENTS": "--arch 8.9;12.0  --jobs 4"}
    done = subprocess.run(
        [*described["command"][:-1], script],
        env={**os.environ, **environment, "PATH": f"{uv.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = called.read_text().splitlines()
    sessions = [line.partition("--session ")[2].partition(" -- ")[0] for line in lines]
    assert sessions == ["build-cp312-cu130", "smoketest-cp312-cu130"][: 2 if service == "gpu" else 1]
    arguments = lines[0].partition(" -- ")[2].split()
    options = parse_build_options(arguments, {"HOME": str(tmp_path)})
    assert (options.wheelhouse, options.arch, options.jobs) == (places["wheelhouse"], "8.9;12.0", 4)
    assert f"chown --recursive --reference={places['wheelhouse']} {places['wheelhouse']}" in script

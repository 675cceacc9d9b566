"""Release notes."""

from __future__ import annotations

import re
from pathlib import Path

from made_up_wheels import (
    NATIVE,
    NATIVE_BASIC,
    UNIVERSAL,
    UNVERIFIED,
    make_ours,
    write_report,
)
from played_github import REPOSITORY, TAG, Played

from builder.publish import catalogue
from builder.publish.notes import release_notes


def test_notes_say_what_was_built_patched_and_tested(played: Played) -> None:
    played.run("--index-url", "https://someone.example/wheels")
    notes = played.release()["body"]
    for wheel in (NATIVE, NATIVE_BASIC, UNIVERSAL):
        assert f"| `{wheel}` |" in notes
    assert f"| `{NATIVE}` | passed | NVIDIA H100, torch 2.11.0+cu130 | passed (120 pass) |" in notes
    assert f"| `{UNIVERSAL}` | not run |" in notes
    assert "- `0001-hopper.patch`: Call the Hopper kernel, not its fake" in notes
    assert (
        f"https://github.com/thu-ml/SageAttention/archive/refs/tags/v2.2.0.tar.gz, SHA-256 `{'d' * 64}`"
        in notes
    )
    assert "| cp312-cu130 | 2.11.0+cu130 | 13.0.88 | 14.2.1 |" in notes
    assert '"sageattention==2.2.0" --extra-index-url https://someone.example/wheels/cu130/' in notes
    assert notes.count("0001-hopper") == 1
    address = f"https://github.com/{REPOSITORY}/releases/download/{TAG}/FILE.whl"
    assert f"\nnox -s reproduce-TARGET -- --against {address}\n" in notes


def test_what_records_say_can_not_become_markup(tmp_path: Path) -> None:
    evil = "a | b\n## c `d` ![e](https://evil.invalid/f) <img src=x> **g** &lt;"
    made = make_ours(
        tmp_path,
        NATIVE,
        UNIVERSAL,
        patches=[{"name": "0001.patch", "sha256": evil, "summary": evil}],
        source={**UNVERIFIED, "location": evil},
        toolchain={"nvcc": evil, "host_compiler": evil, "components": []},
    )
    write_report(made[0], headline=evil, environment={"gpu": evil, "torch": evil})
    notes = release_notes([catalogue.read_wheel(wheel) for wheel in made], repository=REPOSITORY, tag=TAG)
    lines = [line for line in notes.splitlines() if "evil.invalid" in line]
    assert len(lines) == 4
    for line in lines:
        plain = re.sub(r"\\.", "", line)
        assert not re.search(r"[<\[]|\*\*g|`d`|&lt", plain)
        assert plain.count("|") in (0, 5)
        assert not line.startswith("#")

"""The files of a release."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_up_wheels import (
    NATIVE,
    make_ours,
    write_report,
)

from builder.publish import catalogue
from builder.publish.assets import Asset, RemoteAsset, gather, plan_assets
from builder.util.errors import ReleaseError


def test_a_file_of_two_gibibytes_is_an_error_that_names_it(tmp_path: Path) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    report = write_report(wheel)
    known = catalogue.read_wheel(wheel)
    with report.open("r+b") as stream:
        stream.truncate(2 * 1024**3)
    if report.stat().st_blocks * 512 > 10**9:
        pytest.skip("this file system has no sparse files")
    with pytest.raises(ReleaseError, match=re.escape(f"{report.name} (2147483648 bytes)")):
        gather([known])


def test_what_the_release_has_decides_what_is_done() -> None:
    assets = [Asset.of_bytes(name, b"new", "text/plain") for name in ("absent", "half", "same", "other")]
    whole = {"size": 3, "state": "uploaded"}
    remotes = [
        {"id": 1, "name": "half", "size": 3, "state": "starter", "digest": f"sha256:{assets[0].sha256}"},
        {"id": 2, "name": "same", **whole, "digest": f"sha256:{assets[0].sha256.upper()}"},
        {"id": 3, "name": "other", **whole, "digest": "sha256:" + "0" * 64},
    ]
    there = [RemoteAsset.of(remote) for remote in remotes]
    steps = plan_assets(assets, there, replace=True)
    assert [step.action for step in steps] == ["upload", "complete", "keep", "replace"]
    with pytest.raises(ReleaseError, match=r"different SHA-256:\n  other: the release has 0{64}") as caught:
        plan_assets(assets, there, replace=False)
    assert "same" not in caught.value.message

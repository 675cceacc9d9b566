"""The files of a release."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from made_up_wheels import (
    NATIVE,
    make_ours,
    write_record,
    write_report,
)

from builder.publish import catalogue
from builder.publish.assets import Asset, RemoteAsset, gather, plan_assets
from builder.util.errors import ReleaseError
from builder.util.github.reply import GitHubError


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


@pytest.mark.parametrize(
    "address",
    ["https://me:hush@example.org/a", "http://x/a?token=hush", "see https://x/#hush", "a://h:hu@sh/"],
)
def test_an_address_with_a_secret_is_not_uploaded(tmp_path: Path, address: str) -> None:
    (wheel,) = make_ours(tmp_path, NATIVE)
    known = catalogue.read_wheel(wheel)
    for write in (write_record, write_report):
        path = write(wheel, notes=[{"deep": {address: 1}}])
        with pytest.raises(ReleaseError, match=re.escape(path.name)) as caught:
            gather([known])
        assert "hu" not in caught.value.message.partition("fragment:")[2]
        path.unlink()
    assert len(gather([known])) == 3


def test_a_wheel_that_was_replaced_since_it_was_read_is_refused(tmp_path: Path) -> None:
    known = catalogue.read_wheel(*make_ours(tmp_path, NATIVE))
    make_ours(tmp_path, NATIVE, code="new = True\n")
    with pytest.raises(ReleaseError, match="was replaced"):
        gather([known])


@pytest.mark.parametrize(
    "change",
    [
        {"id": "1/../../2"},
        {"id": True},
        {"id": None},
        {"name": None},
        {"size": "3"},
        {"size": -1},
        {"state": 1},
    ],
)
def test_an_asset_of_another_form_is_one_error(change: dict[str, Any]) -> None:
    values = {"id": 1, "name": "a", "size": 3, "state": "uploaded", "digest": None}
    assert RemoteAsset.of(values).sha256 is None
    with pytest.raises(GitHubError, match=f"an asset: {next(iter(change))}: "):
        RemoteAsset.of({**values, **change})
    del values[next(iter(change))]
    with pytest.raises(GitHubError, match="missing"):
        RemoteAsset.of(values)

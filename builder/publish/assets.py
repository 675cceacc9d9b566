"""The files of a release, and what to do about each, given what the release already has."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from builder.publish import catalogue
from builder.publish.catalogue import METADATA_SUFFIX, RECORD_SUFFIX, SMOKETEST_SUFFIX
from builder.publish.listed_wheel import ListedWheel
from builder.util.addresses import without_secrets
from builder.util.answers import read_json
from builder.util.digest import file_sha256
from builder.util.errors import ReleaseError
from builder.util.github.reply import checked
from builder.util.limits import ASSET_BYTES, ASSETS

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Asset:
    """A file of the release.

    Attributes:
        name: Its name there.
        size_bytes: Its size.
        sha256: Its SHA-256.
        content_type: Its media type.
        path: The file that holds its bytes; None if they are in `content`.
        content: Its bytes, if there is no file.
    """

    name: str
    size_bytes: int
    sha256: str
    content_type: str
    path: Path | None = None
    content: bytes = b""

    @classmethod
    def of_file(cls, path: Path, content_type: str) -> Asset:
        """Return the asset for a file."""
        return cls(path.name, path.stat().st_size, file_sha256(path), content_type, path)

    @classmethod
    def of_bytes(cls, name: str, content: bytes, content_type: str) -> Asset:
        """Return the asset for bytes that are in no file."""
        return cls(name, len(content), hashlib.sha256(content).hexdigest(), content_type, None, content)

    def open(self) -> BinaryIO:
        """Open its bytes for reading."""
        return self.path.open("rb") if self.path else io.BytesIO(self.content)


@dataclass(frozen=True)
class RemoteAsset:
    """An asset that the release has.

    Attributes:
        id: The API's number for it.
        name: Its name.
        size_bytes: Its size.
        sha256: Its SHA-256; None if the API does not give it.
        whole: Whether its upload finished.
    """

    id: int
    name: str
    size_bytes: int
    sha256: str | None
    whole: bool

    @classmethod
    def of(cls, values: object) -> RemoteAsset:
        """Read what the API says about an asset.

        Raises:
            GitHubError: It says something else.
        """
        table = checked("an asset", values)
        algorithm, _, digest = str(table.values.get("digest") or "").partition(":")
        return cls(
            id=table.number("id", 1, "an asset's number"),
            name=table.text("name"),
            size_bytes=table.number("size", 0, "a size in bytes"),
            sha256=digest.lower() if algorithm == "sha256" and digest else None,
            whole=table.text("state") == "uploaded",
        )

    def is_same(self, asset: Asset) -> bool:
        """Whether it is whole, and has an asset's size and SHA-256."""
        return self.whole and (self.size_bytes, self.sha256) == (asset.size_bytes, asset.sha256)


@dataclass(frozen=True)
class AssetStep:
    """What to do about one asset.

    Attributes:
        action: `keep`, `upload`, `complete` (which first removes a partial upload) or `replace` (which first
            removes a whole one).
        asset: The file.
        remote: What the release has under its name.
    """

    action: str
    asset: Asset
    remote: RemoteAsset | None = None


def gather(wheels: Sequence[ListedWheel]) -> list[Asset]:
    """Return the release's files: wheels, records, smoke-test reports, METADATA for the index, and digests.

    `SHA256SUMS` is the last: while it is missing, the release is not complete.

    Raises:
        ReleaseError: A file is too large for a release, or there are too many; or one has an address with a
            password or query, or is not the one that was read before.
    """
    assets: list[Asset] = []
    for wheel in wheels:
        if wheel.path is None:
            continue
        beside = [wheel.path.with_name(wheel.filename + end) for end in (RECORD_SUFFIX, SMOKETEST_SUFFIX)]
        _refuse_too_large([wheel.path, *beside])
        assets.append(Asset.of_file(wheel.path, "application/zip"))
        if assets[-1].sha256 != wheel.sha256:
            raise ReleaseError(f"{wheel.filename} was replaced while it was audited.", "Run again.")
        for path in beside:
            if path.is_file():
                _refuse_secrets(path)
                assets.append(Asset.of_file(path, "application/json"))
        if wheel.portable:
            metadata = catalogue.read_metadata(wheel.path)
            assets.append(
                Asset.of_bytes(wheel.filename + METADATA_SUFFIX, metadata, "text/plain; charset=utf-8")
            )
    sums = "".join(
        f"{asset.sha256}  {asset.name}\n" for asset in sorted(assets, key=lambda asset: asset.name)
    )
    assets.append(Asset.of_bytes(SUMS, sums.encode(), "text/plain; charset=utf-8"))
    if len(assets) > ASSETS:
        raise ReleaseError(
            f"A release holds {ASSETS} files, and these are {len(assets)}.", "Make more than one release."
        )
    return assets


def _refuse_too_large(paths: Sequence[Path]) -> None:
    sizes = {path.name: path.stat().st_size for path in paths if path.is_file()}
    found = [f"{name} ({size} bytes)" for name, size in sizes.items() if size > ASSET_BYTES]
    if found:
        raise ReleaseError(
            f"A release's files must be under 2 GiB: {', '.join(found)}.",
            "A wheel of this project is about 100 times smaller. See what it holds with `nox -s audit`.",
        )


def _refuse_secrets(path: Path) -> None:
    """Stop where a JSON file has an address with something that may be a secret."""
    found = [text for text in _texts(read_json(path)) if without_secrets(text) != text]
    if found:
        raise ReleaseError(
            f"{path}: it has an address with a user name, password, query or fragment: {found[0]}.",
            "These may be secrets, and everyone reads a release. Build or test the wheel again.",
        )


def _texts(values: object) -> Iterator[str]:
    if isinstance(values, dict):
        values = [*values, *values.values()]
    if isinstance(values, list):
        for value in values:
            yield from _texts(value)
    elif isinstance(values, str):
        yield values


def plan_assets(assets: Sequence[Asset], remotes: Sequence[RemoteAsset], *, replace: bool) -> list[AssetStep]:
    """Return what to do about each file.

    Args:
        assets: The files.
        remotes: What the release has; whole ones with a file's name and size have their SHA-256.
        replace: Whether a file may replace one with a different SHA-256.

    Raises:
        ReleaseError: The release has files with a different SHA-256, and `replace` is false; names all.
    """
    there = {remote.name: remote for remote in remotes}
    steps = []
    different = []
    for asset in assets:
        remote = there.get(asset.name)
        if remote is None:
            steps.append(AssetStep("upload", asset))
        elif not remote.whole:
            steps.append(AssetStep("complete", asset, remote))
        elif remote.is_same(asset):
            steps.append(AssetStep("keep", asset, remote))
        else:
            steps.append(AssetStep("replace", asset, remote))
            different.append(f"{asset.name}: the release has {remote.sha256}, this is {asset.sha256}")
    if different and not replace:
        raise ReleaseError(
            "The release has files of these names with a different SHA-256:\n  " + "\n  ".join(different),
            "Release under another tag, or pass --replace, which breaks installs that are pinned by hash.",
        )
    return steps

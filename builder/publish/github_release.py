"""One release of one repository at GitHub: finds it, or makes it, or completes it.

A draft is made first. Each asset is uploaded, and its size and SHA-256 are compared with the API's answer.
The draft is published last, so nobody sees a partial release. After a failure, the same command goes on where
it stopped: a file that is there with the right SHA-256 stays, and a partial upload is removed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from builder.publish.assets import Asset, AssetStep, RemoteAsset, plan_assets
from builder.publish.listed_wheel import human_size
from builder.util.errors import ReleaseError
from builder.util.github.api import Api
from builder.util.github.reply import TransientError, checked
from builder.util.log import say, step, warn


@dataclass(frozen=True)
class RemoteRelease:
    """A release that the repository has.

    Attributes:
        id: The API's number for it.
        tag: Its tag.
        draft: Whether it is a draft.
        page: The address of its page.
        upload_url: Where its assets are sent to, with a template.
        notes: Its notes.
    """

    id: int
    tag: str
    draft: bool
    page: str
    upload_url: str
    notes: str

    @classmethod
    def of(cls, values: object) -> RemoteRelease:
        """Read what the API says about a release.

        Raises:
            GitHubError: It says something else.
        """
        table = checked("a release", values)
        return cls(
            id=table.number("id", 1, "a release's number"),
            tag=table.text("tag_name"),
            draft=table.flag("draft"),
            page=table.text("html_url"),
            upload_url=table.text("upload_url"),
            notes=str(table.values.get("body") or ""),
        )


class GitHubRelease:
    """The release of a tag.

    Args:
        api: GitHub's API.
        repository: `owner/name`.
        tag: The release's tag.
        target: The commit to make the tag at, if it does not exist; None makes no tag.
        replace: Whether files with a different SHA-256, and published notes, are replaced.
    """

    def __init__(
        self, api: Api, repository: str, tag: str, *, target: str | None = None, replace: bool = False
    ) -> None:
        self._api = api
        self._base = f"repos/{repository}"
        self._tag = tag
        self._target = target
        self._replace = replace

    def complete(self, assets: Sequence[Asset], notes: str) -> None:
        """Make the release, or complete it.

        Args:
            assets: Its files.
            notes: Its notes, in Markdown.

        Raises:
            ReleaseError: It is not complete; running again goes on where it stopped.
        """
        release = self.find()
        if release is None or release.draft:
            self._need_tag()
        release = release or self._create(notes)
        say(f"Release {self._tag}: {'a draft' if release.draft else 'published'}, {release.page}")
        try:
            self._fill(release, assets)
            self._publish(release, notes)
        except BaseException:
            what = "a draft, unless it was just published" if release.draft else "published"
            warn(f"The release may not be complete. It is {what}: {release.page}. Run again to complete it.")
            raise

    def _fill(self, release: RemoteRelease, assets: Sequence[Asset]) -> None:
        remotes = self.assets(release, assets)
        steps = plan_assets(assets, remotes, replace=self._replace)
        for name in sorted({remote.name for remote in remotes} - {asset.name for asset in assets}):
            warn(f"The release also has {name}, which is not one of these files: it stays.")
        with step(f"Uploading {sum(one.action != 'keep' for one in steps)} of {len(steps)} files"):
            for one in steps:
                self._carry_out(one, release)
        self._verify(release, assets)

    def _publish(self, release: RemoteRelease, notes: str) -> None:
        where = f"{self._base}/releases/{release.id}"
        if release.draft:
            values = {"name": self._tag, "body": notes, "draft": False}
            published = RemoteRelease.of(self._api.patch(where, values))
            if published.draft:
                raise ReleaseError(f"{published.page} is still a draft.", "Publish it by hand, or run again.")
            say(f"Published: {published.page}")
        elif release.notes.replace("\r\n", "\n").strip() != notes.strip():
            if self._replace:
                self._api.patch(where, {"body": notes})
                say("Replaced the notes.")
            else:
                warn("The published notes differ from those of these wheels; --replace replaces them.")
        else:
            say("The release is complete.")

    def find(self) -> RemoteRelease | None:
        """Return the release, a draft or a published one; None if there is none."""
        # Only the list of all releases shows drafts.
        listed = map(RemoteRelease.of, self._api.list(f"{self._base}/releases"))
        found = [release for release in listed if release.tag == self._tag]
        found.sort(key=lambda release: (release.draft, release.id))
        for other in found[1:]:
            warn(f"There is another release of {self._tag}, which stays as it is: {other.page}")
        return found[0] if found else None

    def assets(self, release: RemoteRelease, wanted: Sequence[Asset]) -> list[RemoteAsset]:
        """Return what the release has; where the API gives no SHA-256, the asset is downloaded.

        Args:
            release: The API's description of it.
            wanted: The files that matter.
        """
        values = self._api.list(f"{self._base}/releases/{release.id}/assets")
        sizes = {asset.name: asset.size_bytes for asset in wanted}
        return [self._with_digest(remote, sizes.get(remote.name)) for remote in map(RemoteAsset.of, values)]

    def _with_digest(self, remote: RemoteAsset, size_bytes: int | None) -> RemoteAsset:
        """Download an asset for its SHA-256 if the API lacks it and the size is right."""
        if not remote.whole or remote.sha256 is not None or remote.size_bytes != size_bytes:
            return remote
        say(f"  the API gives no SHA-256 of {remote.name}: downloading it")
        digest = self._api.sha256_of(f"{self._base}/releases/assets/{remote.id}", remote.size_bytes)
        return dataclasses.replace(remote, sha256=digest)

    def _need_tag(self) -> None:
        if self._target is None and self._api.find(f"{self._base}/git/ref/tags/{quote(self._tag)}") is None:
            raise ReleaseError(
                f"The repository has no tag {self._tag}.",
                "Push it first, or say with --target COMMIT where to make it.",
            )

    def _create(self, notes: str) -> RemoteRelease:
        values = {"tag_name": self._tag, "name": self._tag, "body": notes, "draft": True}
        if self._target:
            values["target_commitish"] = self._target
        attempt = 1
        try:
            while True:
                try:
                    return RemoteRelease.of(self._api.post_once(f"{self._base}/releases", values))
                except TransientError as error:
                    self._api.wait(attempt, error)
                    attempt += 1
                    # It may exist all the same: another request would make a second draft.
                    if there := self.find():
                        return there
        except (TransientError, KeyboardInterrupt):
            warn(f"A draft of {self._tag} may have been made. Run again to go on there.")
            raise

    def _carry_out(self, one: AssetStep, release: RemoteRelease) -> None:
        asset = one.asset
        if one.action == "keep":
            say(f"  there:    {asset.name}")
            return
        if one.remote is not None:
            why = "a partial upload" if one.action == "complete" else "a different SHA-256"
            say(f"  removing: {asset.name} ({why})")
            self._remove(one.remote)
        say(f"  sending:  {asset.name} ({human_size(asset.size_bytes)})")
        attempt = 1
        while True:
            try:
                self._send(asset, release)
            except TransientError as error:
                self._api.wait(attempt, error)
                attempt += 1
                if self._arrived(asset, release):
                    return
            else:
                return

    def _send(self, asset: Asset, release: RemoteRelease) -> None:
        """Upload once, and compare what arrived; an asset with a different SHA-256 does not stay."""
        with asset.open() as content:
            values = self._api.upload_once(
                release.upload_url, asset.name, content, asset.size_bytes, asset.content_type
            )
        remote = RemoteAsset.of(values)
        if remote.name != asset.name:
            self._remove(remote)
            raise ReleaseError(
                f"GitHub changes the name {asset.name} to {remote.name}: the index could not find it."
            )
        remote = self._with_digest(remote, asset.size_bytes)
        if not remote.is_same(asset):
            self._remove(remote)
            raise TransientError(
                f"{asset.name}: {remote.size_bytes} bytes with SHA-256 {remote.sha256} arrived, "
                f"{asset.size_bytes} with {asset.sha256} were sent."
            )

    def _arrived(self, asset: Asset, release: RemoteRelease) -> bool:
        """Whether a failed upload arrived all the same; a partial one is removed."""
        for remote in self.assets(release, [asset]):
            if remote.name != asset.name:
                continue
            if remote.is_same(asset):
                return True
            self._remove(remote)
        return False

    def _remove(self, remote: RemoteAsset) -> None:
        self._api.delete(f"{self._base}/releases/assets/{remote.id}")

    def _verify(self, release: RemoteRelease, assets: Sequence[Asset]) -> None:
        """Compare the whole release with the files, as the API lists it now."""
        there = {remote.name: remote for remote in self.assets(release, assets)}
        wrong = [
            asset.name for asset in assets if asset.name not in there or not there[asset.name].is_same(asset)
        ]
        if wrong:
            raise ReleaseError(
                f"The release lacks these files, or has them with a different SHA-256: {', '.join(wrong)}.",
                "Run the same command again.",
            )
        say(f"Verified {len(assets)} files by size and SHA-256.")

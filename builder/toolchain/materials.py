"""What a wheel is made of and made with, by name, version and digest."""

from __future__ import annotations

from dataclasses import dataclass


# The SBOM's serial number is made of these by their repr, so a change here changes every wheel.
@dataclass(frozen=True, order=True)
class Material:
    """Something that went into a wheel, or that a wheel was made with.

    Attributes:
        kind: `source`, `patch`, `patch-file` (what a patch adds), `build-tool`, `extension` (a library that
            was compiled), `library` (a bundled one), or `wheel`.
        name: What it is called; for files of the wheel their name in it.
        version: Empty without one.
        sha256: Of its bytes, or of an installed package's files (`content_sha256`); empty if not known.
        purl: Package URL; empty without one.
        license: SPDX expression; empty if it isn't ours to say.
        url: Where it came from; empty if it came from no address.
        properties: Further facts as (name, value), sorted.
    """

    kind: str
    name: str
    version: str = ""
    sha256: str = ""
    purl: str = ""
    license: str = ""
    url: str = ""
    properties: tuple[tuple[str, str], ...] = ()

    def fact(self, name: str) -> str:
        """Return one of the properties; empty without it."""
        return dict(self.properties).get(name, "")

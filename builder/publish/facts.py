"""`wheels.json`: what the page says, for programs, and for the next index to keep the earlier wheels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from builder.publish.catalogue import ListedWheel, SmokeTest, newest_first
from builder.util.errors import DownloadError, UsageError
from builder.util.limits import REQUEST_SECONDS
from builder.util.log import say, warn

FACTS = "wheels.json"
_SCHEMA = 1


def facts_json(wheels: Sequence[ListedWheel]) -> str:
    """Return the content of `wheels.json`."""
    values = {"schema": _SCHEMA, "wheels": [_facts(wheel) for wheel in newest_first(wheels)]}
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _facts(wheel: ListedWheel) -> dict[str, Any]:
    values = dataclasses.asdict(dataclasses.replace(wheel, path=None, record={}))
    return {name: value for name, value in values.items() if name not in ("path", "record")}


def read_facts(place: str) -> list[ListedWheel]:
    """Return the wheels of an earlier index.

    Args:
        place: The address or path of its `wheels.json`. If the address answers 404, there are none yet.

    Raises:
        DownloadError: The address does not answer.
        UsageError: It is not a `wheels.json`, or its wheels are served from the site that is to be replaced.
    """
    if place.startswith(("http://", "https://")):
        text = _fetch(place)
        if text is None:
            say(f"{place} does not exist yet: this is the site's first index.")
            return []
    else:
        try:
            text = Path(place).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{place}: it can't be read: {error}.", f"Give an index's {FACTS}.") from error
    try:
        wheels = [_from_facts(values) for values in json.loads(text)["wheels"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{place}: it is not an index's {FACTS}: {error!r}.", "Omit --previous, or give the right file."
        ) from error
    for wheel in wheels:
        if wheel.beside_the_index:
            raise UsageError(
                f"{place}: {wheel.filename} has no address of its own: that site serves the file itself.",
                "Give the wheel's file too, and omit --previous.",
            )
    return wheels


def _fetch(url: str) -> str | None:
    try:
        response = requests.get(url, timeout=REQUEST_SECONDS)
        if response.status_code == requests.codes.not_found:
            return None
        response.raise_for_status()
    except requests.RequestException as error:
        raise DownloadError(
            f"{url} does not answer: {error}.",
            "Without it the index would lose the earlier wheels. Try again.",
        ) from error
    return response.content.decode("utf-8", "replace")


def _from_facts(values: Mapping[str, Any]) -> ListedWheel:
    known = {field.name for field in dataclasses.fields(ListedWheel)} & values.keys() - {"path", "record"}
    return ListedWheel(
        **{
            **{name: values[name] for name in known},
            "architectures": tuple(map(str, values["architectures"])),
            "smoke_test": SmokeTest(**values["smoke_test"]),
        }
    )


def merge(wheels: Sequence[ListedWheel], previous: Iterable[ListedWheel]) -> list[ListedWheel]:
    """Return the given wheels, and the earlier ones that have other file names."""
    given = {wheel.filename: wheel for wheel in wheels}
    kept = []
    for wheel in previous:
        newer = given.get(wheel.filename)
        if newer is None:
            kept.append(wheel)
        elif newer.sha256 != wheel.sha256:
            warn(f"{wheel.filename}: it replaces the one at {wheel.url}, which has a different SHA-256.")
    return [*wheels, *kept]

"""`wheels.json`: what the page says, for programs, and for the next index to keep the earlier wheels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from builder.publish.listed_wheel import ListedWheel, SmokeTest, newest_first, shown
from builder.util.answers import ask, parse_json, read_json
from builder.util.errors import DownloadError, UsageError
from builder.util.limits import LISTED_WHEELS, REQUEST_SECONDS
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


def read_facts(place: str, projects: Collection[str]) -> list[ListedWheel]:
    """Return the wheels of an earlier index.

    Args:
        place: The address or path of its `wheels.json`. If the address answers 404, there are none yet.
        projects: The projects that the index is for.

    Raises:
        DownloadError: The address does not answer.
        UsageError: It is not a `wheels.json`, or lists what this index would not; or its wheels are served
            from the site that is to be replaced.
    """
    try:
        if place.startswith(("http://", "https://")):
            content = _fetch(place)
            if content is None:
                say(f"{place} does not exist yet: this is the site's first index.")
                return []
            document = parse_json(content)
        else:
            document = read_json(Path(place))
        wheels = _wheels(document, projects, secure=place.startswith("https://"))
    except (ValueError, OSError) as error:
        raise UsageError(
            f"{place}: it is not an index's {FACTS}: {error}.", "Omit --previous, or give the right file."
        ) from None
    for wheel in wheels:
        if wheel.beside_the_index:
            raise UsageError(
                f"{place}: {wheel.filename} has no address of its own: that site serves the file itself.",
                "Give the wheel's file too, and omit --previous.",
            )
    hosts = ", ".join(sorted({urlsplit(wheel.url).netloc for wheel in wheels}))
    say(f"The earlier index has {len(wheels)} wheels{f', at {hosts}' if hosts else ''}.")
    return wheels


def _fetch(url: str) -> bytes | None:
    try:
        with requests.Session() as session:
            response, body = ask(session, "GET", url, timeout=REQUEST_SECONDS)
        if response.status_code == requests.codes.not_found:
            return None
        response.raise_for_status()
    except requests.RequestException as error:
        raise DownloadError(
            f"{url} can't be obtained: {error}.",
            "Without it the index would lose the earlier wheels. Try again.",
        ) from None
    return body


def _wheels(document: object, projects: Collection[str], *, secure: bool) -> list[ListedWheel]:
    """Return the wheels of a `wheels.json`; raises ValueError where anything in it is not as it has to be."""
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise ValueError(f"its schema is not {_SCHEMA}")
    listed = document.get("wheels")
    if not isinstance(listed, list) or len(listed) > LISTED_WHEELS:
        raise ValueError(f"it has no list of at most {LISTED_WHEELS:,} wheels")
    wheels = {}
    for values in listed:
        try:
            wheel = _from_facts(values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{shown(values)} is not a wheel: {error!r}") from None
        if wheel.project not in projects:
            raise ValueError(f"{wheel.filename} is a wheel of {wheel.project}, not of {', '.join(projects)}")
        if wheel.filename in wheels:
            raise ValueError(f"it lists {wheel.filename} twice")
        if secure and wheel.url.startswith("http://"):
            raise ValueError(f"it came by https, and leads to {wheel.url}")
        wheels[wheel.filename] = wheel
    return list(wheels.values())


def _from_facts(values: Mapping[str, Any]) -> ListedWheel:
    given = {field.name: values[field.name] for field in dataclasses.fields(ListedWheel) if _is_given(field)}
    architectures, smoke_test = tuple(values["architectures"]), SmokeTest(**values["smoke_test"])
    wheel = ListedWheel(**{**given, "architectures": architectures, "smoke_test": smoke_test})
    written = {**_facts(wheel), "architectures": list(architectures)}
    different = [key for key in written.keys() | values.keys() if written.get(key) != values.get(key)]
    if different:
        raise ValueError(f"{wheel.filename}: {shown(sorted(different))}: not as an index writes it")
    return wheel


def _is_given(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.name not in ("path", "record")


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

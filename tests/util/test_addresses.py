"""What of an address is printed, and what never is."""

from __future__ import annotations

import pytest

from builder.util.addresses import is_plain, public_address, without_secrets
from builder.util.errors import DownloadError


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://example.org/a.tar.gz", "https://example.org/a.tar.gz"),
        ("https://me:secret@example.org:8080/a.zip?token=secret#secret", "https://example.org:8080/a.zip"),
        ("https://secret@example.org", "https://example.org"),
        ("https://me:a@secret@example.org/@scope/a.tgz", "https://example.org/@scope/a.tgz"),
        ("http://me:secret@[::1]:80/x", "http://[::1]:80/x"),
        ("http://[::1", "http://***"),
        ("http://me:se/cret@example.org/x", "http://***"),
        ("http://me:secret?@example.org/x", "http://***"),
        ("http://me:secret", "http://***"),
        ("http://me:se'cret@example.org/x", "http://example.org/x"),
        ('http://me:se"<cr`et>@example.org/x', "http://example.org/x"),
    ],
)
def test_the_public_part_of_an_address(address: str, public: str) -> None:
    assert public_address(address) == public
    assert without_secrets(f"see {address}, then go on") == f"see {public}, then go on"


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("no address: a?b@c", "no address: a?b@c"),
        ("(the target's is https://example.org/whl).", "(the target's is https://example.org/whl)."),
        ("'git+https://secret@example.org/a' and b", "'git+https://example.org/a' and b"),
        (
            "Max retries exceeded with url: /x?token=secret (Caused",
            "Max retries exceeded with url: /x (Caused",
        ),
    ],
)
def test_addresses_in_a_text(text: str, public: str) -> None:
    assert without_secrets(text) == public


def test_no_error_contains_a_secret() -> None:
    error = DownloadError("http://me:secret@x/a?secret failed.", "Try http://me:secret@y/a.")
    assert str(error) == "http://x/a failed.\n  Try http://y/a."
    assert error.args == ("http://x/a failed.",)


@pytest.mark.parametrize(
    ("address", "plain", "insecure"),
    [
        ("https://example.org:8080/a%2Bb/{sha256}", True, True),
        ("http://127.0.0.1:8080/x", True, True),
        ("http://example.org/x", False, True),
        ("https://me@example.org/x", False, False),
        ("https://example.org/x?a", False, False),
        ("https://example.org/x#a", False, False),
        ("https://example.org/x y", False, False),
        ("https://example.org/x\n", False, False),
        ('https://example.org/"><script>', False, False),
        ("https://example.org/'`\\", False, False),
        ("https://ex\u0430mple.org/", False, False),
        ("https://example.org:port/", False, False),
        ("https:///x", False, False),
        ("https:example.org", False, False),
        ("HTTPS://example.org", False, False),
        ("//example.org/x", False, False),
        ("http://[::1", False, False),
        ("javascript://example.org/x", False, False),
        ("", False, False),
    ],
)
def test_what_may_be_published_of_an_address(address: str, plain: bool, insecure: bool) -> None:
    assert is_plain(address) is plain
    assert is_plain(address, insecure=True) is insecure

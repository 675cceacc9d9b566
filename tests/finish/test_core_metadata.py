"""METADATA is edited, and keeps what it must."""

from __future__ import annotations

from builder.finish.core_metadata import edit_metadata, license_expression


def test_licence_expressions() -> None:
    assert license_expression("Apache-2.0", runtime=False) == "Apache-2.0"
    assert license_expression("apache-2.0", runtime=True) == "Apache-2.0 AND LicenseRef-NVIDIA-Proprietary"
    assert license_expression("MIT OR Apache-2.0", runtime=True) == (
        "(MIT OR Apache-2.0) AND LicenseRef-NVIDIA-Proprietary"
    )


def test_metadata_keeps_what_it_does_not_know() -> None:
    old = (
        "Metadata-Version: 2.5\r\nName: a\r\nLicense: one\r\n        two\r\nAuthor: Jörg\r\n"
        "Description-Content-Type: text/x-rst\r\nX-Odd: first\r\n  second\r\n\r\nBody: here\r\n"
    )
    new = edit_metadata(old.encode(), "MIT", ["LICENSE"], ("> **About this wheel.** 1", "> 2"), "").decode()
    assert new == (
        "Metadata-Version: 2.5\nName: a\nAuthor: Jörg\nX-Odd: first\n  second\nLicense-Expression: MIT\n"
        "License-File: LICENSE\nDescription-Content-Type: text/x-rst\n\n"
        "> **About this wheel.** 1\n> 2\n\nBody: here\n"
    )


def test_metadata_without_a_body() -> None:
    new = edit_metadata(b"Metadata-Version: 2.1\nName: a", "MIT", [], ("1", "2"), "").decode()
    assert new.endswith("Description-Content-Type: text/markdown\n\n1\n2\n\n")

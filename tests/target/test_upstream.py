"""The pinned release: what its file says, and how a wrong one is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from packaging.licenses import canonicalize_license_expression

from builder.target.upstream import PATCHES_DIR, load_release, read_sums
from builder.util.errors import TargetError


def test_the_pinned_release_is_2_2_0() -> None:
    release = load_release(PATCHES_DIR / "v2.2.0")
    assert release.version == "2.2.0"
    assert release.commit == "eb615cf6cf4d221338033340ee2de1c37fbdba4a"
    assert release.sha256 == "ddddf0ad4387ab3e45f14c6e2ae3b5898a158444fed21633b27586ca29ccdb49"
    assert release.source_date_epoch == 1761613216
    assert release.license == canonicalize_license_expression("Apache-2.0")
    assert len(release.mirrors) == 2
    assert {"setup.py", "csrc/fused/fused.cu", "sageattention/triton/__init__.py"} < release.files.keys()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('version = "2.2.0"', 'version = "two"', "version: 'two' is not a version"),
        ('tag = "v2.2.0"\n', "", "tag: missing"),
        ("eb615cf6", "", "commit: "),
        ('url = "https://github.com', 'url = "http://github.com', "url: "),
        ('url = "https://codeload', 'url = "https://me:secret@codeload', "mirrors 1: url: "),
        ('url = "https://archive', 'sha256 = "https://archive', "mirrors 2: sha256: unknown key"),
        ("[[mirrors]]", "[mirrors]", "not TOML: "),
        ("ddddf0ad", "xddddf0a", "sha256: "),
        ("1761613216", "0", "source_date_epoch: 0"),
        ("1761613216", "true", "source_date_epoch: True"),
        ('"8.9"', '"ada"', "architectures: 'ada' is not a CUDA architecture"),
        ('tag = "v2.2.0"', f'tag = "{"v" * 300}"', "tag: 'vvv"),
        ('license = "Apache-2.0"', 'licence = "Apache-2.0"', "licence: unknown key"),
    ],
)
def test_a_wrong_release_file_is_refused_by_name_and_key(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = (PATCHES_DIR / "v2.2.0" / "upstream.toml").read_text()
    assert old in text
    (tmp_path / "upstream.toml").write_text(text.replace(old, new))
    shutil.copy(PATCHES_DIR / "v2.2.0" / "upstream.sha256", tmp_path)
    with pytest.raises(TargetError) as caught:
        load_release(tmp_path)
    assert f"upstream.toml: {said}" in caught.value.message


def test_a_release_without_patches_names_those_that_have_some() -> None:
    with pytest.raises(TargetError) as caught:
        load_release(PATCHES_DIR / "v9.9")
    assert caught.value.message == f"{PATCHES_DIR}/v9.9/upstream.toml: not found, so v9.9 can't be built."
    assert caught.value.remedy == "Releases that can be: v2.2.0."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{'0' * 64}  a b\n{'1' * 64}  c/d.py\n", ""),
        ("", "no file is listed"),
        ("what\n", "line 1: 'what' is not"),
        (f"{'0' * 64} *a\n", "line 1: "),
        (f"{'0' * 63}g  a\n", "line 1: "),
        (f"{'0' * 64}  a\n{'1' * 64}  a\n", "line 2: "),
        (f"\\{'0' * 64}  a\\nb\n", "line 1: "),
        *(
            (f"{'0' * 64}  {name}\n", "line 1: ")
            for name in ("/etc/passwd", "../a", "a/../b", "a//b", "./a", "")
        ),
    ],
)
def test_the_list_of_files_is_read_as_sha256sum_writes_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "upstream.sha256"
    path.write_text(text)
    if not said:
        assert read_sums(path) == {"a b": "0" * 64, "c/d.py": "1" * 64}
        return
    with pytest.raises(TargetError) as caught:
        read_sums(path)
    assert caught.value.message.startswith(f"{path}: {said}")
    assert "docs/patches.md" in caught.value.remedy


def test_a_list_that_can_t_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xff")
    for path in (tmp_path / "none", tmp_path, tmp_path / "list"):
        with pytest.raises(TargetError, match="can't be read"):
            read_sums(path)

"""The digest of a tree is one that anybody can make again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from builder.util.digest import tree_sha256


def test_the_tree_digest_can_be_made_with_common_tools(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.py").write_text("a")
    (tmp_path / "b" / "run").write_text("b")
    (tmp_path / "b" / "run").chmod(0o755)
    lines = f"{hashlib.sha256(b'a').hexdigest()}  a.py\n{hashlib.sha256(b'b').hexdigest()} xb/run\n"
    assert tree_sha256(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()

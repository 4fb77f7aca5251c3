"""How the benchmark judges a restored tree."""

from __future__ import annotations

import os
from pathlib import Path

from tests.benchmarks.verify import Verdict, Verifier
from tests.support.trees import Directory, File, Node, Symlink, build

NODES: list[Node] = [Directory(b""), File(b"a/one", b"1"), File(b"a/two", b"2", mode=0o600), Symlink(b"link", b"a/one")]


def _verdict(folder: Path, nodes: list[Node]) -> Verdict:
    build(os.fsencode(folder / "was"), NODES)
    build(os.fsencode(folder / "now"), nodes)
    return Verifier().verdict(folder / "was", folder / "now")


def test_equal_trees_are_equal(tmp_path: Path) -> None:
    assert _verdict(tmp_path, NODES).text == "equal"


def test_metadata_counts_apart(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, [*NODES[:2], File(b"a/two", b"2"), NODES[3]])
    assert verdict == Verdict(0, 1)
    assert verdict.text == "content equal, metadata of 1 not"


def test_missing_added_and_changed_entries_are_lost_content(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, [NODES[0], File(b"a/one", b"x"), File(b"new"), Symlink(b"link", b"elsewhere")])
    assert verdict.content == 4
    assert verdict.text == "4 entries differ"

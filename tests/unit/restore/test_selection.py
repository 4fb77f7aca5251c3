"""Chosen paths: what they cover, and what may not be chosen."""

from __future__ import annotations

import pytest

from agent.errors import InvalidRequestError
from agent.restore.selection import FEW, Selection


@pytest.mark.parametrize("paths", [(), (b"",), (b".",), (b"./",), (b"a", b"")])
def test_everything(paths: tuple[bytes, ...]) -> None:
    selection = Selection(paths)
    assert selection.everything
    assert all(selection.covers(path) for path in (b"", b"a", b"x/y"))


@pytest.mark.parametrize("further", [0, FEW])
def test_a_path_with_all_below_it(further: int) -> None:
    selection = Selection((b"a/b", b"./c/", *(b"further/%d" % number for number in range(further))))
    assert not selection.everything
    assert all(selection.covers(path) for path in (b"a/b", b"a/b/x", b"a/b/x/y", b"c", b"c/d"))
    assert not any(selection.covers(path) for path in (b"", b"a", b"a/bb", b"a.b", b"ab", b"cc", b"x/a/b"))


def test_what_is_above() -> None:
    selection = Selection((b"a/b/c", b"d"))
    assert all(selection.is_above(path) for path in (b"", b"a", b"a/b"))
    assert not any(selection.is_above(path) for path in (b"a/b/c", b"a/bb", b"d", b"x"))


@pytest.mark.parametrize("path", [b"/a", b"/", b"..", b"a/../b", b"a//b", b"a\0", b"a/./b", b"./../x"])
def test_what_is_not_relative_to_the_workspace(path: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="is not relative to the workspace"):
        Selection((path,))

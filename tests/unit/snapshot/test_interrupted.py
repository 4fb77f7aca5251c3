"""Markers of snapshots: those of others are read, and never trusted to be right."""

from __future__ import annotations

import msgspec
import pytest

from agent.repository import keys
from agent.snapshot.interrupted import Interrupted, Marker
from tests.support.virtual_store import Objects, VirtualStore

MINE, OTHER = "20261123T110512Z-00000001", "20261123T110511Z-00000002"
MARKER = Marker("host", b"/workspace")


def left_after(content: bytes) -> list[str]:
    """Begins and ends a snapshot while the marker of another one is there; returns the markers that are left."""
    objects = Objects()
    store = VirtualStore(objects)
    store.write(keys.running(OTHER), content)
    snapshot = Interrupted(store, MINE, MARKER)
    assert snapshot.begin().has_others
    snapshot.end()
    return objects.keys(keys.RUNNING)


def test_an_earlier_attempt_at_the_same_workspace_is_over() -> None:
    assert left_after(msgspec.json.encode(MARKER)) == []


@pytest.mark.parametrize(
    "content",
    [
        msgspec.json.encode(Marker("host", b"/another")),
        b"",
        b"{",
        b'{"host": "\xff", "workspace": ""}',
        pytest.param(b'{"host": "host", "later": ' + b"[" * 50_000, id="nested"),
        pytest.param(b'{"host": "' + b"x" * 99_999, id="long"),
    ],
)
def test_what_another_marker_says_does_not_matter(content: bytes) -> None:
    """The snapshot is committed when it looks at it."""
    assert left_after(content) == [keys.running(OTHER)]

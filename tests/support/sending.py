"""Uploads that are read from their files while they are sent, however much room there is."""

from __future__ import annotations

import pytest

from agent.storage.auto_sources import AutoSources
from agent.storage.stream_sources import StreamSources


def prefer_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every upload sent without room that can be."""
    for sources in (StreamSources, AutoSources):
        monkeypatch.setattr(sources, "are_preferred", lambda *_: True)

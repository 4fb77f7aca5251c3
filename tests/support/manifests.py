"""Manifests taken apart and put together again, with hashes that are right whatever they say."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from blake3 import blake3
from google.protobuf.message import DecodeError
from gpusnap.v1 import manifest_pb2 as pb

from agent.repository import manifest_layout as layout

_LARGE = 1 << 20


class Parts(msgspec.Struct, frozen=True):
    """A manifest's raw sections, by kind and in order, and its footer without the index."""

    sections: tuple[tuple[int, bytes], ...]
    footer: bytes


def take_apart(data: bytes) -> Parts:
    """Returns the parts of a valid manifest."""
    trailer = layout.parse_trailer(data[-layout.TRAILER_SIZE :], len(data))
    end = len(data) - layout.TRAILER_SIZE
    footer = pb.ManifestFooter.FromString(layout.open_footer(trailer, data[end - trailer.stored_size : end]))
    sections = tuple(
        (index.kind, layout.decompress(data[index.offset : index.offset + index.stored_size], index.raw_size))
        for index in footer.sections
    )
    footer.ClearField("sections")
    return Parts(sections, footer.SerializeToString())


def index_of(parts: Parts) -> tuple[bytes, list[pb.SectionIndex]]:
    """Returns what comes before the footer, and its index."""
    body = layout.MAGIC
    index = []
    for kind, raw in parts.sections:
        stored = layout.compress(raw)
        place = pb.SectionIndex(
            offset=len(body),
            stored_size=len(stored),
            raw_size=len(raw),
            hash=blake3(stored).digest(),
            count=_items(raw),
        )
        place.kind = kind  # type: ignore[assignment]  # any number
        index.append(place)
        body += stored
    return body, index


def _items(raw: bytes) -> int:
    """Returns how many entries a section holds, if it is one of entries, and of a size that was meant to be read."""
    try:
        return len(pb.EntrySection.FromString(raw).entries) if len(raw) < _LARGE else 1
    except DecodeError:
        return 1


def put_together(parts: Parts) -> bytes:
    """Returns the manifest of these parts."""
    body, index = index_of(parts)
    return finish(body, parts.footer, index)


def finish(body: bytes, footer: bytes, index: Sequence[pb.SectionIndex]) -> bytes:
    """Returns the manifest that begins with ``body`` and has this footer and index."""
    raw = footer + pb.ManifestFooter(sections=index).SerializeToString()
    stored = layout.compress(raw)
    return body + stored + layout.build_trailer(stored, len(raw))

"""The outer layout of a manifest: magic, sections, footer, trailer. Pure.

    MAGIC (16 bytes) | section | section | ... | footer | trailer (64 bytes)

Sections and footer are LZ4 blocks (or raw, where the stored size equals the raw size). The trailer is the footer's
stored size, its raw size, the format version and zero (each 32-bit little-endian), a BLAKE3-256 hash over those 16
bytes and the stored footer, and MAGIC again.
"""

from __future__ import annotations

import struct

import cramjam
import msgspec
from blake3 import blake3

from agent.errors import DataLossError, RepositoryVersionError
from agent.repository.model import FORMAT_VERSION

MAGIC = b"GPUSNAP-MANIFEST"
TRAILER_SIZE = 64
MAX_SECTION_SIZE = 64 << 20
"""No section has more raw bytes: a reader refuses one that claims to."""
MAX_FOOTER_SIZE = 16 << 20
"""The same for the footer, which agents hold for several snapshots at once: enough for 200 million entries."""


_FACTS = struct.Struct("<IIII")


class Trailer(msgspec.Struct, frozen=True):
    """Where the footer is, seen from the manifest's end."""

    stored_size: int
    raw_size: int
    hash: bytes
    facts: bytes


def compress(raw: bytes) -> bytes:
    """Returns ``raw`` as an LZ4 block, or as it is where that gains nothing."""
    packed = bytes(cramjam.lz4.compress_block(raw, store_size=False)) if raw else b""
    return packed if len(packed) < len(raw) else raw


def decompress(stored: bytes, raw_size: int, limit: int = MAX_SECTION_SIZE) -> bytes:
    """Returns the raw bytes of what ``compress`` returned.

    Raises:
        DataLossError: the sizes or the data are impossible.
    """
    if raw_size > limit or len(stored) > raw_size:
        raise DataLossError("the manifest is damaged: a section claims an impossible size")
    if len(stored) == raw_size:
        return stored
    out = bytearray(raw_size)
    try:
        size = cramjam.lz4.decompress_block_into(stored, out, output_len=raw_size)
    except cramjam.DecompressionError as error:
        raise DataLossError("the manifest is damaged: a section cannot be decompressed") from error
    if size != raw_size:
        raise DataLossError("the manifest is damaged: a section has a wrong size")
    return bytes(out)


def build_trailer(stored_footer: bytes, raw_size: int) -> bytes:
    """Returns the trailer for a footer."""
    facts = _FACTS.pack(len(stored_footer), raw_size, FORMAT_VERSION, 0)
    return facts + blake3(facts + stored_footer).digest() + MAGIC


def parse_trailer(data: bytes, manifest_size: int) -> Trailer:
    """Reads the last TRAILER_SIZE bytes of a manifest.

    Raises:
        DataLossError: it is no manifest, or is truncated.
        RepositoryVersionError: it is of a format version that this reader does not know.
    """
    if len(data) != TRAILER_SIZE or data[48:] != MAGIC:
        raise DataLossError("the manifest is damaged: it is truncated or no manifest at all")
    stored_size, raw_size, version, _ = _FACTS.unpack(data[:16])
    if version != FORMAT_VERSION:
        raise RepositoryVersionError(f"the manifest is of format version {version}, not {FORMAT_VERSION}")
    if stored_size > raw_size or raw_size > MAX_FOOTER_SIZE or stored_size + TRAILER_SIZE + 16 > manifest_size:
        raise DataLossError("the manifest is damaged: its footer claims an impossible size")
    return Trailer(stored_size, raw_size, data[16:48], data[:16])


def open_footer(trailer: Trailer, stored_footer: bytes) -> bytes:
    """Verifies and decompresses a footer.

    Raises:
        DataLossError: it is not what was written.
    """
    if blake3(trailer.facts + stored_footer).digest() != trailer.hash:
        raise DataLossError("the manifest is damaged: its footer does not match its hash")
    return decompress(stored_footer, trailer.raw_size, MAX_FOOTER_SIZE)

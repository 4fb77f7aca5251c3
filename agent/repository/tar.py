"""Tar members as GNU tar reads them: a ustar header, preceded by a pax header for what ustar cannot say.

Pure: entries in, bytes out. A regular file's content follows its header, padded to whole blocks; a sparse file (GNU
sparse format 1.0 in pax) has its map before its content.
"""

from __future__ import annotations

import zlib

from agent.repository.model import BLOCK, Entry, EntryType, padded

END_OF_ARCHIVE = bytes(2 * BLOCK)

_TYPE_FLAG = {
    EntryType.FILE: b"0",
    EntryType.HARD_LINK: b"1",
    EntryType.SYMLINK: b"2",
    EntryType.CHARACTER_DEVICE: b"3",
    EntryType.BLOCK_DEVICE: b"4",
    EntryType.DIRECTORY: b"5",
    EntryType.FIFO: b"6",
}
_NAME_SIZE = 100
_MAX_OCTAL_7 = 0o7777777
_MAX_OCTAL_11 = 0o77777777777
_SECOND = 1_000_000_000


def member_header(entry: Entry) -> bytes:
    """Returns everything of an entry's tar member that comes before its content (``entry.data_size`` bytes)."""
    name = _member_name(entry)
    sparse_map = _sparse_map(entry) if entry.sparse else b""
    size = entry.data_size + len(sparse_map) if entry.type is EntryType.FILE else 0
    records = _records(entry, name, size)
    if entry.sparse:
        name = b"GNUSparseFile.0/" + name.rsplit(b"/", 1)[-1]
    header = _ustar(
        name[:_NAME_SIZE],
        entry.mode,
        min(entry.uid, _MAX_OCTAL_7),
        min(entry.gid, _MAX_OCTAL_7),
        min(size, _MAX_OCTAL_11),
        min(max(entry.mtime_ns // _SECOND, 0), _MAX_OCTAL_11),
        _TYPE_FLAG[entry.type],
        entry.link_target[:_NAME_SIZE],
        entry.device_major,
        entry.device_minor,
    )
    if not records:
        return header + sparse_map
    pax = _ustar(b"././@PaxHeader", 0o644, 0, 0, len(records), 0, b"x", b"", 0, 0)
    return b"".join((pax, records, bytes(padded(len(records)) - len(records)), header, sparse_map))


def member_bound(entry: Entry) -> int:
    """Returns the most bytes that the entry's member can take, cheaply."""
    names = len(entry.path) + len(entry.link_target) + sum(3 * len(n) + len(v) + 64 for n, v in entry.xattrs)
    sparse_map = padded(48 * (len(entry.extents) + 2)) if entry.sparse else 0
    return 3 * BLOCK + padded(names + 512) + sparse_map + padded(entry.data_size)


def _member_name(entry: Entry) -> bytes:
    if entry.type is EntryType.DIRECTORY:
        return entry.path + b"/" if entry.path else b"./"
    return entry.path


def _records(entry: Entry, name: bytes, size: int) -> bytes:
    records: list[bytes] = []
    if entry.sparse:
        records += [
            _record(b"GNU.sparse.major", b"1"),
            _record(b"GNU.sparse.minor", b"0"),
            _record(b"GNU.sparse.name", name),
            _record(b"GNU.sparse.realsize", b"%d" % entry.size),
        ]
    elif len(name) > _NAME_SIZE:
        records.append(_record(b"path", name))
    if len(entry.link_target) > _NAME_SIZE:
        records.append(_record(b"linkpath", entry.link_target))
    if size > _MAX_OCTAL_11:
        records.append(_record(b"size", b"%d" % size))
    if entry.uid > _MAX_OCTAL_7:
        records.append(_record(b"uid", b"%d" % entry.uid))
    if entry.gid > _MAX_OCTAL_7:
        records.append(_record(b"gid", b"%d" % entry.gid))
    if entry.mtime_ns % _SECOND or not 0 <= entry.mtime_ns <= _MAX_OCTAL_11 * _SECOND:
        records.append(_record(b"mtime", _seconds(entry.mtime_ns)))
    records += [_record(b"SCHILY.xattr." + _keyword(name), value) for name, value in entry.xattrs]
    return b"".join(records)


def _record(key: bytes, value: bytes) -> bytes:
    """Returns one pax record; its length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _keyword(name: bytes) -> bytes:
    """Returns an attribute's name as GNU tar writes it: a keyword must not hold "="."""
    return name.replace(b"%", b"%25").replace(b"=", b"%3D")


def _seconds(time_ns: int) -> bytes:
    sign = b"-" if time_ns < 0 else b""
    return b"%s%d.%09d" % (sign, abs(time_ns) // _SECOND, abs(time_ns) % _SECOND)


def _sparse_map(entry: Entry) -> bytes:
    extents = [(extent.offset, extent.length) for extent in entry.extents]
    end = sum(extents[-1]) if extents else 0
    if end < entry.size:
        # A last empty extent tells GNU tar how far the file reaches.
        extents.append((entry.size, 0))
    numbers = [len(extents), *(number for extent in extents for number in extent)]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text.ljust(padded(len(text)), b"\0")


def _ustar(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    flag: bytes,
    link: bytes,
    major: int,
    minor: int,
) -> bytes:
    header = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%sustar\x0000%s%07o\0%07o\0" % (
        name.ljust(_NAME_SIZE, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime,
        flag,
        link.ljust(_NAME_SIZE, b"\0"),
        bytes(64),
        major,
        minor,
    )
    return (header[:148] + b"%06o\0 " % _sum(header) + header[156:]).ljust(BLOCK, b"\0")


def _sum(header: bytes) -> int:
    """Returns the sum of the bytes of a header."""
    # Adler-32's lower half is 1 + the sum modulo 65,521, which 256 bytes never reach. sum() takes five times longer.
    return (zlib.adler32(header[:256]) & 0xFFFF) + (zlib.adler32(header[256:]) & 0xFFFF) - 2

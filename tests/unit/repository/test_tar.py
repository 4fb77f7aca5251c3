"""Tar members: GNU tar and Python's tarfile read what gpusnap writes."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.repository.model import BLOCK, Entry, EntryType, Extent, padded
from agent.repository.tar import END_OF_ARCHIVE, member_bound, member_header

SECOND = 10**9


def entry(path: bytes, kind: EntryType = EntryType.FILE, **fields: object) -> Entry:
    plain = Entry(path=path, type=kind, mode=0o644, uid=0, gid=0, mtime_ns=SECOND)
    return msgspec.structs.replace(plain, **fields)


def with_content(given: Entry, content: bytes) -> bytes:
    """Returns the whole member; ``content`` is what is stored, without holes."""
    sized = msgspec.structs.replace(given, data_size=len(content), size=given.size or len(content))
    return member_header(sized) + content.ljust(padded(len(content)), b"\0")


def gnu_list(archive: bytes) -> list[str]:
    command = ["tar", "-tv", "--numeric-owner", "--full-time", "--quoting-style=escape", "--utc"]
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    done = subprocess.run(command, input=archive + END_OF_ARCHIVE, capture_output=True, check=True, env=environment)
    return done.stdout.decode().splitlines()


def python_members(archive: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive + END_OF_ARCHIVE), errors="surrogateescape") as opened:
        return opened.getmembers()


def test_gnu_tar_lists_every_type() -> None:
    members = [
        entry(b"", EntryType.DIRECTORY, mode=0o1777),
        entry(b"dir", EntryType.DIRECTORY, mode=0o2755),
        entry(b"dir/link", EntryType.SYMLINK, link_target=b"../x"),
        entry(b"dir/more", EntryType.HARD_LINK, link_target=b"dir/first"),
        entry(b"pipe", EntryType.FIFO, mode=0o600),
        entry(b"tty", EntryType.CHARACTER_DEVICE, device_major=4, device_minor=64),
        entry(b"disk", EntryType.BLOCK_DEVICE, device_major=4095, device_minor=1048575),
    ]
    archive = b"".join(member_header(member) for member in members)
    archive += with_content(entry(b"file", mode=0o4755, uid=7, gid=8), b"x" * 513)
    lines = gnu_list(archive)
    starts = ["drwxrwxrwt 0/0", "drwxr-sr-x", "lrw-r--r--", "hrw-r--r--", "prw-------", "crw-r--r--", "brw-r--r--"]
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=False))
    assert lines[0].endswith(" ./")
    assert lines[2].endswith("dir/link -> ../x")
    assert lines[3].endswith("dir/more link to dir/first")
    assert " 4,64 " in lines[5]
    assert " 4095,1048575 " in lines[6]
    assert lines[7].startswith("-rwsr-xr-x 7/8")
    assert " 513 " in lines[7]
    kinds = [member.type for member in python_members(archive)]
    assert kinds == [b"5", b"5", b"2", b"1", b"6", b"3", b"4", b"0"]


@pytest.mark.parametrize(
    "mtime_ns",
    [0, 1, -1, -SECOND, -3 * SECOND // 2, 1_700_000_000_123_456_789, 0o77777777777 * SECOND, 2**33 * SECOND + 5],
)
def test_gnu_tar_extracts_times(mtime_ns: int, tmp_path: Path) -> None:
    # GNU tar lists times before 1970 with a wrong second, but sets the right one.
    archive = member_header(entry(b"f", mtime_ns=mtime_ns)) + END_OF_ARCHIVE
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive, check=True, capture_output=True)
    assert (tmp_path / "f").stat().st_mtime_ns == mtime_ns


@pytest.mark.parametrize("mtime_ns", [-1, 0, -3 * SECOND // 2, (0o77777777777 + 1) * SECOND, 2**40 * SECOND])
def test_tarfile_reads_times(mtime_ns: int) -> None:
    (member,) = python_members(member_header(entry(b"f", mtime_ns=mtime_ns)))
    assert member.mtime == pytest.approx(mtime_ns / SECOND, abs=1e-3)


def test_sizes_and_owners_beyond_octal_fields() -> None:
    size = (8 << 30) + 1
    large = entry(b"large", size=size, data_size=size, uid=2**32 - 2, gid=2**31)
    limit = entry(b"limit", size=(8 << 30) - 1, data_size=(8 << 30) - 1, uid=0o7777777, gid=0o10000000)
    for member, expected in ((large, f" {size} "), (limit, f" {(8 << 30) - 1} ")):
        header = tarfile.TarFile.open(fileobj=io.BytesIO(member_header(member)), mode="r|").next()
        assert header is not None
        assert (header.size, header.uid, header.gid) == (member.size, member.uid, member.gid)
        # The content is missing: tar says so after it has listed the member.
        command = ["tar", "-tv", "--numeric-owner", "-f", "-"]
        done = subprocess.run(command, input=member_header(member), capture_output=True, check=False)
        assert f"{member.uid}/{member.gid}" in done.stdout.decode()
        assert expected in done.stdout.decode()


@settings(max_examples=100, deadline=None)
@given(
    path=st.lists(st.binary(min_size=1, max_size=120), min_size=1, max_size=3)
    .map(b"/".join)
    .map(lambda raw: raw.replace(b"\0", b"0").replace(b"//", b"/_").strip(b"/") or b"x"),
    target=st.binary(min_size=1, max_size=150).map(lambda raw: raw.replace(b"\0", b"0")),
    mtime_ns=st.integers(-(10**18), 10**19),
    xattrs=st.dictionaries(
        st.binary(min_size=1, max_size=9).map(lambda raw: raw.replace(b"\0", b"0")), st.binary(max_size=600)
    ),
)
def test_any_name_and_metadata(path: bytes, target: bytes, mtime_ns: int, xattrs: dict[bytes, bytes]) -> None:
    pairs = tuple((b"user." + name, value) for name, value in sorted(xattrs.items()))
    link = entry(path, EntryType.SYMLINK, link_target=target, mtime_ns=mtime_ns, xattrs=pairs)
    content = b"x" * (len(path) * 7)
    file = entry(path, mtime_ns=mtime_ns, xattrs=pairs, size=len(content), data_size=len(content))
    archive = member_header(link) + with_content(file, content)
    assert len(member_header(link)) % 512 == 0
    assert len(member_header(link)) <= member_bound(link)
    assert len(with_content(file, content)) <= member_bound(file)
    members = python_members(archive)
    assert [os.fsencode(member.name) for member in members] == [path.rstrip(b"/")] * 2
    assert os.fsencode(members[0].linkname) == target
    assert members[1].size == len(content)
    listed = subprocess.run(
        ["tar", "-t", "--null", "--quoting-style=literal", "--no-unquote"],
        input=archive + END_OF_ARCHIVE, capture_output=True, check=True,
    )  # fmt: skip
    assert listed.stdout == (path + b"\n") * 2


@settings(max_examples=40, deadline=None)
@given(gaps=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=6), tail=st.integers(0, 3000))
def test_sparse_members(gaps: list[tuple[int, int]], tail: int) -> None:
    extents: list[Extent] = []
    content, end = b"", 0
    for gap, length in gaps:
        if extents and not gap:
            gap = 1
        extents.append(Extent(end + gap * 512, length * 512))
        end += (gap + length) * 512
        content += os.urandom(length * 512)
    size = end + tail
    file = entry(b"d/sparse", size=size, data_size=len(content), sparse=True, extents=tuple(extents))
    whole = bytearray(size)
    position = 0
    for extent in extents:
        whole[extent.offset : extent.offset + extent.length] = content[position : position + extent.length]
        position += extent.length
    archive = member_header(file) + content + END_OF_ARCHIVE
    assert len(member_header(file)) + len(content) <= member_bound(file)
    done = subprocess.run(["tar", "-xO"], input=archive, capture_output=True, check=True)
    assert done.stdout == bytes(whole)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        (member,) = opened.getmembers()
        read = opened.extractfile(member)
        assert member.name == "d/sparse"
        assert read is not None
        assert read.read() == bytes(whole)


def test_gnu_tar_extracts_attributes(tmp_path: Path) -> None:
    pairs = ((b"user.a", b""), (b"user.b=c%", b"\0\n\xff" * 400))
    archive = with_content(entry(b"\xff\n" + b"n" * 100, xattrs=pairs), b"content") + END_OF_ARCHIVE
    subprocess.run(["tar", "-x", "--xattrs", "-C", str(tmp_path)], input=archive, check=True)
    (name,) = os.listdir(os.fsencode(tmp_path))
    path = os.path.join(os.fsencode(tmp_path), name)
    assert name == b"\xff\n" + b"n" * 100
    assert [(os.fsencode(key), os.getxattr(path, key)) for key in sorted(os.listxattr(path))] == list(pairs)
    assert os.stat(path).st_mtime_ns == SECOND


@pytest.mark.parametrize("letter", [b"\x01", b"\x7f", b"\xff"])
def test_the_checksum_of_headers_of_any_weight(letter: bytes) -> None:
    header = member_header(entry(letter * 99, EntryType.SYMLINK, link_target=letter * 99))
    last = header[-BLOCK:]
    assert int(last[148:154], 8) == sum(last[:148]) + 8 * ord(" ") + sum(last[156:])

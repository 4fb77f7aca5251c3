"""Trees for tests: declared as values, built under a folder, compared, and drawn by hypothesis.

root = os.fsencode(tmp_path) + b"/workspace"
build(root, [Directory(b"models", mode=0o750), File(b"models/a.bin", Seeded(5_000_000, seed=1)),
             HardLink(b"b.bin", b"models/a.bin"), Symlink(b"latest", b"models/a.bin"),
             File(b"disk.img", Sparse(1 << 30, ((4096, 8192),)))])
assert compare(root, other_root) == []
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from hypothesis import strategies as st

from controller_client.demo.compare import compare

__all__ = [
    "Device", "Directory", "Fifo", "File", "HardLink", "Node", "Seeded", "Sparse", "Symlink", "append", "build",
    "compare", "content_of", "facts", "names", "sizes", "trees",
]  # fmt: skip

_PIECE = 1 << 20
_2024 = 1_704_067_200_123_456_789


@dataclass(frozen=True)
class Seeded:
    """``size`` random bytes, always the same for one ``seed``; LZ4 shrinks them only if ``compressible``."""

    size: int
    seed: int = 0
    compressible: bool = False


@dataclass(frozen=True)
class Sparse:
    """A file of ``size`` bytes with random data only in ``extents``, given as (offset, length)."""

    size: int
    extents: tuple[tuple[int, int], ...] = ()
    seed: int = 0


Content = bytes | Seeded | Sparse


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What every entry has. ``owner`` is (uid, gid), or ``None`` for whoever builds the tree."""

    mode: int | None = None
    owner: tuple[int, int] | None = None
    mtime_ns: int = _2024
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class File(Metadata):
    """A regular file; mode 0644 unless given."""

    path: bytes
    content: Content = b""


@dataclass(frozen=True)
class Directory(Metadata):
    """A directory; mode 0755 unless given. Path b"" is the root itself. Directories above entries are made anyway."""

    path: bytes


@dataclass(frozen=True)
class Symlink(Metadata):
    """A symbolic link; its mode means nothing."""

    path: bytes
    target: bytes


@dataclass(frozen=True)
class HardLink:
    """A further name of an entry declared before it."""

    path: bytes
    target: bytes


@dataclass(frozen=True)
class Fifo(Metadata):
    """A named pipe."""

    path: bytes


@dataclass(frozen=True)
class Device(Metadata):
    """A character or block device; only root can build it."""

    path: bytes
    block: bool = False
    number: tuple[int, int] = field(default=(1, 3))


Node = File | Directory | Symlink | HardLink | Fifo | Device


def build(root: bytes, nodes: Sequence[Node]) -> None:
    """Builds a tree; ``root`` is made when missing and must be empty otherwise."""
    os.makedirs(root, exist_ok=True)
    directories = {b"": Directory(b"")}
    for node in nodes:
        for parent in _parents(node.path):
            directories.setdefault(parent, Directory(parent))
        if isinstance(node, Directory):
            directories[node.path] = node
    for path in sorted(directories):
        os.makedirs(_join(root, path), exist_ok=True)
    for node in nodes:
        path = _join(root, node.path)
        if isinstance(node, HardLink):
            os.link(_join(root, node.target), path, follow_symlinks=False)
        elif not isinstance(node, Directory):
            _make(path, node)
            _dress(path, node)
    # A child's creation changes the time of its directory, and a mode may forbid to create one.
    for path in sorted(directories, reverse=True):
        _dress(_join(root, path), directories[path])


def append(path: str | bytes | os.PathLike[str], data: bytes) -> None:
    """Appends to a file that exists.

    Opening it so that it would be made is forbidden for another user's file in a sticky folder that all may write to.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def content_of(content: Content) -> bytes:
    """Returns the whole content of a file."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, Seeded):
        return b"".join(_pieces(content.size, content.seed, content.compressible))
    whole = bytearray(content.size)
    for offset, length in content.extents:
        whole[offset : offset + length] = b"".join(_pieces(length, content.seed + offset, False))
    return bytes(whole)


def facts(root: bytes) -> dict[bytes, tuple[int, int, int]]:
    """Returns mode, size and mtime in nanoseconds of all that is below ``root``: tells whether it was touched."""
    found = {}
    for folder, folders, files in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in folders + files)]:
            status = os.lstat(path)
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def _parents(path: bytes) -> Iterator[bytes]:
    parent = os.path.dirname(path)
    while parent:
        yield parent
        parent = os.path.dirname(parent)


def _join(root: bytes, path: bytes) -> bytes:
    return os.path.join(root, path) if path else root


def _make(path: bytes, node: File | Symlink | Fifo | Device) -> None:
    if isinstance(node, Symlink):
        os.symlink(node.target, path)
    elif isinstance(node, Fifo):
        os.mkfifo(path)
    elif isinstance(node, Device):
        kind = stat.S_IFBLK if node.block else stat.S_IFCHR
        os.mknod(path, kind | 0o600, os.makedev(*node.number))
    else:
        _write(path, node.content)


def _write(path: bytes, content: Content) -> None:
    with open(path, "xb", buffering=0) as file:
        if isinstance(content, bytes):
            file.write(content)
        elif isinstance(content, Seeded):
            for piece in _pieces(content.size, content.seed, content.compressible):
                file.write(piece)
        else:
            file.truncate(content.size)
            for offset, length in content.extents:
                file.seek(offset)
                for piece in _pieces(length, content.seed + offset, False):
                    file.write(piece)


def _pieces(size: int, seed: int, compressible: bool) -> Iterator[bytes]:
    for number in range(-(-size // _PIECE)):
        length = min(_PIECE, size - number * _PIECE)
        source = random.Random((seed << 32) + number)
        if compressible:
            pattern = source.randbytes(61)
            yield (pattern * (length // 61 + 1))[:length]
        else:
            yield source.randbytes(length)


def _dress(path: bytes, node: File | Directory | Symlink | Fifo | Device) -> None:
    for name, value in node.xattrs:
        os.setxattr(path, name, value, follow_symlinks=False)
    if node.owner is not None:
        os.chown(path, *node.owner, follow_symlinks=False)
    if not isinstance(node, Symlink):
        default = 0o755 if isinstance(node, Directory) else 0o644
        os.chmod(path, default if node.mode is None else node.mode)
    os.utime(path, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)


def names() -> st.SearchStrategy[bytes]:
    """File names: any bytes but '/' and NUL, and some that are known to cause trouble."""
    odd = [
        b"\n",
        b"a\nb",
        b"\xff\xfe",
        b"\xc3\xbc",
        b" ",
        b"-rf",
        b"*",
        b"\\",
        b"'\"",
        b"...",
        b"~",
        b"a" * 255,
        b"%s",
        b"\x7f",
    ]
    anything = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"0"))
    return st.one_of(st.sampled_from(odd), anything).filter(lambda name: name not in (b".", b".."))


def sizes() -> st.SearchStrategy[int]:
    """Sizes of files: around the boundaries of tar and of pages, and small ones in between."""
    return st.one_of(st.sampled_from([0, 1, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097]), st.integers(0, 20_000))


@st.composite
def trees(
    draw: st.DrawFn,
    *,
    file_sizes: st.SearchStrategy[int] | None = None,
    max_directories: int = 6,
    max_entries: int = 14,
    privileged: bool | None = None,
    xattrs: bool = True,
) -> list[Node]:
    """Any tree: odd names, links that loop and dangle, hard links of everything, sparse files, any metadata.

    Args:
        file_sizes: the sizes of files, in bytes; ``sizes()`` if not given.
        max_directories: how many directories at most, nested in any way.
        max_entries: how many other entries at most.
        privileged: whether other owners and unreadable modes are drawn; by default, if root runs the test.
        xattrs: whether extended attributes of the user namespace are drawn.
    """
    root_runs = os.geteuid() == 0 if privileged is None else privileged
    metadata = _Drawn(draw, root_runs, xattrs)
    nodes: list[Node] = [Directory(b"", **metadata.of_directory())]
    directories = [b""]
    taken = {b""}
    for _ in range(draw(st.integers(0, max_directories))):
        path = _join(draw(st.sampled_from(directories)), draw(names())).lstrip(b"/")
        if path not in taken:
            taken.add(path)
            directories.append(path)
            nodes.append(Directory(path, **metadata.of_directory()))
    linkable: list[bytes] = []
    for _ in range(draw(st.integers(0, max_entries))):
        path = _join(draw(st.sampled_from(directories)), draw(names())).lstrip(b"/")
        if path not in taken:
            taken.add(path)
            nodes.append(_draw_entry(draw, path, linkable, metadata, file_sizes or sizes()))
            linkable.append(path)
    return nodes


def _draw_entry(
    draw: st.DrawFn, path: bytes, linkable: list[bytes], metadata: _Drawn, file_sizes: st.SearchStrategy[int]
) -> Node:
    kinds = ["file", "file", "file", "sparse", "symlink", "fifo"] + ["hard link"] * (2 if linkable else 0)
    kind = draw(st.sampled_from(kinds))
    if kind == "hard link":
        return HardLink(path, draw(st.sampled_from(linkable)))
    if kind == "symlink":
        name = os.path.basename(path)
        loops = st.sampled_from([name, b".", b"..", b"../..", b"/", b"/nowhere", b"./" + name, b"a" * 300, *linkable])
        target = draw(st.one_of(loops, st.binary(min_size=1, max_size=120).map(lambda raw: raw.replace(b"\0", b"0"))))
        return Symlink(path, target, **metadata.of_link())
    if kind == "fifo":
        return Fifo(path, **metadata.of_fifo())
    if kind == "sparse":
        return File(path, _draw_sparse(draw), **metadata.of_file())
    content = st.builds(Seeded, file_sizes, st.integers(0, 3), st.booleans())
    return File(path, draw(content), **metadata.of_file())


def _draw_sparse(draw: st.DrawFn) -> Sparse:
    size = draw(st.one_of(st.integers(1, 300_000), st.sampled_from([4096, 65536, 1 << 20, (1 << 20) + 1])))
    extents = []
    end = 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 20_000)), max_size=4)):
        begin = end + gap
        end = begin + length
        if end > size:
            break
        extents.append((begin, length))
    return Sparse(size, tuple(extents), draw(st.integers(0, 3)))


class _Given(TypedDict, total=False):
    mode: int | None
    owner: tuple[int, int] | None
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...]


class _Drawn:
    """Draws metadata that whoever runs the test may set."""

    def __init__(self, draw: st.DrawFn, privileged: bool, xattrs: bool) -> None:
        self._draw = draw
        self._privileged = privileged
        self._xattrs = xattrs

    def of_directory(self) -> _Given:
        return self._drawn(least=0o700, xattrs=True)

    def of_file(self) -> _Given:
        return self._drawn(least=0o400, xattrs=True)

    def of_fifo(self) -> _Given:
        return self._drawn(least=0o400, xattrs=False)

    def of_link(self) -> _Given:
        given = self._drawn(least=0o400, xattrs=False)
        del given["mode"]
        return given

    def _drawn(self, least: int, xattrs: bool) -> _Given:
        # ext4 keeps times from 1901 to 2446.
        given: _Given = {"mtime_ns": self._draw(st.integers(-(2**31) * 10**9, 2**33 * 10**9))}
        mode = self._draw(st.one_of(st.sampled_from([0, 0o644, 0o755, 0o7777, 0o4755, 0o2775]), st.integers(0, 0o7777)))
        given["mode"] = mode if self._privileged else mode | least
        if self._privileged:
            ids = st.sampled_from([0, 1, 1000, 65534, 2**31, 2**32 - 2])
            given["owner"] = self._draw(st.tuples(ids, ids))
        if xattrs and self._xattrs:
            suffix = st.binary(min_size=1, max_size=20).map(lambda raw: raw.replace(b"\0", b"0"))
            found = self._draw(st.dictionaries(suffix, st.binary(max_size=60), max_size=2))
            given["xattrs"] = tuple((b"user." + name, value) for name, value in sorted(found.items()))
        return given

"""How entries of a snapshot are listed."""

from __future__ import annotations

import stat

from controller_client.cli import units
from controller_client.diff import Attribute, Change, ChangeKind
from controller_client.model import Entry, EntryType
from controller_client.names import show_path

_FORMATS = {
    EntryType.FILE: stat.S_IFREG,
    EntryType.DIRECTORY: stat.S_IFDIR,
    EntryType.SYMLINK: stat.S_IFLNK,
    EntryType.HARD_LINK: stat.S_IFREG,
    EntryType.FIFO: stat.S_IFIFO,
    EntryType.CHARACTER_DEVICE: stat.S_IFCHR,
    EntryType.BLOCK_DEVICE: stat.S_IFBLK,
    EntryType.UNKNOWN: 0,
}
LETTERS = {
    ChangeKind.ADDED: "A",
    ChangeKind.DELETED: "D",
    ChangeKind.CONTENT: "M",
    ChangeKind.METADATA: "m",
    ChangeKind.TYPE: "T",
}


def shown_path(entry_path: bytes) -> str:
    """Returns an entry's path for people; the workspace itself is a dot."""
    return show_path(entry_path) if entry_path else "."


def long_line(entry: Entry) -> str:
    """Returns mode, owner, size, time and path of an entry, as `ls -l` has them."""
    mode = stat.filemode(_FORMATS[entry.type] | entry.mode)
    arrow = {EntryType.SYMLINK: " -> ", EntryType.HARD_LINK: " link to "}.get(entry.type)
    target = f"{arrow}{show_path(entry.link_target)}" if arrow else ""
    owner = f"{entry.uid}:{entry.gid}"
    when = units.local_time(entry.modify_time_ns)
    return f"{mode} {owner:>11} {units.size(entry.size):>9} {when} {shown_path(entry.path)}{target}"


def change_line(change: Change) -> str:
    """Returns the letter and the path of what differs."""
    return f"{LETTERS[change.kind]} {shown_path(change.path)}"


def attribute_names(attributes: tuple[Attribute, ...]) -> list[str]:
    """Returns the names of attributes for programs."""
    return [attribute.value for attribute in attributes]

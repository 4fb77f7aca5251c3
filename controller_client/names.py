"""File names are bytes. How they are shown to people and given to programs without being misread."""

from __future__ import annotations

_SHORT_ESCAPES = {ord("\\"): "\\\\", ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r"}


def show_path(path: bytes) -> str:
    """Returns a path for a terminal or a log: one line, nothing that a terminal acts on, and no two paths alike.

    Printable UTF-8 stays as it is. A backslash becomes ``\\\\``; newline, tab and return become ``\\n``, ``\\t`` and
    ``\\r``; every byte of anything else (control and bidirectional characters, invalid UTF-8) becomes ``\\xNN``.

    >>> show_path("models/größe.bin".encode())
    'models/größe.bin'
    >>> print(show_path(b"a\\x1b[31m\\xff"))
    a\\x1b[31m\\xff
    """
    return "".join(_show_character(c) for c in path.decode("utf-8", "surrogateescape"))


def show_text(text: str) -> str:
    """Returns ``show_path`` of a text that another machine chose, such as a host's name or a message."""
    return "".join(c if c.isprintable() else _show_character(c) for c in text)


def _show_character(character: str) -> str:
    code = ord(character)
    if code in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[code]
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))

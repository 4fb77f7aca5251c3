"""Texts for protobuf strings, which hold nothing but Unicode."""

from __future__ import annotations


def shown(text: str) -> str:
    """Returns ``text`` fit for a protobuf string: file names that are not UTF-8 may have left surrogates in it."""
    return text.encode("utf-8", "backslashreplace").decode()


def text_path(path: bytes) -> str:
    """Returns a path for a text field; bytes that are not UTF-8 are shown as ``\\xNN``."""
    return path.decode("utf-8", "backslashreplace")

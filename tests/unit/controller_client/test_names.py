"""Names are shown safely, and no two look alike."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller_client.names import show_path, show_text

ESCAPES = {"\\\\": b"\\", "\\n": b"\n", "\\t": b"\t", "\\r": b"\r"}


@given(st.binary(max_size=40))
@example(b"\xff\\xff")
@example("a\u202eb\u0085c\u2028".encode())
@example(b"\x1b]0;title\x07")
@example("é".encode()[:1])
def test_what_is_shown_is_printable_and_says_which_bytes_they_were(path: bytes) -> None:
    shown = show_path(path)
    assert shown.isprintable()
    assert unshow(shown) == path


@given(st.text())
def test_text_of_other_machines_is_printable(text: str) -> None:
    assert show_text(text).isprintable()


@pytest.mark.parametrize("name", ["plain.txt", "größe.bin", "日本語", "with space", "quote'\"$"])
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert show_path(name.encode()) == name
    assert show_text(name) == name


def unshow(shown: str) -> bytes:
    """Undoes ``show_path``."""
    parts = re.findall(r"\\x[0-9a-f]{2}|\\[\\ntr]|[^\\]", shown)
    assert "".join(parts) == shown
    return b"".join(
        bytes([int(part[2:], 16)]) if part.startswith("\\x") else ESCAPES.get(part, part.encode()) for part in parts
    )

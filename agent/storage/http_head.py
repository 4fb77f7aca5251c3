"""The text of HTTP/1.1 answers. Nothing here touches a socket."""

from __future__ import annotations

import re

import msgspec

END_OF_HEAD = b"\r\n\r\n"

# No number has more than 18 digits: there are no such objects, and Python refuses to read numbers of thousands.
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) (\d{3})(?: (.*))?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class BrokenAnswerError(Exception):
    """What came is no HTTP answer, or ended too soon."""


class Head(msgspec.Struct, frozen=True):
    """The head of an answer; the names of its headers are in lower case."""

    status: int
    reason: str
    headers: dict[str, str]
    is_keep_alive: bool

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks with sizes of their own."""
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    @property
    def length(self) -> int | None:
        """The bytes of the body; ``None`` if only the end of the connection ends it, or if it is chunked.

        Raises:
            BrokenAnswerError: it is not a number.
        """
        if self.status in (204, 304) or self.status < 200:
            return 0
        text = self.headers.get("content-length")
        if text is None or self.is_chunked:
            return None
        if not _LENGTH.fullmatch(text):
            raise BrokenAnswerError(f"the answer has the Content-Length {text[:40]!r}")
        return int(text)

    @property
    def part(self) -> tuple[int, int, int]:
        """Where in the object the body begins and ends (behind its last byte), and the object's size.

        Raises:
            BrokenAnswerError: it does not say, or no body can be that part.
        """
        if self.status != 206:
            if self.length is None:
                raise BrokenAnswerError("the store does not say how large the object is")
            return 0, self.length, self.length
        text = self.headers.get("content-range", "")
        match = _RANGE.fullmatch(text)
        begin, last, size = (int(number) for number in match.groups()) if match else (0, 0, 0)
        if not begin <= last < size:
            raise BrokenAnswerError(f"the answer has the Content-Range {text[:60]!r}")
        return begin, last + 1, size


def parse_head(data: bytes) -> Head:
    """Returns a head from its bytes, which end with an empty line.

    Raises:
        BrokenAnswerError: it is not one.
    """
    lines = data.decode("latin-1").split("\r\n")
    match = _STATUS_LINE.fullmatch(lines[0])
    if not match:
        raise BrokenAnswerError(f"the answer begins with {lines[0][:40]!r} and is not HTTP")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    wish = headers.get("connection", "").lower()
    is_keep_alive = wish != "close" if match[1] == "1" else wish == "keep-alive"
    return Head(int(match[2]), match[3] or "", headers, is_keep_alive)


def join_chunks(data: bytes) -> tuple[bytes, bool]:
    """Returns the body that chunked bytes hold so far, and whether they are complete.

    Raises:
        BrokenAnswerError: they are not chunked.
    """
    body = b""
    while (end := data.find(b"\r\n")) >= 0:
        found = _CHUNK_SIZE.fullmatch(data[:end])
        if not found:
            raise BrokenAnswerError("the answer's body has a chunk without a size")
        size = int(found[1], 16)
        if size == 0:
            return body, data[end:].endswith(END_OF_HEAD)
        start, data = end + 2, data
        if len(data) < start + size + 2:
            return body + data[start : start + size], False
        body += data[start : start + size]
        data = data[start + size + 2 :]
    return body, False

"""The lines that go to and come from ``s5cmd --json run``. Nothing here touches a file or a process."""

from __future__ import annotations

import re
import shlex

import msgspec

from agent import foreign
from agent.errors import DataLossError
from agent.storage.failure import Failure, FailureKind, kind_of

UPLOAD_PART_MIB = 80
"""Above the largest object of the repository format, so that every upload is one PUT."""

SMALLEST_PART_MIB = 8
"""Downloads have no smaller parts, as each costs s5cmd a request and mostly a new connection.

Measured with two cores and 1.6 GB of 64 MiB objects through 384 MiB of tmpfs, processor seconds of s5cmd a GB:

    part      nginx, http   nginx, https   SeaweedFS   MB/s where nginx gives each connection at most 30 / 80 MiB/s
    8 MiB     1.51          1.42           1.26        610 / 645 (bound by the processor)
    16 MiB    1.42          1.40           1.14        382 / 680
    32 MiB    1.20          1.29           -           174 / 367
    whole     1.25          1.30           0.80        167 / 342

So parts should be as large as still keeps every connection busy; distant stores give each connection a few dozen MB/s.
"""

TEXT_LIMIT = 1000
"""Characters of an error's text that are kept."""

_TOKEN = re.compile(r"gpusnap-[0-9a-f]{16}")
_CODE = re.compile(r"(?:^|caused by: )([A-Z][A-Za-z0-9]+):")
_STATUS = re.compile(r"status code: (\d{3})")
_FULL = ("no space left on device", "disk quota exceeded")
_LOCAL = re.compile(r"^(?:(?:open|write|read|stat|mkdir|rename|chmod) /|given object /)")


class Answer(msgspec.Struct, frozen=True):
    """The end of one command.

    Attributes:
        tokens: what may name the staged file it was about; of several, one is the file's.
        failure: why it failed; ``None`` for success.
    """

    tokens: tuple[str, ...]
    failure: Failure | None


class Remark(msgspec.Struct, frozen=True):
    """A line that is no answer: a warning, a usage text, a crash."""

    text: str


class _Line(msgspec.Struct):
    operation: str = ""
    success: bool = False
    source: str = ""
    destination: str = ""
    command: str = ""
    error: str = ""


_decoder = msgspec.json.Decoder(_Line)


def tokens_in(text: str) -> tuple[str, ...]:
    """Returns everything in a text that looks like the name of a staged file."""
    return tuple(_TOKEN.findall(text))


def upload_line(path: str, url: str, region: str) -> bytes:
    """Returns the command that stores a local file with one PUT; an empty region is discovered by s5cmd."""
    options = ["--concurrency", "1", "--part-size", str(UPLOAD_PART_MIB)]
    if region:
        options += ["--destination-region", region]
    return _line(options, path, url)


class Parts(msgspec.Struct, frozen=True):
    """How an object is fetched: in parts of so many MiB, over so many connections."""

    connections: int
    mib: int


def download_parts(size: int, room: int, connections: int) -> Parts:
    """Decides in which parts an object of ``size`` bytes is fetched.

    A part is at least what each connection gets of the room for objects on their way: then a full room keeps all of
    them busy, with as few requests as that takes. An object comes whole, or in three parts and more: s5cmd fetches the
    first one alone to learn the size, so that of two the second would only wait.

    Args:
        size: bytes of the object.
        room: bytes that may be on their way at once.
        connections: connections that may be used at once.
    """
    fair = max(room // connections, SMALLEST_PART_MIB << 20)
    count = min(size // fair, connections)
    if count < 3:
        count = 1
    return Parts(count, max(-(-size // (count << 20)), SMALLEST_PART_MIB))


def download_line(url: str, path: str, region: str, parts: Parts) -> bytes:
    """Returns the command that fetches an object; an empty region is discovered by s5cmd."""
    options = ["--concurrency", str(parts.connections), "--part-size", str(parts.mib)]
    if region:
        options += ["--source-region", region]
    return _line(options, url, path)


def parse_line(line: bytes) -> Answer | Remark:
    """Returns what one line of s5cmd's standard output or error says; never fails."""
    try:
        fields = foreign.decode(line, _decoder, "the line")
    except DataLossError:
        return Remark(line.decode("utf-8", "replace").strip()[:TEXT_LIMIT])
    if fields.success:
        return Answer(tokens_in(f"{fields.source}\n{fields.destination}"), None)
    if not fields.error:
        return Remark(line.decode("utf-8", "replace").strip()[:TEXT_LIMIT])
    tokens = tokens_in(fields.command)
    if not tokens:
        return Remark(fields.error[:TEXT_LIMIT])
    return Answer(tokens, classify(fields.error))


def classify(text: str) -> Failure:
    """Returns the class of an error text of s5cmd; one that is not known is worth another try."""
    text = " ".join(text.split())
    shown = text[:TEXT_LIMIT]
    if text.endswith(_FULL):
        return Failure(FailureKind.NO_SPACE, shown)
    if _LOCAL.match(text):
        return Failure(FailureKind.LOCAL, shown)
    codes: list[str] = _CODE.findall(text)
    for code in reversed(codes):
        kind = kind_of(code)
        if kind:
            return Failure(kind, shown, code)
    status = _STATUS.search(text)
    kind = kind_of("", int(status.group(1))) if status else None
    return Failure(kind or FailureKind.UNAVAILABLE, shown, codes[-1] if codes else "")


def _line(options: list[str], source: str, destination: str) -> bytes:
    return (shlex.join(["cp", "--raw", *options, source, destination]) + "\n").encode()

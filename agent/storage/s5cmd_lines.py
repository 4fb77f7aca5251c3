"""The lines that go to and come from ``s5cmd --json run``. Nothing here touches a file or a process."""

from __future__ import annotations

import re
import shlex

import msgspec

from agent.storage.failure import Failure, FailureKind, kind_of

UPLOAD_PART_MIB = 80
"""Above the largest object of the repository format, so that every upload is one PUT."""

DOWNLOAD_PART_MIB = 8
"""A chunk comes over one connection for each part of this size, so a 64 MiB chunk over eight."""

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


def download_connections(size: int, most: int) -> int:
    """Returns over how many connections an object of ``size`` bytes comes, from 1 to ``most``."""
    return min(max(-(-size // (DOWNLOAD_PART_MIB << 20)), 1), most)


def download_line(url: str, path: str, region: str, connections: int) -> bytes:
    """Returns the command that fetches an object; an empty region is discovered by s5cmd."""
    options = ["--concurrency", str(connections), "--part-size", str(DOWNLOAD_PART_MIB)]
    if region:
        options += ["--source-region", region]
    return _line(options, url, path)


def parse_line(line: bytes) -> Answer | Remark:
    """Returns what one line of s5cmd's standard output or error says; never fails."""
    try:
        fields = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
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

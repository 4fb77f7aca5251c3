"""One page of a listing of an S3 bucket, as the store sends it. Pure."""

from __future__ import annotations

import datetime
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import msgspec

from agent.storage.http_head import BrokenAnswerError
from agent.storage.store import ObjectInfo

_SIZE = re.compile(r"[0-9]{1,18}")


class Page(msgspec.Struct, frozen=True):
    """A part of a listing. Keys are whole, with the prefix.

    Attributes:
        objects: the objects.
        folders: the common prefixes.
        next: what asks for the next page; empty at the end.
    """

    objects: tuple[ObjectInfo, ...]
    folders: tuple[str, ...]
    next: str


def parse_page(body: bytes) -> Page:
    """Returns a page from the body of the answer to ListObjectsV2.

    Raises:
        BrokenAnswerError: it is none.
    """
    # Entities of its own could grow without end, and UTF-16 would hide them.
    if b"<!DOCTYPE" in body or b"\0" in body:
        raise BrokenAnswerError("the listing defines entities of its own, or is not in UTF-8")
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - harmless without entities
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise BrokenAnswerError(f"the listing is no XML: {error}") from error
    if _name(root) != "ListBucketResult":
        raise BrokenAnswerError(f"the listing is a {_name(root)[:100]}")
    facts = _facts(root)
    is_encoded = facts.get("EncodingType") == "url"

    def key(text: str) -> str:
        return unquote(text) if is_encoded else text

    objects, folders = [], []
    for item in root:
        if _name(item) == "Contents":
            found = _facts(item)
            objects.append(_object(key(found.get("Key", "")), found))
        elif _name(item) == "CommonPrefixes":
            folders.append(key(_facts(item).get("Prefix", "")))
    if facts.get("IsTruncated") not in ("true", "false"):
        raise BrokenAnswerError("the listing does not say whether it goes on")
    is_cut = facts["IsTruncated"] == "true"
    token = facts.get("NextContinuationToken", "")
    if is_cut and not token:
        raise BrokenAnswerError("the listing is cut and does not say how it goes on")
    return Page(tuple(objects), tuple(folders), token if is_cut else "")


def http_time(text: str) -> int:
    """Returns the time of a Last-Modified header in nanoseconds since 1970.

    Raises:
        BrokenAnswerError: it is none.
    """
    try:
        when = datetime.datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT")
    except ValueError as error:
        raise BrokenAnswerError(f"the answer has the Last-Modified {text[:40]!r}") from error
    return _epoch_ns(when)


def _object(key: str, facts: dict[str, str]) -> ObjectInfo:
    size, modified = facts.get("Size", ""), facts.get("LastModified", "")
    try:
        when = datetime.datetime.fromisoformat(modified.removesuffix("Z")[:23])
        if not _SIZE.fullmatch(size):
            raise ValueError("no size")
        return ObjectInfo(key, int(size), _epoch_ns(when))
    except (ValueError, OverflowError) as error:
        raise BrokenAnswerError(f"the listing says {size[:40]!r} and {modified[:40]!r} of an object") from error


def _epoch_ns(when: datetime.datetime) -> int:
    return int(when.replace(tzinfo=datetime.timezone.utc).timestamp() * 1000) * 1_000_000


def _facts(element: ElementTree.Element) -> dict[str, str]:
    """Returns the texts of an element's children by their names."""
    return {_name(child): child.text or "" for child in element}


def _name(element: ElementTree.Element) -> str:
    """Returns a tag without its namespace: servers differ in that."""
    return element.tag.rpartition("}")[2]

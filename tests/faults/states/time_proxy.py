"""A way to an S3 store on which its clock can jump, and processes be killed at one of their requests.

Only times are translated, in both directions: those of objects in answers, and those until when a request may be
carried out. The store itself still judges whether it is too late for a request.
"""

from __future__ import annotations

import asyncio
import datetime
import enum
import re
import threading
import time
from urllib.parse import parse_qs, urlsplit

import msgspec

from agent.config.model import StorageConfig
from agent.storage.sigv4 import Keys, signed_query
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy, Seen, chunks_of_body, headers_of, pieces_of, until_closed

_HTTP_TIME = "%a, %d %b %Y %H:%M:%S GMT"
_HEADER = re.compile(rb"(?im)^(last-modified: *)([^\r\n]+)")
_LISTED = re.compile(rb"(<LastModified>)(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)")


class Place(msgspec.Struct, frozen=True):
    """The so-manyth request of a kind: of a method (any, if not given), with a text in its path."""

    number: int
    method: str = ""
    part: str = ""

    def is_of_kind(self, seen: Seen) -> bool:
        """Whether a request is of this kind."""
        return seen.method == (self.method or seen.method) and self.part in seen.path


class Moment(enum.Enum):
    """What has become of the request at which a process is killed."""

    NEVER_SENT = "never sent"
    ANSWER_LOST = "carried out, and the answer lost"
    LATE = "on its way, to be carried out later"


class TimeProxy(Proxy):
    """Passes requests on to a store whose clock it lets jump.

    Args:
        server: the store's host and port.
        storage: what requests are signed with.

    Attributes:
        reached: set once the request is there that ``stop_at`` has named.
    """

    def __init__(self, server: tuple[str, int], storage: StorageConfig) -> None:
        assert storage.credentials is not None
        keys = storage.credentials
        self._keys = Keys(keys.access_key_id, keys.secret_access_key, keys.session_token, storage.region)
        self._jumps: list[tuple[int, int]] = [(0, 0)]
        self.reached = threading.Event()
        self._place = Place(0)
        self._moment = Moment.NEVER_SENT
        self._left = self._asking = 0
        self._release = threading.Event()
        self._late = 0
        self._written_s = int(time.time())
        super().__init__(server)

    @property
    def shift(self) -> int:
        """How many seconds the store's clock is ahead of this machine's by now."""
        now = int(time.time())
        return self.translated(now) - now

    @property
    def now_s(self) -> int:
        """The store's clock, in whole seconds since 1970."""
        return int(time.time()) + self.shift

    def jump(self, seconds: int) -> None:
        """Sets the store's clock ahead."""
        # Objects have whole seconds: those of before and of after the jump must not share one.
        now = int(time.time())
        begin = now if self._written_s < now and not self._asking else now + 1
        self._jumps.append((begin, self._jumps[-1][1] + seconds))
        wait_until(lambda: time.time() >= begin, "the next second")

    def note_write(self) -> None:
        """Takes note that something was stored just now, by this way or another one."""
        self._written_s = int(time.time())

    def stop_at(self, place: Place, moment: Moment) -> None:
        """Lets a request from now on get stuck; ``reached`` tells when it is there."""
        self.reached.clear()
        self._place, self._moment = place, moment
        self._left = place.number

    def stop_no_more(self) -> None:
        """Lets all further requests through, and waits for those that are being answered."""
        self._left = 0
        wait_until(lambda: not self._asking, "the store's answers")

    @property
    def has_late(self) -> bool:
        """Whether requests are on their way whose senders were killed."""
        return self._late > 0

    def deliver_late(self) -> None:
        """Carries out the requests that are on their way since their senders were killed."""
        self._release.set()
        wait_until(lambda: not self._late, "the requests that were on their way")
        self._release = threading.Event()

    def translated(self, second: int) -> int:
        """Returns what the store's clock showed at a second of this machine's."""
        return second + next(shift for begin, shift in reversed(self._jumps) if begin <= second)

    async def _pass_on(
        self,
        fault: Fault,
        seen: Seen,
        head: bytes,
        length: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if "expect" in seen.headers:
            head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(length)
        moment = self._next_moment(seen)
        if moment is Moment.NEVER_SENT:
            self.reached.set()
            await until_closed(writer)
        if moment is Moment.LATE:
            await self._deliver_later(seen, head, body)
            await until_closed(writer)
        answer = await self._answer(seen, head, body)
        if moment is Moment.ANSWER_LOST:
            self.reached.set()
            await until_closed(writer)
        writer.write(answer)
        await writer.drain()

    def _next_moment(self, seen: Seen) -> Moment | None:
        if not self._left or not self._place.is_of_kind(seen):
            return None
        self._left -= 1
        return None if self._left else self._moment

    async def _deliver_later(self, seen: Seen, head: bytes, body: bytes) -> None:
        release = self._release
        self._late += 1
        self.reached.set()
        try:
            while not release.is_set():
                await asyncio.sleep(0.01)
            await self._answer(seen, head, body)
        finally:
            self._late -= 1

    async def _answer(self, seen: Seen, head: bytes, body: bytes) -> bytes:
        """Asks the store and returns its whole answer, with times as its clock shows them."""
        self._asking += 1
        try:
            answer_head, content = await self._ask(self._to_store(seen, head) + body, has_body=seen.method != "HEAD")
        finally:
            self._asking -= 1
            if seen.method != "GET":
                self.note_write()
        answer_head = _HEADER.sub(lambda found: found[1] + self._http_time(found[2]), answer_head)
        if "xml" in headers_of(answer_head).get("content-type", ""):
            # As long as before, so no length changes.
            content = _LISTED.sub(lambda found: found[1] + self._listed_time(found[2]), content)
        return answer_head + content

    async def _ask(self, request: bytes, *, has_body: bool) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(*self._server)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            headers = headers_of(head)
            is_chunked = headers.get("transfer-encoding") == "chunked"
            size = int(headers.get("content-length", "0"))
            pieces = chunks_of_body(reader) if is_chunked and has_body else pieces_of(reader, size if has_body else 0)
            return head, b"".join([piece async for piece in pieces])
        finally:
            writer.close()

    def _to_store(self, seen: Seen, head: bytes) -> bytes:
        """Signs a request that has an end anew, with its times as this machine's clock shows them."""
        parts = urlsplit(seen.path)
        query = parse_qs(parts.query)
        if "X-Amz-Expires" not in query:
            return head
        begin = datetime.datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ")
        begin_s = int(begin.replace(tzinfo=datetime.timezone.utc).timestamp())
        seconds = int(query["X-Amz-Expires"][0])
        host = seen.headers["host"]
        was = signed_query(seen.method, host, parts.path, self._keys, begin_s, seconds)
        assert was == parts.query, "a request was signed with other keys, or with times that nobody has told"
        now = signed_query(seen.method, host, parts.path, self._keys, begin_s - self.shift, seconds)
        return head.replace(was.encode(), now.encode(), 1)

    def _http_time(self, text: bytes) -> bytes:
        when = datetime.datetime.strptime(text.decode(), _HTTP_TIME).replace(tzinfo=datetime.timezone.utc)
        return self._moved(when).strftime(_HTTP_TIME).encode()

    def _listed_time(self, text: bytes) -> bytes:
        when = datetime.datetime.fromisoformat(text.decode()).replace(tzinfo=datetime.timezone.utc)
        return self._moved(when).strftime("%Y-%m-%dT%H:%M:%S").encode()

    def _moved(self, when: datetime.datetime) -> datetime.datetime:
        second = int(when.timestamp())
        return when + datetime.timedelta(seconds=self.translated(second) - second)

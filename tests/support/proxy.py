"""An HTTP proxy in front of a store that does to each request what a test has scripted."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine

import msgspec

_PIECE = 64 << 10
_ESTABLISHED = 1
_STEP_SECONDS = 10.0


class Fault(msgspec.Struct, frozen=True):
    """What happens to one request. Bytes are those of the answer's body (GET), or of the request's (PUT).

    Attributes:
        answer: a whole answer that is sent instead of the store's, once the request was read.
        is_early: the answer is sent, and the connection closed, before the request's body was read.
        head_bytes: bytes of the answer's head after which the connection is reset, so that nobody knows what was done.
        reset_after: bytes after which the connection is reset.
        end_after: bytes after which the connection is closed in order.
        stall_after: bytes after which nothing moves any more.
        is_mute: the store gets the whole request, but no answer comes back.
        more_length: what is added to the answer's Content-Length.
        ignores_range: the Range header does not reach the store.
        flip_at: the byte in which a bit is flipped on its way.
        piece_seconds: seconds before each piece of 64 KiB: a slow link.
        closes_after: the connection is closed after the answer, without saying so in it.
        is_held: the request waits here, before any of it is passed on, until ``Proxy.released`` is set.
    """

    answer: bytes = b""
    is_early: bool = False
    head_bytes: int = -1
    reset_after: int = -1
    end_after: int = -1
    stall_after: int = -1
    is_mute: bool = False
    more_length: int = 0
    ignores_range: bool = False
    flip_at: int = -1
    piece_seconds: float = 0.0
    closes_after: bool = False
    is_held: bool = False


def answer(status: int, body: str = "", **headers: str) -> bytes:
    """Returns a whole HTTP answer; underscores in the names of headers stand for hyphens."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Scripted\r\ncontent-length: {len(body)}\r\n{lines}\r\n{body}".encode()


@dataclasses.dataclass
class Seen:
    """One request that reached the proxy, and the bytes of its body or of its answer's body that were let through."""

    method: str
    path: str
    headers: dict[str, str]
    passed: int = 0

    @property
    def range(self) -> str:
        """The Range header."""
        return self.headers.get("range", "")


class _ClosedError(Exception):
    """The connection to the client shall end."""


class Proxy:
    """Passes requests on, each over a new connection to the server.

    Args:
        server: the store's host and port.
        tls: what to encrypt the client's side with.

    Attributes:
        faults: one for each of the next requests; afterwards ``default``.
        script: asked for the fault of each request that has none of these; ``None`` is ``default``.
        held, released: set when a request is held, and to let such requests go on.
        seen: the requests so far.
        connections: connections so far.
        open_connections: those that are open now.
        most_connections: the most that were open at once.
    """

    def __init__(self, server: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self.faults: deque[Fault] = deque()
        self.default = Fault()
        self.script: Callable[[Seen], Fault | None] = lambda seen: None
        self.held, self.released = threading.Event(), threading.Event()
        self.seen: list[Seen] = []
        self.connections = self.open_connections = self.most_connections = 0
        self._server = server
        self._tls = tls
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._listening: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._do(self._listen(listener))

    @property
    def endpoint(self) -> str:
        """The URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def down(self) -> None:
        """Refuses connections and breaks the present ones, like a host without its server, until ``up``."""
        self._do(self._stop_listening())

    def up(self) -> None:
        """Takes connections again."""
        self._do(self._listen(socket.create_server(("127.0.0.1", self.port))))

    def close(self) -> None:
        """Takes no more connections and ends the present ones."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        if self._listening is not None:
            self._listening.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _do(self, work: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_STEP_SECONDS)

    async def _listen(self, listener: socket.socket) -> None:
        self._listening = await asyncio.start_server(self._connected, sock=listener, ssl=self._tls)

    async def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for writer in list(self._writers):
            _reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        self._writers.add(writer)
        self.most_connections = max(self.most_connections, self.open_connections)
        try:
            while True:
                await self._one_request(reader, writer)
        except (_ClosedError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_connections -= 1
            self._writers.discard(writer)
            with contextlib.suppress(RuntimeError):
                writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.decode("latin-1").split(" ", 2)
        seen = Seen(method, path, headers_of(head))
        fault = self.faults.popleft() if self.faults else self.script(seen) or self.default
        self.seen.append(seen)
        length = int(seen.headers.get("content-length", "0"))
        if fault.is_held:
            self.held.set()
            while not self.released.is_set():
                await asyncio.sleep(0.01)
        if fault.answer and fault.is_early:
            writer.write(fault.answer)
            await writer.drain()
            raise _ClosedError
        if fault.answer:
            await reader.readexactly(length)
            top, end, _ = fault.answer.partition(b"\r\n\r\n")
            writer.write(top + end if method == "HEAD" else fault.answer)
            await writer.drain()
        else:
            await self._pass_on(fault, seen, head, length, reader, writer)
        if fault.closes_after:
            raise _ClosedError

    async def _pass_on(
        self,
        fault: Fault,
        seen: Seen,
        head: bytes,
        length: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if fault.ignores_range:
            head = re.sub(rb"(?i)\r\nrange:[^\r]*", b"", head)
        if "expect" in seen.headers:
            head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        store_reader, store_writer = await asyncio.open_connection(*self._server)
        try:
            store_writer.write(head)
            if length:
                async for piece in pieces_of(reader, length):
                    await self._let(fault, seen, piece, store_writer, writer)
            if fault.is_mute:
                await until_closed(writer)
            answer_head = await store_reader.readuntil(b"\r\n\r\n")
            if fault.head_bytes >= 0:
                writer.write(answer_head[: fault.head_bytes])
                await writer.drain()
                _reset(writer)
                raise _ClosedError
            headers = headers_of(answer_head)
            size = 0 if seen.method == "HEAD" else int(headers.get("content-length", "0"))
            if fault.more_length:
                changed = f"content-length: {size + fault.more_length}".encode()
                answer_head = re.sub(rb"(?i)content-length: *\d+", changed, answer_head)
            writer.write(answer_head)
            is_chunked = headers.get("transfer-encoding") == "chunked" and seen.method != "HEAD"
            body = (
                chunks_of_body(store_reader)
                if is_chunked
                else pieces_of(store_reader, min(size, size + fault.more_length))
            )
            async for piece in body:
                if length:
                    writer.write(piece)
                else:
                    await self._let(fault, seen, piece, writer, writer)
            await writer.drain()
            if fault.more_length:
                raise _ClosedError
        finally:
            store_writer.close()

    async def _let(
        self,
        fault: Fault,
        seen: Seen,
        piece: bytes,
        sink: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
    ) -> None:
        """Passes one piece on, up to where the fault begins."""
        limit = max(fault.reset_after, fault.end_after, fault.stall_after)
        if fault.piece_seconds:
            await asyncio.sleep(fault.piece_seconds)
        place = fault.flip_at - seen.passed
        if 0 <= place < len(piece):
            piece = piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]
        room = len(piece) if limit < 0 else limit - seen.passed
        sink.write(piece[:room])
        await sink.drain()
        seen.passed += len(piece[:room])
        if room >= len(piece):
            return
        if fault.stall_after >= 0:
            await until_closed(client)
        if fault.reset_after >= 0:
            _reset(client)
        raise _ClosedError


def headers_of(head: bytes) -> dict[str, str]:
    """Returns the headers of a message, by their names in lower case."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def pieces_of(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    """Yields a body of so many bytes."""
    while length:
        piece = await reader.read(min(_PIECE, length))
        if not piece:
            raise _ClosedError
        length -= len(piece)
        yield piece


async def chunks_of_body(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yields a body that comes in chunks, coded as it is."""
    size = 1
    while size:
        line = await reader.readline()
        size = int(line.split(b";")[0], 16)
        yield line + await reader.readexactly(size + 2)


async def until_closed(writer: asyncio.StreamWriter) -> None:
    """Waits until the client gives up. What it still sends is not read, as on a link that is dead."""
    raw = writer.get_extra_info("socket")
    while raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED:
        await asyncio.sleep(0.01)
    raise _ClosedError


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

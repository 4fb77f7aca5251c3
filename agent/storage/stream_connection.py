"""One HTTP connection that reads bodies straight into the caller's memory and can be cut from another thread."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterable

from agent.errors import CancelledError
from agent.storage.http_head import END_OF_HEAD, BrokenAnswerError, Head, join_chunks, parse_head
from agent.storage.staging import cancelled

HEAD_BYTES = 64 << 10
"""The longest head of an answer that is taken."""

TEXT_BYTES = 64 << 10
"""The longest body of an answer that is taken as text."""

PIECE_BYTES = 1 << 20
"""Bytes sent or received between two looks at what else happens."""

PIECE_SECONDS = 0.1
"""What comes encrypted comes in pieces of 16 KiB, which are received one by one for so long between two such looks."""

_NO_LINGER = struct.pack("ii", 1, 0)


class StaleConnectionError(Exception):
    """The server had closed a connection that was kept: the request was not looked at and can be sent again."""


class Connection:
    """A connection to one server, opened when needed and kept for further requests.

    What blocks ends with TimeoutError when no byte has moved for a while. All but ``cut`` is for one thread.

    Args:
        host: the server.
        port: its port.
        tls: how to encrypt; ``None`` for plain http.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._socket: socket.socket | None = None
        self._is_cut = False
        self._answers = 0
        self._ahead = b""
        self._left: int | None = 0
        self._head: Head | None = None
        self._patience = 1.0
        self._answer_patience = 1.0
        self.bytes_moved = 0
        """Bytes that were sent, or received as bodies; what comes with an answer's head is left out."""
        self.last_moved = 0.0
        """When (``time.monotonic``) the last byte was sent or received, or else when the attempt began."""
        self.processor_seconds = 0.0
        """How long the thread that used it last had been on a processor when the last byte moved."""

    def begin(self, patience: float, answer_patience: float) -> None:
        """Sets how many seconds it may be silent, and how many it may take to confirm a body that was sent."""
        self._patience = patience
        self._answer_patience = answer_patience
        self.last_moved = time.monotonic()

    def request(self, head: bytes, body: Iterable[memoryview] | None = None) -> Head:
        """Sends a request and returns the head of its answer. The answer to HEAD has no body.

        Args:
            head: the request.
            body: what follows it, piece by piece; what else it raises goes through, and the connection is closed.

        Raises:
            OSError, BrokenAnswerError, StaleConnectionError, CancelledError: it did not work; the connection is closed.
        """
        if not self._is_ready():
            self.close()
        try:
            connection = self._socket or self._open()
            try:
                self._send(connection, memoryview(head))
                for piece in body or ():
                    self._send(connection, piece)
            except (BrokenPipeError, ConnectionResetError):
                # A server that refuses a body answers before it hangs up.
                if body is None or self._answers:
                    raise
            connection.settimeout(self._patience if body is None else self._answer_patience)
            answer = self._read_head(connection)
            if head.startswith(b"HEAD "):
                self._left = 0
            connection.settimeout(self._patience)
        except (OSError, BrokenAnswerError) as error:
            was_kept = self._answers > 0 and not self._ahead and not isinstance(error, TimeoutError)
            self.close()
            if self._is_cut:
                raise cancelled() from error
            if was_kept:
                raise StaleConnectionError from error
            raise
        except BaseException:
            self.close()
            raise
        self._answers += 1
        return answer

    def read_into(self, view: memoryview) -> int:
        """Reads the next bytes of the body, at least one; returns their number, 0 at the body's end.

        Raises:
            OSError, CancelledError: the connection broke, and is closed.
        """
        if self._left is not None:
            view = view[: self._left]
        if self._ahead:
            count = min(len(self._ahead), len(view))
            view[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
        elif view:
            count = self._receive_into(view)
        else:
            count = 0
        if self._left is not None:
            self._left -= count
        return count

    def read_all(self, limit: int) -> bytes:
        """Returns the whole body.

        Raises:
            BrokenAnswerError: it ended too soon, or is longer than ``limit``; the connection is closed.
            OSError, CancelledError: the connection broke, and is closed.
        """
        received = bytearray()
        if not self._collect(received, limit):
            self.close()
            raise BrokenAnswerError(f"the answer's body ended too soon, or is longer than {limit:,} bytes")
        return self._joined(received)

    def read_text(self) -> str:
        """Returns the body, as far as it is needed to tell what it says. Never fails."""
        received = bytearray()
        try:
            if not self._collect(received, TEXT_BYTES):
                self.close()
            return self._joined(received).decode("utf-8", "replace")
        except (OSError, BrokenAnswerError, CancelledError):
            self.close()
            return received.decode("utf-8", "replace")

    def _collect(self, received: bytearray, limit: int) -> bool:
        """Appends the body as it comes; says whether it came to its end within the limit."""
        expected = self._left
        buffer = memoryview(bytearray(min(limit, PIECE_BYTES)))
        while len(received) <= limit and (count := self.read_into(buffer)):
            received += buffer[:count]
            if self._is_chunked and received.endswith(END_OF_HEAD) and join_chunks(bytes(received))[1]:
                self._left = 0
                return True
        return not self._is_chunked and len(received) <= limit and expected in (None, len(received))

    def _joined(self, received: bytearray) -> bytes:
        return join_chunks(bytes(received))[0] if self._is_chunked else bytes(received)

    @property
    def _is_chunked(self) -> bool:
        return self._head is not None and self._head.is_chunked

    def cut(self) -> None:
        """Ends what blocks, now and later; for any thread."""
        self._is_cut = True
        connection = self._socket
        if connection is not None:
            try:
                # Not SSLSocket's own method, which would take its state away under a thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except OSError:
                pass  # not connected, or closed already

    def close(self) -> None:
        """Closes it; the next request opens it anew."""
        connection, self._socket = self._socket, None
        if connection is not None:
            if self._is_cut:
                # Reset, so that the kernel does not go on sending what was on its way.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            connection.close()
        self._answers = 0
        self._ahead = b""
        self._left = 0
        self._head = None

    def _is_ready(self) -> bool:
        """Whether the last answer was read to its end and the server keeps the connection."""
        return self._left == 0 and not self._ahead and (self._head is None or self._head.is_keep_alive)

    def _open(self) -> socket.socket:
        problem: OSError = OSError(f"{self._host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM):
            plain = socket.socket(family, kind, protocol)
            self._socket = plain  # before it blocks, so that it can be cut
            try:
                plain.settimeout(self._patience)
                if self._is_cut:
                    raise cancelled()
                plain.connect(address)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                opened = self._encrypt(plain) if self._tls else plain
                if self._is_cut:
                    raise cancelled()
                return opened
            except OSError as error:
                problem = error
                self.close()
        raise problem

    def _encrypt(self, plain: socket.socket) -> socket.socket:
        assert self._tls is not None
        encrypted = self._tls.wrap_socket(plain, server_hostname=self._host, do_handshake_on_connect=False)
        self._socket = encrypted
        encrypted.do_handshake()
        return encrypted

    def _send(self, connection: socket.socket, data: memoryview) -> None:
        connection.settimeout(self._patience)
        while data:
            count = connection.send(data[:PIECE_BYTES])
            data = data[count:]
            self._moved(count)

    def _moved(self, count: int) -> None:
        self.bytes_moved += count
        self.last_moved = time.monotonic()
        self.processor_seconds = time.thread_time()

    def _read_head(self, connection: socket.socket) -> Head:
        data = b""
        while True:
            end = data.find(END_OF_HEAD)
            if end >= 0:
                head = parse_head(data[:end])
                data = data[end + len(END_OF_HEAD) :]
                if head.status >= 200:
                    break
                continue  # 1xx: the real one follows
            if len(data) > HEAD_BYTES:
                raise BrokenAnswerError(f"the answer's head is longer than {HEAD_BYTES:,} bytes")
            piece = connection.recv(8192)
            if not piece:
                raise BrokenAnswerError("the connection ended before the answer")
            data += piece
            self._ahead = data  # says that the server has looked at the request
            self.last_moved = time.monotonic()
        self._head = head
        self._left = head.length
        self._ahead = data
        return head

    def _receive(self, connection: socket.socket, view: memoryview) -> int:
        if isinstance(connection, ssl.SSLSocket):
            return _receive_records(connection, view, self._patience)
        return connection.recv_into(view)

    def _receive_into(self, view: memoryview) -> int:
        assert self._socket is not None
        try:
            count = self._receive(self._socket, view[:PIECE_BYTES])
        except OSError as error:
            self.close()
            if self._is_cut:
                raise cancelled() from error
            raise
        if count:
            self._moved(count)
            return count
        if self._is_cut:
            raise cancelled()
        self.close()
        return 0


def _receive_records(connection: ssl.SSLSocket, view: memoryview, patience: float) -> int:
    """Waits for a record, and reads on for as long as others follow soon; returns how many bytes, 0 at the end.

    Raises:
        OSError: the connection broke, or nothing came for ``patience`` seconds.
    """
    done = _read_record(connection, view)
    if not 0 < done < len(view):
        return done
    until = time.monotonic() + PIECE_SECONDS
    connection.settimeout(PIECE_SECONDS)
    try:
        while done < len(view) and time.monotonic() < until and (count := _read_record(connection, view[done:])):
            done += count
    except OSError:
        pass  # whoever goes on reading meets it again
    finally:
        connection.settimeout(patience)
    return done


def _read_record(connection: ssl.SSLSocket, view: memoryview) -> int:
    # What ``recv_into`` comes to, by a call less for each record of 16 KiB.
    return connection.read(len(view), view)  # type: ignore[return-value]

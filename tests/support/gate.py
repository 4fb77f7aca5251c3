"""A TCP port in front of a server that can be held shut, to keep an operation from ending while a test looks at it."""

from __future__ import annotations

import contextlib
import socket
import threading

_HELD_SECONDS = 60.0


class Gate:
    """While shut, connections are accepted and wait; once open, bytes pass in both directions. Begins shut.

    Args:
        host: where the server is.
        port: its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._opened = threading.Event()
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.reached = threading.Event()
        """Set by the first connection."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def open(self) -> None:
        """Lets everything through from now on."""
        self._opened.set()

    def cut(self) -> None:
        """Breaks the present connections; new ones are taken."""
        with self._lock:
            present, self._connections = self._connections, []
        for connection in present:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Lets everything through and takes no more connections."""
        self.open()
        self._listener.shutdown(socket.SHUT_RDWR)  # closing alone would leave the thread in accept
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self._connections.append(connection)
                self.reached.set()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if not self._opened.wait(_HELD_SECONDS):
                return
            with socket.create_connection(self._server) as onward:
                back = threading.Thread(target=_pump, args=(onward, connection), daemon=True)
                back.start()
                _pump(connection, onward)
                back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

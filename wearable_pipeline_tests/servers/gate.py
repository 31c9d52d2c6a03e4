"""A TCP port in front of a server of this machine that can be shut and opened again."""

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)


class Gate:
    """Forwards to `port` of 127.0.0.1 while it is open.

    Shut, nobody is let in and who was in is cut off; stalled, everybody is let in and nothing moves.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self._listener: socket.socket | None = None
        self._inside: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self.port = 0
        self.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shut()

    def open(self) -> None:
        """Let in and forward; the port stays the same one."""
        self._flows.set()
        if self._listener is not None:
            return
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._let_in, args=(listener,), daemon=True).start()

    def stall(self) -> None:
        """Take what comes and forward nothing."""
        self._flows.clear()

    def shut(self) -> None:
        """Refuse everybody and reset every connection."""
        self._flows.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            # Wakes the thread that waits in accept; closing alone would not.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            inside, self._inside = self._inside, set()
        for connection in inside:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                connection.shutdown(socket.SHUT_RDWR)

    def _let_in(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._behind), timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                if self._listener is not listener:
                    client.close()
                    server.close()
                    return
                self._inside |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._flows.wait()
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            self._inside.discard(source)
        source.close()

"""An HTTP proxy that misbehaves on demand: between a store's client and its server."""

import http.client
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

# lose: done, but the client never hears. refuse: the server never hears. stall: no answer.
Fault = Literal["lose", "refuse", "stall", 429, 500, 503]

_CONDITIONS = ("if-match", "if-none-match")


@dataclass
class FaultyProxy:
    """Forwards to `target`, except for the faults it is told to commit."""

    target: str
    # As Ceph 16 does: 412 to every quoted If-Match.
    refuses_quoted_etags: bool = False
    # As some small S3 servers do: conditions are neither understood nor refused.
    ignores_conditions: bool = False
    seen: list[str] = field(default_factory=list)
    _faults: list[tuple[str, Fault]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # Threads that stall are let go by the event; waiting for them would hide who still waits.
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def commit(self, method: str, *faults: Fault) -> None:
        """The next requests with `method` meet these faults, one each."""
        with self._lock:
            self._faults += [(method, fault) for fault in faults]

    def take(self, method: str) -> Fault | None:
        """The fault the present request meets."""
        with self._lock:
            self.seen.append(method)
            for index, (wanted, fault) in enumerate(self._faults):
                if wanted == method:
                    del self._faults[index]
                    return fault
            return None

    def wait_for_close(self) -> None:
        """Returns when the proxy is closed."""
        self._done.wait(60)

    def close(self) -> None:
        """Stops listening and drops those who wait."""
        self._done.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: FaultyProxy

    def log_message(self, *_: object) -> None:
        """Nothing: the log would only repeat the tests."""

    def _serve(self) -> None:
        fault = self.owner.take(self.command)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "stall":
            self.owner.wait_for_close()
            return self._hang_up()
        if fault == "refuse":
            return self._hang_up()
        if isinstance(fault, int):
            return self._refuse(fault)
        if self.owner.refuses_quoted_etags and self.headers.get("If-Match", "").startswith('"'):
            return self._refuse(412)
        upstream = http.client.HTTPConnection(urlsplit(self.owner.target).netloc, timeout=30)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if not (self.owner.ignores_conditions and name.lower() in _CONDITIONS):
                upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        if fault == "lose":
            return self._hang_up()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _hang_up(self) -> None:
        # A reset instead of a close, as a broken network gives.
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

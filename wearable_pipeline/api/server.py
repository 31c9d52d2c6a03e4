"""Running the application: in the foreground for `serve`, in a thread for a command that needs it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import uvicorn

from wearable_pipeline.api.app import create_app
from wearable_pipeline.errors import UsageError
from wearable_pipeline.workspace import Workspace

# A connection that only waits costs a few kilobytes; without a bound it is a way in.
MAX_CONNECTIONS = 4_096
KEEP_ALIVE_SECONDS = 30
_START_SECONDS = 15.0


def make_server(workspace: Workspace, host: str, port: int) -> uvicorn.Server:
    """A server that logs neither addresses nor queries: they carry codes and secrets."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(workspace),
            host=host,
            port=port,
            access_log=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=10,
            limit_concurrency=MAX_CONNECTIONS,
            server_header=False,
        )
    )


def is_serving(address: str) -> bool:
    """Whether a `serve` answers there."""
    try:
        answer = httpx.get(f"{address.rstrip('/')}/healthz", timeout=2, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and '"status"' in answer.text


@contextmanager
def serving(workspace: Workspace, listener: socket.socket) -> Iterator[None]:
    """Serve on `listener` in a thread for the block."""
    server = make_server(workspace, *listener.getsockname()[:2])
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_SECONDS
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        if not server.started:
            raise UsageError("the server did not start")
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=_START_SECONDS)


@contextmanager
def somebody_serving(workspace: Workspace) -> Iterator[bool]:
    """Make sure serve_url answers: True when this process serves it, for the block."""
    address = workspace.settings.serve_url
    if is_serving(address):
        yield False
        return
    parts = urlsplit(address)
    if parts.hostname not in ("127.0.0.1", "localhost"):
        raise UsageError(
            f"nothing answers at {address}: start `wearable-pipeline serve` there,"
            " or set WEARABLE_SERVE_URL to a loopback address"
        )
    try:
        listener = socket.create_server(("127.0.0.1", parts.port or 80))
    except OSError as error:
        raise UsageError(
            f"cannot listen on {address} ({error.strerror}): set WEARABLE_SERVE_URL"
        ) from None
    with listener, serving(workspace, listener):
        yield True

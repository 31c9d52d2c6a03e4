"""A server in a process of its own on the loopback: it tells its port, and ends with its parent."""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx
import uvicorn

LOOPBACK = "127.0.0.1"
START_SECONDS = 30


class ChildProcess:
    """`python -m module arguments…` in a child; a context manager.

    The child writes its port to standard output once it listens (`tell_port`) and stops when its standard
    input ends (`stop_with_parent`), so it does not outlive this process, however that ends.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        timeout: float = 10,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._module = module
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=None if environment is None else {**os.environ, **environment},
        )
        try:
            self.port = self._read_port()
        except BaseException:
            self.close()
            raise
        self.origin = f"http://{LOOPBACK}:{self.port}"
        self._client = httpx.Client(base_url=self.origin, timeout=timeout, trust_env=False)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def close(self) -> None:
        """Stop the child."""
        if hasattr(self, "_client"):
            self._client.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read_port(self) -> int:
        pipe = self._process.stdout
        if pipe is None:
            raise RuntimeError(f"{self._module} has no output to read its port from")
        ready, _, _ = select.select([pipe], [], [], START_SECONDS)
        line = pipe.readline() if ready else b""
        if not line.strip().isdigit():
            raise RuntimeError(f"{self._module} did not start")
        return int(line)


def tell_port(port: int) -> None:
    """What the parent waits for."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def stop_with_parent(server: uvicorn.Server) -> None:
    """Stop `server`, and the process if that takes long, when standard input ends."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        server.should_exit = True
        time.sleep(3)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()

"""Servers of a test session: started once, shared by all its workers, gone when it ends."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wearable_pipeline_tests.servers.supervise import is_running

_SUPERVISE = Path(__file__).with_name("supervise.py")


@dataclass(frozen=True)
class Session:
    """Where the workers of one test run find each other's servers."""

    folder: Path
    owner: int

    def share(self, name: str, start: Callable[[Path], dict[str, str]]) -> dict[str, str]:
        """What `start` returned, in whichever worker asked for `name` first."""
        with _locked(self.folder / f"{name}.lock"):
            answer = self.folder / f"{name}.json"
            if not answer.exists():
                folder = self.folder / name
                folder.mkdir(exist_ok=True)
                answer.write_text(json.dumps(start(folder)))
            found: dict[str, str] = json.loads(answer.read_text())
            return found

    def launch(self, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        """Starts `command`, to be stopped with the session."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, str(_SUPERVISE), str(self.owner), *command],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        (self.folder / f"{process.pid}.pid").touch()

    def stop(self) -> None:
        """Ends every server that was launched."""
        pids = [int(file.stem) for file in self.folder.glob("*.pid")]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.02)


def find_free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(answers: Callable[[], bool], seconds: float, what: str, log: Path) -> None:
    """Returns when `answers` is true; fails with the end of the log after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answers():
            return
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    raise RuntimeError(f"{what} did not answer within {seconds:.0f} s\n{tail}")


def accepts_connections(port: int) -> bool:
    """Whether somebody listens on `port` of 127.0.0.1."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

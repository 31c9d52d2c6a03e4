"""Runs a command until it is told to stop or the process that wanted it is gone.

A script of its own because test workers come and go: a server started by one of them serves the
others too, and must not outlive the session even when that is killed.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType


def is_running(pid: int) -> bool:
    """Whether `pid` is there and not merely waiting to be reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def main(owner: int, command: list[str]) -> int:
    """The command's exit code; its whole process group is gone afterwards."""
    child = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    stopping = False

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while child.poll() is None and not stopping and is_running(owner):
        time.sleep(0.1)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))

"""Redis on loopback, in memory only: the broker between Dagster's daemon and its workers."""

import shutil
from pathlib import Path

from wearable_pipeline_tests.servers.processes import (
    Session,
    accepts_connections,
    find_free_port,
    wait_until,
)

PROGRAM = "redis-server"


def find_missing() -> list[str]:
    """Programs that are not installed."""
    return [] if shutil.which(PROGRAM) else [PROGRAM]


def command(port: int, folder: Path) -> list[str]:
    """Starts it in the foreground."""
    return [
        *(PROGRAM, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--save", "", "--appendonly", "no", "--databases", "64"),
    ]


def start(session: Session, folder: Path) -> dict[str, str]:
    """Starts a server of the session; its URL, without the number of a database."""
    port, log = find_free_port(), folder / "log"
    session.launch(command(port, folder), log)
    wait_until(lambda: accepts_connections(port), 30, "Redis", log)
    return {"url": f"redis://127.0.0.1:{port}"}

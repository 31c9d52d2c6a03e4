"""Postgres on loopback, its data in a folder of the session, durable against nothing.

Run as a script; serves until it is terminated. Postgres refuses to run as root, so it runs as the
user the package makes where the tests do.
"""

import argparse
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from wearable_pipeline_tests.servers.processes import Session, find_free_port, wait_until

PROGRAMS = ("initdb", "postgres")
_DEBIAN = Path("/usr/lib/postgresql")
_PARENT_DEATH_SIGNAL = 1


def find_program(name: str) -> str | None:
    """Path of a Postgres program; Debian keeps them off PATH, one folder a version."""
    found = shutil.which(name)
    if found is None:
        kept = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
        found = str(kept[-1]) if kept else None
    return found


def find_missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if find_program(name) is None]


def serve(folder: Path, port: int) -> int:
    """Runs the server until it ends; its exit code."""
    identity: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        # The way there, not what lies beside it.
        folder.parent.chmod(0o711)
        identity = {"user": "postgres", "group": owner.pw_gid, "extra_groups": []}
    data = folder / "data"
    subprocess.run(
        [
            str(find_program("initdb")),
            *("-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D", str(data)),
        ],
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        **identity,
    )
    settings = {
        "listen_addresses": "127.0.0.1",
        "fsync": "off",
        "synchronous_commit": "off",
        "max_connections": "200",
        # Far from UTC and from whoever wrote the test: a naive instant shows.
        "timezone": "Asia/Tokyo",
    }
    server = subprocess.Popen(
        [
            *(str(find_program("postgres")), "-D", str(data), "-p", str(port), "-k", str(folder)),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ],
        cwd=folder,
        start_new_session=True,
        # Stops at once and tidily even when this script is killed outright.
        preexec_fn=_quit_with_parent,
        **identity,
    )
    signal.signal(signal.SIGTERM, lambda *_: server.send_signal(signal.SIGQUIT))
    return server.wait()


def start(session: Session, folder: Path) -> dict[str, str]:
    """Starts a server of the session; its URL, without the name of a database."""
    port, log = find_free_port(), folder.with_suffix(".log")
    session.launch([sys.executable, __file__, "--folder", str(folder), "--port", str(port)], log)
    url = f"postgresql://postgres:unused-password@127.0.0.1:{port}"

    def lets_in() -> bool:
        # It listens before it lets anybody in.
        try:
            sa.create_engine(f"{url}/postgres", poolclass=sa.NullPool).connect().close()
        except sa.exc.OperationalError:
            return False
        return True

    wait_until(lets_in, 60, "Postgres", log)
    return {"url": url}


@contextmanager
def create_database(server: str) -> Iterator[str]:
    """URL of an empty database, gone afterwards whoever is still connected."""
    name = f"t{uuid.uuid4().hex}"
    engine = sa.create_engine(
        f"{server}/postgres", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with engine.connect() as admin:
        admin.exec_driver_sql(f"create database {name}")
    yield f"{server}/{name}"
    with engine.connect() as admin:
        admin.exec_driver_sql(f"drop database {name} with (force)")


def _quit_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGQUIT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args()
    sys.exit(serve(asked.folder, asked.port))

"""MariaDB on loopback, its data in a folder of the session, durable against nothing.

Run as a script; makes the data folder and becomes the server.
"""

import argparse
import getpass
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from wearable_pipeline_tests.servers.processes import Session, find_free_port, wait_until

PROGRAMS = ("mariadbd", "mariadb-install-db")
_ADMIN_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def find_program(name: str) -> str | None:
    """Path of a MariaDB program; the server lies where only administrators look."""
    return shutil.which(name) or shutil.which(name, path=_ADMIN_FOLDERS)


def find_missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if find_program(name) is None]


def serve(folder: Path, port: int) -> None:
    """Becomes the server."""
    data = folder / "data"
    user = f"--user={getpass.getuser()}"
    subprocess.run(
        [
            *(str(find_program("mariadb-install-db")), "--no-defaults", f"--datadir={data}"),
            *("--auth-root-authentication-method=normal", "--skip-test-db", user),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    # Letters of one byte and instants far from UTC unless a client says otherwise: both show.
    command = [
        *(str(find_program("mariadbd")), "--no-defaults", f"--datadir={data}", user),
        *(f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 'socket'}"),
        *("--character-set-server=latin1", "--default-time-zone=+09:00"),
        *("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M", "--skip-log-bin"),
    ]
    os.execv(command[0], command)  # noqa: S606


def start(session: Session, folder: Path) -> dict[str, str]:
    """Starts a server of the session; its URL, without the name of a database."""
    port, log = find_free_port(), folder.with_suffix(".log")
    session.launch([sys.executable, __file__, "--folder", str(folder), "--port", str(port)], log)
    url = f"mysql+pymysql://root@127.0.0.1:{port}"

    def lets_in() -> bool:
        try:
            sa.create_engine(f"{url}/mysql", poolclass=sa.NullPool).connect().close()
        except sa.exc.OperationalError:
            return False
        return True

    wait_until(lets_in, 60, "MariaDB", log)
    return {"url": url}


@contextmanager
def create_database(server: str) -> Iterator[str]:
    """URL of an empty database, gone afterwards."""
    name = f"t{uuid.uuid4().hex}"
    # Encryption would have every connection read the machine's certificates.
    engine = sa.create_engine(
        f"{server}/mysql",
        isolation_level="AUTOCOMMIT",
        poolclass=sa.NullPool,
        connect_args={"ssl_disabled": True},
    )
    with engine.connect() as admin:
        admin.exec_driver_sql(f"create database {name}")
    yield f"{server}/{name}"
    with engine.connect() as admin:
        # Dropping would wait for whoever still holds the tables.
        admin.exec_driver_sql("set session lock_wait_timeout = 5")
        admin.exec_driver_sql(f"drop database {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args()
    serve(asked.folder, asked.port)

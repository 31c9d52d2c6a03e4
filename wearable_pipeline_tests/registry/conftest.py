"""A registry on SQLite and on a real Postgres, with a clock the tests turn."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from wearable_pipeline.registry import Registry
from wearable_pipeline.settings import Settings

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


class TurnedClock:
    """A clock that stands still until it is turned."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> datetime:
        self.now += timedelta(**by)
        return self.now


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def forward(clock: TurnedClock) -> Callable[..., datetime]:
    """Turns the clock, `forward(minutes=5)`, and says what it shows then."""
    return clock.forward


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a Postgres of our own without database name; one per test process."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        message = "initdb and pg_ctl are not on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    # Postgres refuses to run as root, and its own user cannot enter pytest's folder.
    folder = Path(tempfile.mkdtemp(prefix="wearable-pg-"))
    who: dict[str, str] = {}
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        who = {"user": "postgres"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    options = (
        f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200"
        " -c timezone=Asia/Tokyo"
    )

    def run(*command: object) -> None:
        subprocess.run(
            [str(part) for part in command],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            **who,  # type: ignore[call-overload]
        )

    run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D", data)
    run("pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
    try:
        yield f"postgresql://postgres:unused-password@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty_postgres(postgres_server: str) -> Iterator[str]:
    """URL of an empty database."""
    name = f"t{uuid.uuid4().hex}"
    engine = sa.create_engine(f"{postgres_server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as admin:
        admin.exec_driver_sql(f"create database {name}")
        yield f"{postgres_server}/{name}"
        admin.exec_driver_sql(f"drop database {name} with (force)")
    engine.dispose()


BOTH = [
    pytest.param("sqlite"),
    pytest.param("postgres", marks=pytest.mark.real),
]


@pytest.fixture(params=BOTH)
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings of a fresh installation, on either database."""
    for name in [name for name in os.environ if name.startswith("WEARABLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    url = request.getfixturevalue("empty_postgres") if request.param == "postgres" else None
    return Settings(home=tmp_path / "home", registry_url=url)


@pytest.fixture
def registry(settings: Settings, clock: TurnedClock) -> Iterator[Registry]:
    with Registry.open(settings, clock) as opened:
        yield opened


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")

"""Several processes meet a home or a database that nobody has opened yet."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from wearable_pipeline.registry import Registry
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.servers.postgres import create_database

AT_ONCE = 4
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
ROUNDS = int(os.environ.get("WEARABLE_TEST_ROUNDS", "2"))
USERS = [f"u{number}" for number in range(AT_ONCE)]
PROGRAM = Path(__file__).with_name("open_at_once.py")


def open_at_once(folders: list[Path], environment: dict[str, str]) -> str:
    """What processes complained about that opened everything in the same moment."""
    return subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, folders)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        cwd=PROGRAM.parents[2],
        env={**os.environ, **environment, "PYTHONPATH": str(PROGRAM.parents[2])},
    ).stdout


def users_in(home: Path) -> list[str]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return sorted(instance.get_dynamic_partitions("users"))


def test_four_processes_open_a_fresh_home_at_once(tmp_path: Path) -> None:
    for number in range(ROUNDS):
        home = tmp_path / f"home-{number}"
        assert open_at_once([home] * AT_ONCE, {}) == ""
        assert users_in(home / "dagster") == USERS
        with Registry.open(Settings(home=home)) as registry:
            assert sorted(user.user_id for user in registry.find_users()) == USERS


@pytest.mark.real
def test_four_machines_open_a_fresh_postgres_at_once(
    postgres_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(ROUNDS):
        # Machines share a database and no file they could lock.
        homes = [tmp_path / f"machine-{number}-{machine}" for machine in range(AT_ONCE)]
        for home in homes:
            (home / "dagster").mkdir(parents=True)
            (home / "dagster" / "dagster.yaml").write_text(
                "telemetry: {enabled: false}\n"
                "storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}\n"
            )
        with create_database(postgres_server) as url:
            monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
            assert (
                open_at_once(homes, {"WEARABLE_REGISTRY_URL": url, "WEARABLE_SECRET_KEY": KEY})
                == ""
            )
            assert users_in(homes[0] / "dagster") == USERS
            with Registry.open(
                Settings(home=homes[0], registry_url=url, secret_key=KEY)
            ) as registry:
                assert sorted(user.user_id for user in registry.find_users()) == USERS
            engine = sa.create_engine(url, poolclass=sa.NullPool)
            with engine.connect() as connection:
                heads = connection.exec_driver_sql("select count(*) from alembic_version").scalar()
            assert heads == 1

"""Dagster's home and instance: made once, by whoever comes first."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from wearable_pipeline.registry.database import lock_database
from wearable_pipeline.settings import Settings

INSTANCE_FILE = Path(__file__).with_name("dagster.yaml")
_LOCK = 0x64616773  # any number, the same on every machine


def prepare_dagster_home(settings: Settings) -> Path:
    """The Dagster home, with its `dagster.yaml` and databases made once.

    Two processes that open a fresh SQLite home together can break it for good, and two machines that
    open a fresh Postgres together trip over each other's tables. So the first opening is done under a
    lock: of a file for those who share the home, of the registry's database for those who share that.
    """
    home = settings.dagster_home
    if (home / "dagster.yaml").exists() and not os.access(home, os.W_OK):
        _open_once(home, settings)  # mounted configuration: nothing can be noted beside it
        return home
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "dagster.yaml").exists():
            shutil.copy(INSTANCE_FILE, home / "dagster.yaml")
        if not (home / ".prepared").exists():
            _open_once(home, settings)
            (home / ".prepared").touch()
    return home


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of this home."""
    home = prepare_dagster_home(settings)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def _open_once(home: Path, settings: Settings) -> None:
    with (
        lock_database(settings.registry, _LOCK),
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        # Each of the three storages makes its tables when it is first asked.
        instance.get_runs_count()
        instance.get_dynamic_partitions("users")
        instance.all_instigator_state()

"""Several machines on one: Postgres, Redis, a code server, the daemon and Celery workers as processes.

Every "machine" has a home of its own and shares only what it would share in production: databases,
broker, lake, key.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dagster as dg
import yaml
from cryptography.fernet import Fernet

from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.servers.processes import accepts_connections, find_free_port

DEPLOY = Path(__file__).parents[2] / "wearable_pipeline" / "deploy"
ROOT = Path(__file__).parents[2]
WORKER_APP = "wearable_pipeline.orchestration.celery_worker"
# Generous: the machine may be doing other things.
PATIENCE = 120.0
_PARENT_DEATH_SIGNAL = 1


@dataclass
class Cluster:
    """The processes of one deployment; all gone when the context ends."""

    folder: Path
    postgres: str
    redis: str
    webhook: Mapping[str, str]
    changes: Mapping[str, Any] = field(default_factory=dict)
    key: str = field(default_factory=lambda: Fernet.generate_key().decode(), repr=False)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dagster_home = self.folder / "dagster"
        self.dagster_home.mkdir(parents=True)
        config = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
        # Noticing sooner shortens the test, nothing else.
        config["run_monitoring"]["poll_interval_seconds"] = 2
        config |= self.changes
        (self.dagster_home / "dagster.yaml").write_text(yaml.safe_dump(config))
        self.code_port = find_free_port()
        self.workspace_file = self.folder / "workspace.yaml"
        location = {
            "host": "127.0.0.1",
            "port": self.code_port,
            "location_name": "wearable_pipeline",
        }
        self.workspace_file.write_text(yaml.safe_dump({"load_from": [{"grpc_server": location}]}))

    def environment(self, machine: str) -> dict[str, str]:
        """The variables of a machine."""
        return {
            "DAGSTER_HOME": str(self.dagster_home),
            "DAGSTER_POSTGRES_URL": self.postgres,
            "DAGSTER_CELERY_BROKER_URL": f"{self.redis}/0",
            "DAGSTER_CELERY_BACKEND_URL": f"{self.redis}/1",
            "DAGSTER_EVENT_BATCH_SIZE": "1000",
            "WEARABLE_HOME": str(self.folder / machine),
            "WEARABLE_LAKE_URL": str(self.folder / "lake"),
            "WEARABLE_REGISTRY_URL": self.postgres,
            "WEARABLE_SECRET_KEY": self.key,
            **self.webhook,
        }

    def settings(self) -> Settings:
        """What `load_settings` says on one more machine of this deployment."""
        values = {
            name.removeprefix("WEARABLE_").lower(): value
            for name, value in self.environment("test").items()
            if name.startswith("WEARABLE_")
        }
        return Settings(_env_file=None, **values)  # type: ignore[call-arg, arg-type]

    def instance(self) -> dg.DagsterInstance:
        """Dagster's instance, as webserver and daemon see it."""
        return dg.DagsterInstance.from_config(str(self.dagster_home))

    def start_code_server(self) -> None:
        """What the daemon asks for definitions and sensor ticks."""
        self._start(
            "code",
            *(_program("dagster"), "code-server", "start", "-m", "wearable_pipeline.definitions"),
            *("-h", "127.0.0.1", "-p", str(self.code_port)),
        )
        self.wait(lambda: accepts_connections(self.code_port), "the code server")

    def start_daemon(self) -> None:
        """Sensors, run queue, run monitoring."""
        self._start("daemon", _program("dagster-daemon"), "run", "-w", str(self.workspace_file))

    def start_worker(self, name: str) -> None:
        """A machine that executes runs, one at a time."""
        self._start(
            name,
            *(sys.executable, "-m", "celery", "-A", WORKER_APP, "worker", "--concurrency", "1"),
            *("-n", f"{name}@%h", "--loglevel", "INFO", "--without-gossip", "--without-mingle"),
        )

    def wait_for_worker(self, name: str) -> None:
        """Until `name` takes tasks."""
        log = self.folder / f"{name}.log"
        self.wait(lambda: " ready." in log.read_text(errors="replace"), name)

    def kill(self, name: str) -> None:
        """kill -9 of a machine: all its processes at once."""
        process = self.processes.pop(name)
        for pid in [process.pid, *descendants(process.pid)]:
            _kill(pid)
        process.wait()
        (self.folder / f"{name}.log").rename(self.folder / f"{name}-{process.pid}.log")

    def kill_child(self, name: str) -> None:
        """kill -9 of the process that executes runs on a machine; its parent lives on."""
        for pid in descendants(self.processes[name].pid):
            _kill(pid)

    def wait(
        self, holds: Callable[[], bool], what: str, seconds: float = PATIENCE, every: float = 0.25
    ) -> float:
        """Seconds until `holds`, looked at so often. Fails with the ends of all logs after `seconds`."""
        started = time.monotonic()
        while not holds():
            if time.monotonic() - started > seconds:
                raise AssertionError(f"{what}: not within {seconds:.0f} s\n{self.tails()}")
            time.sleep(every)
        return time.monotonic() - started

    def tails(self) -> str:
        """The last lines of every process."""
        return "\n".join(
            f"--- {log.stem}\n{log.read_text(errors='replace')[-2500:]}"
            for log in sorted(self.folder.glob("*.log"))
        )

    def close(self) -> None:
        """End every process."""
        for name in list(self.processes):
            self.kill(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **self.environment(name), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )


def descendants(pid: int) -> list[int]:
    """Processes that `pid` or its descendants started, whatever session they are in."""
    found: list[int] = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(file.parent.name)
            found += [child, *descendants(child)]
    return found


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)

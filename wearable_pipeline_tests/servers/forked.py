"""Processes to be killed, forked from one that has made most of the imports already.

That one never starts a thread, whose locks would stay locked in its children: what starts some when it is
imported (polars, numpy, pyarrow, duckdb) every child imports for itself.
"""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, Self

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("aiohttp", "alembic.command", "authlib", "cryptography.fernet", "httpx", "msgspec"),
        *("multiprocessing.connection", "obstore", "starlette.applications", "stamina", "psycopg2"),
        "wearable_pipeline.registry",
    ]
)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Child:
    """A process that works, and what it says."""

    process: ForkServerProcess
    _line: Connection

    def begin(self) -> Self:
        """Let it go; its imports are done."""
        self._line.send("go")
        return self

    def hear(self) -> str:
        """The next it says."""
        assert self._line.poll(120), "it says nothing"
        said: str = self._line.recv()
        return said

    def listen(self) -> list[str]:
        """Everything it said, once it has ended."""
        said: list[str] = []
        try:
            while self._line.poll(120):
                said.append(self._line.recv())
        except EOFError:
            self.process.join(60)
        assert self.process.exitcode is not None, "it neither says anything nor ends"
        return said

    def kill(self) -> None:
        """kill -9, unless it has ended; returns when it is gone."""
        self.process.kill()
        self.process.join()


def fork(
    work: Callable[..., None], *arguments: Any, environment: Mapping[str, str] | None = None
) -> Child:
    """A process about to do `work(tell, *arguments)`; every `tell` is heard by the child's `listen`."""
    ours, its = _CONTEXT.Pipe()
    known = {**os.environ, **(environment or {})}
    process = _CONTEXT.Process(
        target=_do, args=(work, its, known, arguments), name=work.__module__, daemon=True
    )
    process.start()
    its.close()
    assert ours.recv() == "ready"
    return Child(process, ours)


def _do(
    work: Callable[..., None], line: Connection, environment: dict[str, str], arguments: Any
) -> None:
    # The process it is forked from has the environment of whichever test came first.
    os.environ.clear()
    os.environ.update(environment)
    # Whoever is here has imported what `work` needs.
    line.send("ready")
    line.recv()
    try:
        work(line.send, *arguments)
    except BaseException:
        line.send(traceback.format_exc())
        raise

"""What assets, checks and sensors are handed: a way to open the workspace."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum

import dagster as dg

from wearable_pipeline.partitions import Partition, Scheme, last_day, parse_key
from wearable_pipeline.providers._contract import Window
from wearable_pipeline.settings import Settings, load_settings
from wearable_pipeline.workspace import Clock, Workspace, open_workspace, utc_now

Progress = Callable[[str, int], None]
_EXACT = Scheme()


def no_progress(stage: str, done: int) -> None:
    """Progress nobody watches."""


@dataclass(frozen=True)
class WorkspaceOpener:
    """Opens the workspace when work starts; holds nothing open and no secret in between.

    `settings` are read from the environment of the process that does the work unless given.
    """

    settings: Settings | None = field(default=None, repr=False)
    now: Clock = utc_now
    progress: Progress = no_progress

    @contextmanager
    def open(self, *, writes: bool = True) -> Iterator[Workspace]:
        """The opened workspace; closed at the end. Who only asks the ledger says that it never `writes`."""
        with ExitStack() as stack:
            workspace = stack.enter_context(
                open_workspace(self.settings or load_settings(), self.now)
            )
            if writes:
                stack.enter_context(workspace.writing())
            yield workspace


class Scope(StrEnum):
    """What of its rectangle a run works on."""

    # Every user, every cell.
    ALL = "all"
    # The users whose next reading is due when the run starts, and what their records touch.
    DUE = "due"
    # The users with history waiting in the rectangle's window, and what their records touch.
    HISTORY = "history"
    # What ingest has touched and what waits to be sent, asking no provider.
    TOUCHED = "touched"


class SyncConfig(dg.Config):
    """Narrows a run inside its rectangle, or widens what it fetches beyond the grid.

    `user_ids` empty means everybody in the rectangle's cohorts; sensors never list people, they set a
    `scope` and the run asks the ledger. `limit` bounds the users (for tables: the partitions) a run with
    a scope takes; the rest is the next run's. `start` and `end` (ISO dates) replace the rectangle's days
    in what providers are asked for. `include_touched` takes along what ingest has touched for these
    users, whatever day it is.
    """

    user_ids: list[str] = []  # noqa: RUF012 - a config field, copied per instance
    include_touched: bool = True
    start: str | None = None
    end: str | None = None
    # A word, not the enum: Dagster writes enums into run config by another name than it reads.
    scope: str = Scope.ALL.value
    limit: int | None = None


def window_of(cells: Sequence[Partition], config: SyncConfig, now: datetime) -> Window:
    """The days to ask providers for."""
    start = date.fromisoformat(config.start) if config.start else min(c.date for c in cells)
    end = date.fromisoformat(config.end) if config.end else max(c.date for c in cells)
    return Window(start, min(end, last_day(now)), now)


def cells_of(context: dg.AssetExecutionContext, scheme: Scheme = _EXACT) -> list[Partition]:
    """The cells a run covers, whether launched with one key or a range."""
    cells = (parse_key(key) for key in context.partition_keys)
    return [Partition(cell.date, scheme.cohort_at(cell.cohort)) for cell in cells]

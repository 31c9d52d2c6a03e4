"""What assets, checks and sensors are handed: a way to open the workspace."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime

import dagster as dg

from wearable_pipeline.partitions import Partition, last_day, parse_key
from wearable_pipeline.providers._contract import Window
from wearable_pipeline.settings import Settings, load_settings
from wearable_pipeline.workspace import Clock, Workspace, open_workspace, utc_now

Progress = Callable[[str, int], None]


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
    def open(self) -> Iterator[Workspace]:
        """The opened workspace; closed at the end."""
        with open_workspace(self.settings or load_settings(), self.now) as workspace:
            yield workspace


class SyncConfig(dg.Config):
    """Narrows a run inside its rectangle, or widens what it fetches beyond the grid.

    `user_ids` empty means everybody in the rectangle's cohorts. `start` and `end` (ISO dates) replace the
    rectangle's days in what providers are asked for. `include_touched` takes along what ingest has touched
    for these users, whatever day it is.
    """

    user_ids: list[str] = []  # noqa: RUF012 - a config field, copied per instance
    include_touched: bool = True
    start: str | None = None
    end: str | None = None


def window_of(cells: Sequence[Partition], config: SyncConfig, now: datetime) -> Window:
    """The days to ask providers for."""
    start = date.fromisoformat(config.start) if config.start else min(c.date for c in cells)
    end = date.fromisoformat(config.end) if config.end else max(c.date for c in cells)
    return Window(start, min(end, last_day(now)), now)


def cells_of(context: dg.AssetExecutionContext) -> list[Partition]:
    """The cells a run covers, whether launched with one key or a range."""
    return [parse_key(key) for key in context.partition_keys]

"""What a destination module declares: when it is configured and how it takes rows.

A destination is one module of this package with a `DESTINATION` constant. It is found because it is
there. Delivery is at least once: a sender is keyed and idempotent, the same batch twice leaves the
same result.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Literal, Protocol

import polars as pl

from wearable_pipeline.model import Table
from wearable_pipeline.settings import Settings

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class UserInfo:
    """The user as clients are told; `provider` is the name clients know, not the module's."""

    user_id: str
    provider: str
    reference_id: str | None = field(default=None, repr=False)
    scopes: str | None = None
    created_at: datetime | None = None
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class Item:
    """One row to deliver, or to withdraw when `is_deleted`.

    `trace_id` is the same for every try of the same content. `ordering_timestamp` (Unix
    milliseconds) grows with every new content of the row: a receiver keeps the greatest.
    """

    table: str
    user: UserInfo
    row_key: str
    date: date
    content_hash: str
    trace_id: str
    ordering_timestamp: int
    is_deleted: bool = False


@dataclass(frozen=True)
class Batch:
    """Rows of one table, each key once, as one frame for bulk writers and as JSON for the others.

    `rows` has the columns of `table`, row for row as in `items`; a withdrawn row has only its key.
    """

    table: Table
    items: tuple[Item, ...]
    rows: pl.DataFrame
    render: Callable[[Table, pl.DataFrame], list[Json]] = field(repr=False)

    @cached_property
    def payloads(self) -> list[Json]:
        """The client's JSON object of every item, made at the first use."""
        return self.render(self.table, self.rows)


OutcomeKind = Literal["delivered", "transient", "permanent", "untried"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item.

    `message` is stored and shown: no secret, no measured value, nothing a receiver answered.
    `untried` gives the item back as it was, for a destination that asked for a pause or is down.
    """

    item: Item
    kind: OutcomeKind
    message: str = ""
    retry_after: timedelta | None = None


def delivered(item: Item) -> Outcome:
    """The destination has the row, durably."""
    return Outcome(item, "delivered")


def transient(item: Item, message: str, retry_after: timedelta | None = None) -> Outcome:
    """Trying again later can help."""
    return Outcome(item, "transient", message, retry_after)


def permanent(item: Item, message: str) -> Outcome:
    """Trying again cannot help until somebody changes something."""
    return Outcome(item, "permanent", message)


def untried(item: Item, message: str) -> Outcome:
    """Nothing was sent for this item, and nothing more should be sent now."""
    return Outcome(item, "untried", message)


class Sender(Protocol):
    """An open connection to a destination."""

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """Exactly one outcome per item, in any order, each as soon as it is certain.

        Failures of single items are outcomes. Raise TransientError or PermanentError only when the
        whole rest of the batch failed for that reason; items that had their outcome keep it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Destination:
    """A place rows are pushed to, whole.

    `required` and `optional` name fields of the settings; the destination is configured when all
    required ones are set. `open` checks the settings (UsageError) and connects on entering. `wants`
    says whether rows of a table are pushed. `extra` is the optional dependency set it needs,
    `batch_rows` how many rows a batch holds at most.
    """

    name: str
    title: str
    kind: Literal["webhook", "database", "object_store", "queue"]
    summary: str
    required: tuple[str, ...]
    open: Callable[[Settings], AbstractContextManager[Sender]]
    optional: tuple[str, ...] = ()
    wants: Callable[[Settings, str], bool] = lambda settings, table: True
    extra: str | None = None
    batch_rows: int = 200

    def is_configured(self, settings: Settings) -> bool:
        """Whether every required setting is set."""
        return all(getattr(settings, name, None) for name in self.required)

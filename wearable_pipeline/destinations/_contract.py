"""What a destination module declares: its settings and how it takes rows.

A destination is one module of this package with a `DESTINATION` constant. It is found because it is
there. Any number of targets may be configured of each. Delivery is at least once: a sender is keyed
and idempotent, the same batch twice leaves the same result.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cache, cached_property
from typing import Annotated, Any, Literal, Protocol

import polars as pl
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from wearable_pipeline.model import Table
from wearable_pipeline.model.payload import Compat, to_json, to_payload
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
    milliseconds) grows with every new content of the row: a receiver keeps the greatest. Items of
    one large request share `reference`, those of one of its payloads `chunk` too.
    """

    table: str
    user: UserInfo
    row_key: str
    date: date
    content_hash: str
    trace_id: str
    ordering_timestamp: int
    is_deleted: bool = False
    reference: str | None = None
    chunk: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a connection; `item.table` is its type, `item.row_key` its id.

    `body` is the whole JSON clients get, the same at every try.
    """

    item: Item
    body: Json = field(repr=False)


@cache
def _content_of(table: Table) -> Table:
    """The table without provenance: what is sent depends on the content alone, try after try."""
    return replace(table, columns=tuple(c for c in table.columns if not c.is_provenance))


@dataclass(frozen=True)
class Batch:
    """Rows of one table, each key once, as one frame for bulk writers and as JSON for the others.

    `rows` has the columns of `table`, row for row as in `items`; a withdrawn row has only its key.
    """

    table: Table
    items: tuple[Item, ...]
    rows: pl.DataFrame
    compat: Compat = "openapi"

    @cached_property
    def payloads(self) -> list[Json]:
        """The client's JSON object of every item, made at the first use."""
        return to_payload(_content_of(self.table), self.rows, self.compat)

    @cached_property
    def texts(self) -> list[memoryview]:
        """The JSON text of every item, made at the first use without going through objects."""
        return to_json(_content_of(self.table), self.rows, self.compat)


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


class EventSender(Sender, Protocol):
    """A sender of a destination that takes events too."""

    def deliver_events(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """As `deliver`, for events in the order they happened."""
        ...


def _split(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


Names = Annotated[frozenset[str], BeforeValidator(_split)]


class Filter(BaseModel):
    """What a target takes; an empty set leaves nothing out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    types: Names = Field(frozenset(), description="Data types, e.g. body, sleep.")
    providers: Names = Field(frozenset(), description="Providers, e.g. freestyle_libre.")
    users: Names = Field(frozenset(), description="User ids.")

    def takes_table(self, table: str) -> bool:
        """Whether rows of the table are taken, of some user at least."""
        return not self.types or table in self.types

    def takes_user(self, user_id: str, provider: str) -> bool:
        """Whether rows of the user are taken."""
        return (not self.users or user_id in self.users) and (
            not self.providers or provider in self.providers
        )


class DestinationSettings(BaseModel):
    """Base of the settings of a kind. Secrets are SecretStr; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Destination:
    """A kind of place rows are pushed to.

    `settings` is what one target of it needs. `open` checks them (UsageError) and connects on
    entering; it is given the target's `DestinationSettings` and the name errors should use.
    `from_environment` reads the one target that plain `WEARABLE_…` variables describe, None when
    they do not. `takes_events` says that its senders are `EventSender`, `bundles` that rows of one chunk
    of a large request arrive together, so that their number can be announced. `extra` is the optional
    dependency set it needs, `batch_rows` how many rows a batch holds at most.
    """

    name: str
    title: str
    kind: Literal["webhook", "database", "object_store", "queue"]
    summary: str
    settings: type[DestinationSettings]
    open: Callable[[Any, str], AbstractContextManager[Sender]]
    from_environment: Callable[[Settings], "tuple[DestinationSettings, Filter] | None"] = (
        lambda settings: None
    )
    takes_events: bool = False
    bundles: bool = False
    extra: str | None = None
    batch_rows: int = 200


@dataclass(frozen=True, slots=True)
class Target:
    """One configured destination: a name of its own, the kind, its settings and its filter."""

    name: str
    destination: Destination
    settings: DestinationSettings = field(repr=False)
    filter: Filter = field(default_factory=Filter)

    def open(self) -> AbstractContextManager[Sender]:
        """Connect. Raises UsageError when the settings do not allow it."""
        return self.destination.open(self.settings, self.name)

"""Rows as messages of a queue: what SQS and Kafka have in common.

A message holds the event of one row as the webhook posts it, or, when it does not fit, the same
without `data` and with `object`, the address the event lies at in an object store, and `url`, a link
to it that works for `expires_in` seconds. Payloads lie there as the object store destinations keep
theirs: the newest revision of each row under one name. A link of a message read late may so lead to a
newer revision, to an event without data or to nothing; a later message tells of it.

A withdrawn row travels as an event without data whose `deleted` names the row. Type, user, row and
ordering stand beside the body, as attributes or headers. A queue keeps no state: readers merge by
user, type and row and keep the greatest ordering.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Literal, Self

import msgspec
from pydantic import Field, model_validator

from wearable_pipeline.destinations._contract import (
    Batch,
    DestinationSettings,
    Event,
    Item,
    Outcome,
    permanent,
)
from wearable_pipeline.destinations._events import VERSION, user_object
from wearable_pipeline.destinations._objects import ObjectSender, StoreSettings, open_store
from wearable_pipeline.destinations.webhook import encode_data
from wearable_pipeline.errors import StorageError

_LONGEST_LINK_SECONDS = 7 * 24 * 3600


class QueueSettings(DestinationSettings):
    """What every queue is told."""

    payloads: StoreSettings | None = Field(
        None,
        description="Place in an object store for rows that do not fit a message: a table with url,"
        " endpoint, region and credentials.",
    )
    always_link: bool = Field(False, description="Send links alone, whatever would fit.")
    link: Literal["presigned", "address"] = Field(
        "presigned", description="presigned: a link anybody can follow; address: bucket and name."
    )
    link_seconds: int = Field(
        600, ge=60, le=_LONGEST_LINK_SECONDS, description="How long a presigned link works."
    )

    @model_validator(mode="after")
    def _check_payloads(self) -> Self:
        if self.always_link and self.payloads is None:
            raise ValueError("always_link needs payloads, the place links lead to")
        return self


@dataclass(frozen=True, slots=True)
class Message:
    """A message to send: what it speaks of, its body, and what stands beside that."""

    item: Item
    body: bytes = field(repr=False)
    headers: dict[str, str]

    @property
    def deduplication_id(self) -> str:
        """The same for every try of a content; not of one the row had before, left, and has again."""
        item = self.item
        told = (item.user.user_id, item.table, item.row_key, item.content_hash)
        text = "\x00".join((*told, str(item.is_deleted), str(item.ordering_timestamp)))
        return hashlib.sha256(text.encode()).hexdigest()


def describe(item: Item) -> dict[str, str]:
    """What stands beside the body."""
    return {
        "type": item.table,
        "user_id": item.user.user_id,
        "row_key": item.row_key or "-",
        "trace_id": item.trace_id,
        "ordering_timestamp": str(item.ordering_timestamp),
        "is_deleted": "true" if item.is_deleted else "false",
    }


class MessageMaker:
    """Makes messages of rows, and puts what does not fit where links lead; a context manager."""

    def __init__(self, settings: QueueSettings, name: str, fits: Callable[[Message], bool]) -> None:
        self._settings = settings
        self._name = name
        self._fits = fits
        self._store = (
            None if settings.payloads is None else open_store(settings.payloads, f"{name}.payloads")
        )
        self._objects = (
            None if self._store is None else ObjectSender(self._store, f"{name}.payloads", "json")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._objects is not None:
            self._objects.__exit__(kind, error, traceback)

    def make(self, batch: Batch) -> Iterator[Message | Outcome]:
        """A message per row, or what became of the row when there is none to send."""
        linked: list[int] = []
        for index, item in enumerate(batch.items):
            if item.is_deleted:
                if self._objects is not None:
                    linked.append(index)  # its payload goes first
                else:
                    yield Message(item, _farewell(item), describe(item))
                continue
            if self._settings.always_link:
                linked.append(index)
                continue
            message = Message(item, encode_data([item], [batch.texts[index]]), describe(item))
            if self._fits(message):
                yield message
            elif self._objects is not None:
                linked.append(index)
            else:
                yield permanent(
                    item,
                    f"{self._name}: a row of {len(message.body)} bytes does not fit a message;"
                    f" set {self._name}.payloads to a place in an object store",
                )
        if linked:
            yield from self._link(batch, linked)

    def make_event(self, event: Event) -> Message:
        """The message of an event."""
        return Message(event.item, msgspec.json.encode(event.body), describe(event.item))

    def _link(self, batch: Batch, indices: list[int]) -> Iterator[Message | Outcome]:
        assert self._objects is not None  # noqa: S101
        part = replace(
            batch, items=tuple(batch.items[index] for index in indices), rows=batch.rows[indices]
        )
        for outcome, path in self._objects.store(part):
            item = outcome.item
            if outcome.kind != "delivered":
                yield outcome
            elif item.is_deleted:
                yield Message(item, _farewell(item), describe(item))
            elif path is None:
                yield outcome  # a newer revision lies there, and its message tells more
            else:
                yield self._linked(item, path)

    def _linked(self, item: Item, path: str) -> Message | Outcome:
        assert self._store is not None  # noqa: S101
        body: dict[str, object] = {
            "user": user_object(item.user, _written_at(item)),
            "type": item.table,
            "version": VERSION,
            "object": self._store.uri(path),
        }
        if self._settings.link == "presigned":
            try:
                body["url"] = self._store.sign(path, timedelta(seconds=self._settings.link_seconds))
            except StorageError:
                return permanent(
                    item,
                    f"{self._name}.payloads: these credentials cannot sign links;"
                    f" set {self._name}.link to address",
                )
            body["expires_in"] = self._settings.link_seconds
        return Message(item, msgspec.json.encode(body), describe(item))


def _written_at(item: Item) -> datetime:
    return datetime.fromtimestamp(item.ordering_timestamp / 1000, UTC)


def _farewell(item: Item) -> bytes:
    body = {
        "user": user_object(item.user, _written_at(item)),
        "data": [],
        "type": item.table,
        "version": VERSION,
        "deleted": [{"row_key": item.row_key, "date": item.date.isoformat()}],
    }
    return msgspec.json.encode(body)

"""A provider that exists in tests alone: it pushes data, hints, deletions and departures."""

import hashlib
import hmac
from collections.abc import AsyncIterator, Iterator
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
import polars as pl

from wearable_pipeline.errors import TransientError
from wearable_pipeline.providers._contract import (
    Changed,
    Client,
    Connection,
    Delivered,
    Departed,
    Page,
    Provider,
    Push,
    Pushed,
    PushRequest,
    Record,
    Removed,
    Resource,
    Signature,
    Window,
)

SECRET = "postbox-secret"
DAY = date(2026, 11, 20)


def _split(page: Page) -> Iterator[Record]:
    for item in msgspec.json.decode(page.body, type=list[msgspec.Raw]):
        fields = msgspec.json.decode(item, type=dict[str, Any])
        yield Record("notes", str(fields["id"]), bytes(item), date.fromisoformat(fields["day"]))


def _read(request: PushRequest) -> Iterator[Pushed]:
    for said in msgspec.json.decode(request.body, type=list[dict[str, Any]]):
        account = said["account"]
        match said["kind"]:
            case "data":
                yield Delivered(account, "notes", msgspec.json.encode(said["notes"]))
            case "changed":
                days = [
                    date.fromisoformat(said[key]) if key in said else None
                    for key in ("start", "end")
                ]
                yield Changed(account, days[0], days[1])
            case "removed":
                yield Removed(account, "notes", tuple(said["ids"]))
            case "departed":
                yield Departed(account)
            case "crash":
                raise ZeroDivisionError(str(said))


class Fetched:
    """What was asked for; fails while `is_down`."""

    def __init__(self) -> None:
        self.windows: list[tuple[date, date]] = []
        self.is_down = False

    async def __call__(
        self, client: Client, connection: Connection, window: Window
    ) -> AsyncIterator[Page]:
        self.windows.append((window.start, window.end))
        if self.is_down:
            raise TransientError("postbox: down")
        note = {"id": f"fetched-{window.start}", "day": window.start.isoformat()}
        yield Page("notes", msgspec.json.encode([note]), window.now)


def make_postbox(fetched: Fetched | None = None) -> Provider:
    """The provider; with `fetched` it can be asked, too."""
    notes = Resource("notes", {}, _split, lambda frame: frame.with_columns(pl.lit(None)), ())
    return Provider(
        name="postbox",
        title="Postbox",
        client_name="POSTBOX",
        summary="",
        docs_url="",
        resources=(notes,),
        fetch=fetched,
        refetch=timedelta(days=3),
        push=Push(
            read=_read,
            proof=Signature(
                header="x-signature",
                timestamp_header="x-time",
                message=lambda stamp, body: stamp.encode() + b"." + body,
            ),
        ),
    )


def signed(body: bytes, at: datetime, secret: str = SECRET) -> dict[str, str]:
    """Headers that prove the body."""
    stamp = str(int(at.timestamp()))
    message = stamp.encode() + b"." + body
    return {
        "x-time": stamp,
        "x-signature": hmac.digest(secret.encode(), message, hashlib.sha256).hex(),
    }


def note(number: int, account: str = "acc-1", text: str = "") -> dict[str, Any]:
    """What a push says of one note."""
    fields = {"id": f"n{number}", "day": DAY.isoformat(), "text": text}
    return {"kind": "data", "account": account, "notes": [fields]}

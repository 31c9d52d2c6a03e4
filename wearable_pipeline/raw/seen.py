"""What the last answer showed: enough to read only what is new in the next one.

A source that shows the last twelve hours with every answer shows two new readings in 143. Per user and
resource a fingerprint of every item of the last answer is kept beside the sync state, 64 bits of a
cryptographic hash: an item is passed over only when its very bytes were in the answer before. Nothing
depends on it being there: without it everything is read and compared with what is stored, as at first.

It is written only after raw holds what it speaks of, and names a raw segment that must still be there:
a lake restored from a backup or started anew is not taken for the one it was written for.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from hashlib import blake2b

import msgspec

from wearable_pipeline.providers._contract import Cut, Page, Record, Resource

PRINT_BYTES = 8
# Enough to see whether readings come at a fixed step.
_READINGS_KEPT = 4


class Mark(msgspec.Struct, array_like=True):
    """One resource: the page's context, the newest item ever stored, what the last answer held."""

    context: bytes
    newest: int | None
    prints: bytes


class Seen(msgspec.Struct, array_like=True):
    """One user. `segment` is the last one written for them, in the partition of `day`.

    `readings` are the newest readings' epoch seconds after each of the last polls, oldest first.
    """

    segment: str = ""
    day: date | None = None
    marks: dict[str, Mark] = {}
    readings: list[int] = []

    def newest(self) -> dict[str, datetime]:
        """Per resource the instant after which nothing is stored."""
        return {
            name: datetime.fromtimestamp(mark.newest, UTC)
            for name, mark in self.marks.items()
            if mark.newest is not None
        }


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Seen)


def decode_seen(stored: bytes | None) -> Seen | None:
    """What `encode_seen` was given; None for anything else, which only costs work."""
    if stored is None:
        return None
    try:
        return _decoder.decode(stored)
    except msgspec.MsgspecError:
        return None


def encode_seen(seen: Seen) -> bytes:
    """`seen` as it is stored."""
    return _encoder.encode(seen)


class Reader:
    """Reads the pages of one user's fetch; `after` is what to remember of them."""

    def __init__(self, before: Seen | None) -> None:
        self._before = before
        self._known: dict[str, frozenset[bytes]] = {}
        self.passed_over = 0
        self.after = Seen(
            before.segment if before else "",
            before.day if before else None,
            {},
            list(before.readings) if before else [],
        )

    def read(self, resource: Resource, page: Page) -> list[Record]:
        """Records of the page's items that were not in the last answer."""
        if resource.cut is None or resource.read is None:
            return list(resource.split(page))
        cut = resource.cut(page)
        context = _digest(msgspec.json.encode(page.context, order="sorted"))
        prints = [blake2b(item, digest_size=PRINT_BYTES).digest() for item in cut.items]
        known = self._known_of(resource.name, context)
        unseen = [item for item, found in zip(cut.items, prints, strict=True) if found not in known]
        self.passed_over += len(cut.items) - len(unseen)
        records = list(resource.read(page, Cut(unseen, cut.around)))
        self._remember(resource.name, context, prints, records)
        return records

    def finish(self) -> Seen | None:
        """What to remember after a fetch that went through whole; None when there is nothing to."""
        if not self.after.marks:
            return None
        newest = [mark.newest for mark in self.after.marks.values() if mark.newest is not None]
        if newest:
            self.after.readings = [*self.after.readings, max(newest)][-_READINGS_KEPT:]
        # A resource that is not asked for every time stays as it was.
        for name, mark in (self._before.marks if self._before else {}).items():
            self.after.marks.setdefault(name, mark)
        return self.after

    def _known_of(self, name: str, context: bytes) -> frozenset[bytes]:
        mark = self._before.marks.get(name) if self._before else None
        if mark is None or mark.context != context:
            return frozenset()
        if name not in self._known:
            prints = mark.prints
            self._known[name] = frozenset(
                prints[at : at + PRINT_BYTES] for at in range(0, len(prints), PRINT_BYTES)
            )
        return self._known[name]

    def _remember(
        self, name: str, context: bytes, prints: Sequence[bytes], records: Sequence[Record]
    ) -> None:
        before = self._before.marks.get(name) if self._before else None
        mark = self.after.marks.get(name)
        if mark is None:
            mark = Mark(context, before.newest if before else None, b"")
            self.after.marks[name] = mark
        mark.prints += b"".join(prints)
        instants = [int(one.taken_at.timestamp()) for one in records if one.taken_at is not None]
        if instants:
            mark.newest = max([*instants, *([] if mark.newest is None else [mark.newest])])


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=PRINT_BYTES).digest()

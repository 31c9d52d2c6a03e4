"""Batches made by hand, for tests that want a sender without ledger and lake."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl

from wearable_pipeline.destinations._contract import Batch, Item, Outcome, UserInfo
from wearable_pipeline_tests.destinations.bench import BODY, TODAY, body_row

USER = UserInfo(
    user_id="11111111-1111-4111-8111-111111111111",
    provider="FREESTYLELIBRE",
    reference_id="person-1",
    scopes=None,
    created_at=datetime(2026, 11, 1, 8, 0, tzinfo=UTC),
)


def batch_of(count: int) -> Batch:
    """The days of one user up to today, newest first; trace ids are `trace-0`, …"""
    days = [TODAY - timedelta(days=n) for n in range(count)]
    return Batch(
        BODY,
        tuple(
            Item(
                table="body",
                user=USER,
                row_key=day.isoformat(),
                date=day,
                content_hash=f"hash-{n}",
                trace_id=f"trace-{n}",
                ordering_timestamp=1_795_176_000_000,
            )
            for n, day in enumerate(days)
        ),
        pl.concat([body_row(USER.user_id, [100, 110.4], day) for day in days]),
    )


def kinds(outcomes: Iterable[Outcome]) -> Counter[str]:
    """How many outcomes of each kind."""
    return Counter(outcome.kind for outcome in outcomes)


def known_as(batch: Batch, *references: str) -> Batch:
    """The batch, its first rows of users with these reference ids."""
    items = list(batch.items)
    for index, reference in enumerate(references):
        items[index] = replace(
            items[index], user=replace(items[index].user, reference_id=reference)
        )
    return replace(batch, items=tuple(items))

"""What has no date of its own: kept when it differs from before, under the day that was noticed."""

from collections.abc import Iterator, Mapping

import polars as pl

from wearable_pipeline.providers._contract import Answer, Connection, Page, Record
from wearable_pipeline.providers._local_time import local_date_of, zone_of
from wearable_pipeline.providers._moments import at_moment, on_calendar
from wearable_pipeline.providers._split import content_id

NOTICED: Mapping[str, pl.DataType] = {"noticed": pl.String()}


def pages_if_changed(
    connection: Connection, resource: str, answer: Answer, context: Mapping[str, object]
) -> Iterator[Page]:
    """The answer as a page, unless it says what it said before."""
    digest = content_id(answer.body)
    if connection.state.get(resource) != digest:
        yield Page(resource, answer.body, answer.fetched_at, context)
        connection.state[resource] = digest


def split_noticed(page: Page) -> Record:
    """The whole body as the one record of its resource."""
    day = local_date_of(page.fetched_at, zone_of(page))
    context = {"noticed": day.isoformat()}
    return Record(page.resource, page.resource, page.body.strip(), day, context)


def prepare_noticed(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` at the day of its context, on the person's calendar."""
    return at_moment(frame, on_calendar(pl.col("context.noticed")))

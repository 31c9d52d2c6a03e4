"""Several sources of one person as one row a day: the rule, its SQL, and who is one person.

The SQL is the catalog's view `daily_merged` and the dbt model of that name. `docs/merging.md` tells
the rule in words; change both together.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.model.columns import Column
from wearable_pipeline.model.daily import DAILY
from wearable_pipeline.registry.users import User

PEOPLE = "people"
PEOPLE_PATH = "people/part.parquet"
PEOPLE_FILES = "people/*.parquet"
PEOPLE_COLUMNS = (
    Column("user_id", pl.String(), "One person's connection to one provider.", required=True),
    Column(
        "person_id",
        pl.String(),
        "The person behind the connection: the same for all connections of one reference id.",
        required=True,
    ),
)

DAILY_MERGED = "daily_merged"
# `*` is every provider not named. What runs on a phone knows only the hours it was carried.
SOURCE_PRIORITY = (
    "*",
    "huawei",
    "huawei_health",
    "samsung",
    "samsung_health",
    "health_connect",
    "google_fit",
    "apple",
    "apple_health",
)
# A sample stands for the time since the one before, but for no longer than this.
LONGEST_SAMPLE_SECONDS = 3_600
# End times of 23:59:59 and 24:00 mean the same day: so small a part of a total's span is nothing.
UNCOVERED_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity that adds up over the day."""

    total: str
    samples: str
    field: str


MEASURES = (
    Measure("distance_steps", "distance_detailed_step_samples", "steps"),
    Measure("distance_distance_meters", "distance_detailed_distance_samples", "distance_meters"),
    Measure(
        "distance_floors_climbed",
        "distance_detailed_floors_climbed_samples",
        "floors_climbed",
    ),
    Measure("calories_total_burned_calories", "calories_calorie_samples", "calories"),
)
_OWN = frozenset(measure.total for measure in MEASURES)


def write_people(
    storage: Storage, users: Iterable[User], hash_reference: Callable[[str], str]
) -> int:
    """The number of users written to the lake's map of people, which replaces the one before.

    `hash_reference` makes an opaque, stable name of a reference id, such as
    `registry.hash_account("person", …)`; the id itself, often an address, stays out of the lake.
    """
    rows = sorted(
        (
            user.user_id,
            user.user_id if user.reference_id is None else hash_reference(user.reference_id),
        )
        for user in users
    )
    schema = {column.name: column.dtype for column in PEOPLE_COLUMNS}
    buffer = io.BytesIO()
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(buffer, compression="zstd")
    storage.put(PEOPLE_PATH, buffer.getvalue())
    return len(rows)


def merged_columns() -> tuple[tuple[str, str], ...]:
    """Names of the columns of `daily_merged` with what they mean, in order."""
    own = (
        ("person_id", "The person, see `people`; the user id where nothing ties users together."),
        ("local_date", "Day the row belongs to, where the person was."),
        (
            "contributing_providers",
            "Providers of which something was counted in one of the added quantities.",
        ),
        (
            "sources",
            "Every source with a row for the day, by priority: user_id, provider, and what was"
            " counted of it in each added quantity (null where it says nothing).",
        ),
    )
    added = ((m.total, f"{_described(DAILY.column(m.total))} Counted once.") for m in MEASURES)
    taken = (
        (column.name, f"{_described(column)} From the first source that has it.")
        for column in _taken()
    )
    return (*own, *added, *taken)


def default_priority() -> str:
    """SQL of the priority when nobody says otherwise."""
    return priority_list(SOURCE_PRIORITY)


def priority_list(providers: Sequence[str]) -> str:
    """SQL of a list of providers."""
    return "[" + ", ".join("'" + name.replace("'", "''") + "'" for name in providers) + "]"


def merged_sql(daily: str, people: str, priority: str) -> str:
    """The query behind `daily_merged`.

    Args:
        daily: Relation of daily rows.
        people: Relation of `user_id` and `person_id`.
        priority: SQL of a list of providers, the first one counting before the others.
    """
    return _MERGED.format(
        daily=daily,
        people=people,
        priority=priority,
        place=_place("row_start", "local_row_start"),
        place_end=_place("row_end", "local_row_end"),
        place_sample=_place("sampled_at", "local_sampled_at"),
        midnight=_place("NULL::TIMESTAMPTZ", "local_date::TIMESTAMP"),
        next_midnight=_place("NULL::TIMESTAMPTZ", "(local_date::TIMESTAMP + INTERVAL 1 DAY)"),
        totals="\n    UNION ALL\n".join(_TOTAL.format(m=m) for m in MEASURES),
        samples="\n    UNION ALL\n".join(_SAMPLES.format(m=m) for m in MEASURES),
        longest=LONGEST_SAMPLE_SECONDS * 1_000_000,
        uncovered=UNCOVERED_SHARE,
        parts=",\n            ".join(
            f"max(counted) FILTER (WHERE measure = '{m.total}') AS \"{m.total}\"" for m in MEASURES
        ),
        packed=", ".join(f"'{m.total}': parts.\"{m.total}\"" for m in MEASURES),
        sums=",\n    ".join(f'{_rounded(DAILY.column(m.total))} AS "{m.total}"' for m in MEASURES),
        anything=" OR ".join(f'parts."{m.total}" > 0' for m in MEASURES),
        taken=",\n    ".join(
            f'arg_min(daily."{column.name}", daily.rank) AS "{column.name}"' for column in _taken()
        ),
    )


def _taken() -> list[Column]:
    """Quantities that cannot be added, and so are taken from one source."""
    return [
        column
        for column in DAILY.columns
        if column.path is not None
        and column.role == "value"
        and not column.is_list
        and not column.path.startswith(("metadata.", "device_data."))
        and column.name not in _OWN
    ]


def _described(column: Column) -> str:
    return f"{column.description} [{column.unit}]" if column.unit else column.description


def _rounded(column: Column) -> str:
    counted = f'sum(parts."{column.name}")'
    return f"round({counted})::BIGINT" if column.dtype.is_integer() else counted


def _place(instant: str, local: str) -> str:
    """Microseconds since 1970 of a moment.

    Where only local time is known, the zone or offset another source of the day knows fills in;
    where none does, all of the day's moments are local and compare as they are.
    """
    return (
        f"epoch_us(coalesce({instant}, {local} AT TIME ZONE zone,"
        f" ({local} AT TIME ZONE 'UTC') - to_seconds(utc_offset), {local} AT TIME ZONE 'UTC'))"
    )


_TOTAL = (
    "    SELECT person_id, local_date, rank, since, until, '{m.total}' AS measure,"
    ' "{m.total}"::DOUBLE AS total FROM placed_rows'
)
_SAMPLES = (
    "    SELECT person_id, local_date, rank, zone, utc_offset, '{m.total}' AS measure,"
    ' sample."timestamp" AS sampled_at, sample.local_timestamp AS local_sampled_at,'
    ' sample."{m.field}"::DOUBLE AS amount'
    ' FROM (SELECT person_id, local_date, rank, zone, utc_offset, unnest("{m.samples}") AS sample'
    " FROM ranked)"
)

_MERGED = """\
WITH RECURSIVE
priority AS (SELECT {priority}::VARCHAR[] AS listed),
daily_rows AS (
    SELECT
        coalesce(people.person_id, daily.user_id) AS person_id,
        coalesce(
            list_position(listed, daily.provider), list_position(listed, '*'), len(listed) + 1
        ) AS place,
        daily.start_at AS row_start,
        daily.local_start_at AS local_row_start,
        daily.end_at AS row_end,
        daily.local_end_at AS local_row_end,
        daily.*
    FROM {daily} AS daily
    CROSS JOIN priority
    LEFT JOIN {people} AS people ON people.user_id = daily.user_id
),
ranked AS (
    SELECT
        *,
        row_number() OVER by_rank AS rank,
        first_value(timezone IGNORE NULLS) OVER of_day AS zone,
        first_value(utc_offset_seconds IGNORE NULLS) OVER of_day AS utc_offset
    FROM daily_rows
    WINDOW
        by_rank AS (PARTITION BY person_id, local_date ORDER BY place, provider, user_id),
        of_day AS (
            by_rank ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
        )
),
-- A total without samples stands for the span of its row, or for the whole day if it has none.
placed_rows AS (
    SELECT
        * EXCLUDE (row_since, row_until),
        CASE WHEN row_until > row_since THEN row_since ELSE {midnight} END AS since,
        CASE WHEN row_until > row_since THEN row_until ELSE {next_midnight} END AS until
    FROM (SELECT *, {place} AS row_since, {place_end} AS row_until FROM ranked)
),
totals AS (
{totals}
),
samples AS (
{samples}
),
placed_samples AS (
    SELECT person_id, local_date, measure, rank, amount, moment,
        moment - lag(moment) OVER in_time AS step
    FROM (SELECT *, {place_sample} AS moment FROM samples WHERE amount IS NOT NULL)
    WINDOW in_time AS (PARTITION BY person_id, local_date, measure, rank ORDER BY moment)
),
sampled AS (
    SELECT
        person_id,
        local_date,
        measure,
        rank,
        sum(amount) AS amount,
        least(coalesce(median(step), {longest}), {longest})::BIGINT AS usual_step
    FROM placed_samples
    GROUP BY ALL
),
stated AS (
    SELECT
        totals.* EXCLUDE (total),
        totals.total,
        sampled.amount AS sampled,
        sampled.usual_step,
        coalesce(sampled.amount, 0) > 0 AS has_samples
    FROM totals
    LEFT JOIN sampled USING (person_id, local_date, measure, rank)
    WHERE totals.total IS NOT NULL OR sampled.amount IS NOT NULL
),
-- A zero claims no time: it may as well mean that the device lay on the table.
intervals AS (
    SELECT
        person_id,
        local_date,
        measure,
        rank,
        true AS has_samples,
        moment - greatest(least(coalesce(step, usual_step), usual_step), 1) AS since,
        moment AS until,
        -- The source's own total is final: samples that exceed it are taken in proportion.
        amount * least(coalesce(total / sampled, 1), 1) AS amount
    FROM placed_samples
    JOIN stated USING (person_id, local_date, measure, rank)
    WHERE amount > 0
    UNION ALL
    SELECT person_id, local_date, measure, rank, false, since, until, total
    FROM stated
    WHERE NOT has_samples AND total > 0
),
-- For each source, the time that sources before it have claimed, as disjoint pieces.
higher AS (
    SELECT DISTINCT
        person_id, local_date, measure, stated.rank AS rank, other.since, other.until
    FROM stated
    JOIN intervals AS other USING (person_id, local_date, measure)
    WHERE other.rank < stated.rank
),
pieces AS (
    SELECT
        *,
        sum(until - since) OVER (
            PARTITION BY person_id, local_date, measure, rank ORDER BY since
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS before
    FROM (
        SELECT
            person_id, local_date, measure, rank, piece, min(since) AS since, max(until) AS until
        FROM (
            SELECT
                *,
                sum(opens) OVER (
                    PARTITION BY person_id, local_date, measure, rank ORDER BY since, until
                ) AS piece
            FROM (
                SELECT
                    *,
                    CASE
                        WHEN since <= max(until) OVER (
                            PARTITION BY person_id, local_date, measure, rank
                            ORDER BY since, until
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                        ) THEN 0
                        ELSE 1
                    END AS opens
                FROM higher
            )
        )
        GROUP BY ALL
    )
),
uncovered AS (
    SELECT
        intervals.*,
        1 - (
            coalesce(last.before, 0) + coalesce(least(intervals.until, last.until) - last.since, 0)
            - coalesce(first.before, 0)
            - coalesce(least(intervals.since, first.until) - first.since, 0)
        ) / (intervals.until - intervals.since) AS free
    FROM intervals
    ASOF LEFT JOIN pieces AS first
        ON intervals.person_id = first.person_id
        AND intervals.local_date = first.local_date
        AND intervals.measure = first.measure
        AND intervals.rank = first.rank
        AND intervals.since >= first.since
    ASOF LEFT JOIN pieces AS last
        ON intervals.person_id = last.person_id
        AND intervals.local_date = last.local_date
        AND intervals.measure = last.measure
        AND intervals.rank = last.rank
        AND intervals.until >= last.since
),
-- What each source may add: its samples' free parts; a total without samples, or a rest of the
-- total beyond the samples, up to what is not counted yet. Rests know no time and come last.
claims AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY person_id, local_date, measure ORDER BY is_rest, rank
        ) AS turn
    FROM (
        SELECT
            person_id,
            local_date,
            measure,
            rank,
            has_samples,
            false AS is_rest,
            CASE
                WHEN has_samples THEN sum(amount * free)
                ELSE sum(amount) FILTER (WHERE free > {uncovered})
            END AS amount,
            sum(amount) AS ceiling,
            min(since) AS since,
            max(until) AS until
        FROM uncovered
        GROUP BY person_id, local_date, measure, rank, has_samples
        UNION ALL
        SELECT
            person_id, local_date, measure, rank, true, true, total - sampled, total, NULL, NULL
        FROM stated
        WHERE has_samples AND total > sampled
    )
),
-- Of every claim before a total without samples, the share that lies within the total's span.
shares AS (
    SELECT
        person_id,
        local_date,
        measure,
        claims.turn,
        other.turn AS other_turn,
        coalesce(
            sum(
                part.amount * part.free
                * greatest(least(part.until, claims.until) - greatest(part.since, claims.since), 0)
                / (part.until - part.since)
            ) / nullif(sum(part.amount * part.free), 0),
            0
        ) AS share
    FROM claims
    JOIN claims AS other USING (person_id, local_date, measure)
    JOIN uncovered AS part USING (person_id, local_date, measure)
    WHERE
        NOT claims.has_samples AND NOT other.is_rest
        AND other.turn < claims.turn AND part.rank = other.rank
    GROUP BY ALL
),
turns AS (
    SELECT
        claims.person_id,
        claims.local_date,
        claims.measure,
        claims.rank,
        claims.turn,
        coalesce(claims.amount, 0) AS amount,
        claims.ceiling,
        CASE
            WHEN claims.is_rest THEN list_resize([]::DOUBLE[], claims.turn - 1, 1.0)
            WHEN claims.has_samples THEN list_resize([]::DOUBLE[], claims.turn - 1, 0.0)
            ELSE coalesce(within.listed, []::DOUBLE[])
        END AS shares
    FROM claims
    LEFT JOIN (
        SELECT
            person_id, local_date, measure, turn, list(share ORDER BY other_turn) AS listed
        FROM shares
        GROUP BY ALL
    ) AS within USING (person_id, local_date, measure, turn)
),
counting AS (
    SELECT person_id, local_date, measure, 0::BIGINT AS turn, []::DOUBLE[] AS counts
    FROM turns
    WHERE turn = 1
    UNION ALL
    SELECT
        turns.person_id,
        turns.local_date,
        turns.measure,
        turns.turn,
        list_append(
            counts,
            least(
                turns.amount,
                greatest(turns.ceiling - list_inner_product(counts, turns.shares), 0)
            )
        )
    FROM counting
    JOIN turns
        ON turns.person_id = counting.person_id
        AND turns.local_date = counting.local_date
        AND turns.measure = counting.measure
        AND turns.turn = counting.turn + 1
),
counted AS (
    SELECT turns.person_id, turns.local_date, turns.measure, turns.rank, sum(counts[-1]) AS counted
    FROM counting
    JOIN turns USING (person_id, local_date, measure, turn)
    GROUP BY ALL
),
parts AS (
    SELECT
        person_id,
        local_date,
        rank,
        {parts}
    FROM (
        SELECT
            stated.person_id,
            stated.local_date,
            stated.rank,
            stated.measure,
            coalesce(counted.counted, 0) AS counted
        FROM stated
        LEFT JOIN counted USING (person_id, local_date, measure, rank)
    )
    GROUP BY ALL
)
SELECT
    daily.person_id,
    daily.local_date,
    coalesce(
        list_distinct(list(daily.provider ORDER BY daily.rank) FILTER (WHERE {anything})),
        []
    ).list_sort() AS contributing_providers,
    list(
        {{'user_id': daily.user_id, 'provider': daily.provider, {packed}}}
        ORDER BY daily.rank
    ) AS sources,
    {sums},
    {taken}
FROM ranked AS daily
LEFT JOIN parts USING (person_id, local_date, rank)
GROUP BY daily.person_id, daily.local_date"""

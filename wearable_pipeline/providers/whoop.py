"""WHOOP: cycles, recoveries, sleeps and workouts of a strap, through API v2.

https://developer.whoop.com/api

A cycle runs from falling asleep to falling asleep. Its date here is that of the morning in it: where its
sleep ended, or, while no sleep of it is known, where one of eight hours would have. A recovery has no time
but that of the sleep it judges. All others are instants in UTC with the offset of the person beside them.

The current cycle is scored while it lasts: its values grow until it ends.

Body measurements have no date at all: they are stored when they differ from what was there before, under
the day that was noticed.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import date, datetime, timedelta
from functools import partial
from typing import cast

import msgspec
import polars as pl

from wearable_pipeline.errors import BadPayloadError, PermanentError
from wearable_pipeline.model.time import Pair, pair_from_offset, parse_pair
from wearable_pipeline.model.units import kilojoules_to_kilocalories
from wearable_pipeline.providers._activity_types import OWN_WORDS, activity_type
from wearable_pipeline.providers._contract import (
    Changed,
    Client,
    Connection,
    Identity,
    OAuth,
    Page,
    Provider,
    Push,
    Pushed,
    PushRequest,
    Quota,
    Record,
    Refusal,
    Reject,
    Removed,
    Resource,
    Samples,
    Scalars,
    Signature,
    TokenRequest,
    Window,
)
from wearable_pipeline.providers._local_time import (
    local_date_of,
    read_instant,
    zone_of,
)
from wearable_pipeline.providers._moments import NO_SPAN, SPAN, at_moment
from wearable_pipeline.providers._noticed import (
    NOTICED,
    pages_if_changed,
    prepare_noticed,
    split_noticed,
)
from wearable_pipeline.providers._paging import follow_tokens
from wearable_pipeline.providers._split import (
    IsOne,
    content_id,
    decode,
    decode_any,
    holds_items,
    item_fields,
    items_of,
    with_fields,
)
from wearable_pipeline.providers._values import not_empty
from wearable_pipeline.providers._windows import instants_around

_BODY = "/v2/user/measurement/body"
_DAY = timedelta(days=1)
_PAGE = 25
# How long somebody is taken to sleep while nothing is known of it.
_NIGHT = timedelta(hours=8)
# A cycle that began before the window may have begun with a sleep this long before it.
_LONGEST_CYCLE = timedelta(days=3)

# --- talking to WHOOP


class _Answer(msgspec.Struct):
    records: list[msgspec.Raw]
    next_token: str | None = None


class _Profile(msgspec.Struct):
    user_id: int | str


async def identify(client: Client, granted: Mapping[str, object]) -> Identity:
    """Whose strap it is; pushes name the account by the same number."""
    answer = await client.request("GET", "/v2/user/profile/basic")
    found = decode(answer.body, _Profile, "whoop: reading the account")
    return Identity(account_id=str(found.user_id))


async def revoke(client: Client, credentials: Mapping[str, object]) -> None:
    """Take our access back; pushes for this person end with it."""
    await client.request("DELETE", "/v2/user/access", accept=(204, 200))


def ask_to_stay(request: TokenRequest) -> TokenRequest:
    """A refresh without this scope is answered without a refresh token: the last one."""
    if request.form.get("grant_type") != "refresh_token":
        return request
    return TokenRequest(request.url, {**request.form, "scope": "offline"}, request.headers)


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield what the window holds, sleeps first: they say which day a cycle and a recovery are of."""
    begin, end = instants_around(window)
    # A night begins the evening before.
    begin, end = begin - _DAY, min(end, window.now)
    context: dict[str, object] = {"timezone": connection.timezone}
    slept: dict[str, list[str]] = {}
    longest: dict[str, timedelta] = {}
    refused: list[str] = []
    for resource, path in _COLLECTIONS.items():
        since = begin - _LONGEST_CYCLE if resource == "sleep" else begin
        params: dict[str, str | int] = {"limit": _PAGE, "start": _stamp(since), "end": _stamp(end)}
        what = f"whoop: reading {resource}"
        async for answer in follow_tokens(client, path, params, "nextToken", _Answer, what):
            if answer.status == 403:
                refused.append(resource)
                break
            if resource == "sleep":
                _note_sleeps(answer.body, slept, longest)
            more = {"slept": slept} if resource in ("cycle", "recovery") else {}
            yield Page(resource, answer.body, answer.fetched_at, {**context, **more})
    if len(refused) == len(_COLLECTIONS):
        raise PermanentError(
            "whoop: every collection is refused (HTTP 403): no permission was given"
        )
    answer = await client.request("GET", _BODY, accept=(200, 404))
    if answer.status == 200:
        for page in pages_if_changed(connection, _MEASURED.name, answer, context):
            yield page


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


def _note_sleeps(body: bytes, slept: dict[str, list[str]], longest: dict[str, timedelta]) -> None:
    """Note end and offset of every sleep, by its own id and, of a cycle's longest, by the cycle's."""
    for item in decode(body, _Answer, "whoop: reading sleep").records:
        fields = item_fields(item)
        start, end = read_instant(fields.get("start")), read_instant(fields.get("end"))
        if start is None or end is None:
            continue
        told = [str(fields["end"]), str(fields.get("timezone_offset"))]
        slept[f"sleep/{fields.get('id')}"] = told
        cycle = f"cycle/{fields.get('cycle_id')}"
        if fields.get("nap") is not True and end - start > longest.get(cycle, timedelta()):
            longest[cycle] = end - start
            slept[cycle] = told


# --- answers → records


def _items(page: Page) -> list[msgspec.Raw]:
    return items_of(page, "records", _RECORDS[page.resource], f"whoop: reading {page.resource}")


def _split(page: Page, dated_by: str) -> Iterator[Record]:
    for item, fields in with_fields(_items(page)):
        at = read_instant(fields.get(dated_by)) or read_instant(fields.get("start"))
        yield Record(
            page.resource,
            _id(fields, item, "id"),
            item,
            _date_of(at or page.fetched_at, fields.get("timezone_offset"), page),
            provider_updated_at=read_instant(fields.get("updated_at")),
        )


def _split_cycles(page: Page) -> Iterator[Record]:
    for item, fields in with_fields(_items(page)):
        start = read_instant(fields.get("start"))
        guessed = _date_of(
            start + _NIGHT if start else page.fetched_at, fields.get("timezone_offset"), page
        )
        woke = _woke(page, f"cycle/{fields.get('id')}")
        known = _date_of(*woke, page) if woke else guessed
        yield Record(
            page.resource,
            _id(fields, item, "id"),
            item,
            known,
            provider_updated_at=read_instant(fields.get("updated_at")),
            former_date=guessed if guessed != known else None,
        )


def _split_recoveries(page: Page) -> Iterator[Record]:
    for item, fields in with_fields(_items(page)):
        # It is made when the person has woken.
        made = _date_of(read_instant(fields.get("created_at")) or page.fetched_at, None, page)
        woke = _woke(page, f"sleep/{fields.get('sleep_id')}")
        known = _date_of(*woke, page) if woke else made
        context: dict[str, object] = {}
        if woke:
            context = {"woke_at": woke[0].isoformat(), "timezone_offset": woke[1]}
        yield Record(
            page.resource,
            # Deletions are told by the sleep.
            _id(fields, item, "sleep_id", "cycle_id"),
            item,
            known,
            context,
            provider_updated_at=read_instant(fields.get("updated_at")),
            is_context_content=True,
            former_date=made if made != known else None,
        )


def _split_body(page: Page) -> Iterator[Record]:
    decode(page.body, dict[str, object], "whoop: reading body measurements")
    yield split_noticed(page)


def _id(fields: Mapping[str, object], item: bytes, *names: str) -> str:
    named = next((fields[name] for name in names if fields.get(name)), None)
    return content_id(item) if named is None else str(named)


def _woke(page: Page, key: str) -> tuple[datetime, str] | None:
    slept = page.context.get("slept")
    told = slept.get(key) if isinstance(slept, dict) else None
    if not told:
        return None
    end, offset = cast(list[str], told)
    at = read_instant(end)
    return (at, offset) if at else None


def _date_of(at: datetime, offset: object, page: Page) -> date:
    """Date at `at` by the offset told; by the zone of the person where none was."""
    ahead = _offset(offset)
    return local_date_of(at, zone_of(page)) if ahead is None else (at + ahead).date()


def _offset(text: object) -> timedelta | None:
    if text == "Z":
        return timedelta()
    found = re.fullmatch(r"([+-])(\d{2}):?(\d{2})", text) if isinstance(text, str) else None
    if found is None:
        return None
    sign, hours, minutes = found.groups()
    ahead = timedelta(hours=int(hours), minutes=int(minutes))
    return -ahead if sign == "-" else ahead


# --- bodies of unknown origin

_RECORDS: Mapping[str, IsOne] = {
    "sleep": lambda r: {"start", "nap"} <= r.keys(),
    "workout": lambda r: "start" in r and bool({"sport_name", "sport_id"} & r.keys()),
    "cycle": lambda r: (
        {"start", "score_state", "timezone_offset"} <= r.keys()
        and not {"nap", "sport_name", "sport_id", "cycle_id"} & r.keys()
    ),
    "recovery": lambda r: {"cycle_id", "score_state"} <= r.keys() and "start" not in r,
    "body": lambda r: bool({"height_meter", "weight_kilogram"} & r.keys()),
}


def _recognise(resource: str, answer: object) -> bool:
    return holds_items(answer, "records", _RECORDS[resource])


def _recognise_body(answer: object) -> bool:
    return isinstance(answer, dict) and _RECORDS["body"](answer)


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer of WHOOP without records."""
    answer = decode_any(body)
    if not isinstance(answer, dict) or "records" in answer or "start" in answer:
        return
    what = None
    if {"user_id", "type", "trace_id"} <= answer.keys():
        what = "a webhook event: it has no readings"
    elif {"first_name", "email"} <= answer.keys():
        what = "a profile: it carries no readings"
    elif "v2_activity_id" in answer:
        what = "an identity of before: it carries no readings"
    elif "access_token" in answer:
        what = "a token answer: it carries no readings"
    elif {"error", "errors"} & answer.keys() or answer.keys() == {"message"}:
        what = "a refusal: it carries no readings"
    if what:
        raise BadPayloadError(f"whoop: reading the answer: it is {what}")


# --- records → columns


def _at(stamp: str, offset: str) -> Pair:
    """The moment of a stamp in UTC and an offset beside it; an offset nobody can read is none."""
    parts = pl.col(offset).str.extract_groups(r"^([+-])(\d{2}):?(\d{2})$")
    sign = pl.when(parts.struct.field("1") == "-").then(-1).otherwise(1)
    hours, minutes = (parts.struct.field(n).cast(pl.Int64) for n in ("2", "3"))
    seconds = pl.when(pl.col(offset) == "Z").then(0).otherwise(sign * (hours * 3600 + minutes * 60))
    return pair_from_offset(parse_pair(pl.col(stamp)).timestamp, seconds)


def _prepare_span(frame: pl.DataFrame) -> pl.DataFrame:
    return at_moment(frame, _at("start", "timezone_offset")).with_columns(
        *_at("end", "timezone_offset").named("end_at", "local_end_at")
    )


def _prepare_recovery(frame: pl.DataFrame) -> pl.DataFrame:
    woke = _at("context.woke_at", "context.timezone_offset")
    made = parse_pair(pl.col("created_at")).timestamp
    return at_moment(frame, Pair(pl.coalesce(woke.timestamp, made), woke.local_timestamp))


_NO_START = Reject("start: missing or no instant", pl.col("timestamp").is_null())
_WRONG_END = Reject(
    "end: no instant or before the start",
    pl.col("end").is_not_null()
    & (pl.col("end_at").is_null() | (pl.col("end_at") < pl.col("timestamp"))),
)
_SPAN_WIRE: Mapping[str, pl.DataType] = {
    "start": pl.String(),
    "end": pl.String(),
    "timezone_offset": pl.String(),
}
_META = ("id", "v1_id", "user_id", "created_at", "updated_at", "score_state")


def _seconds(name: str) -> pl.Expr:
    return pl.col(name) / 1000


def _kilocalories(name: str) -> pl.Expr:
    return kilojoules_to_kilocalories(pl.col(name))


_CYCLE_VALUES: Mapping[str, pl.Expr] = {
    "strain_strain_level": pl.col("score.strain"),
    "calories_total_burned_calories": _kilocalories("score.kilojoule"),
    "heart_rate_summary_avg_hr_bpm": pl.col("score.average_heart_rate"),
    "heart_rate_summary_max_hr_bpm": pl.col("score.max_heart_rate"),
}
_CYCLE = Resource(
    name="cycle",
    recognise=partial(_recognise, "cycle"),
    wire={
        **_SPAN_WIRE,
        "score.strain": pl.Float64(),
        "score.kilojoule": pl.Float64(),
        "score.average_heart_rate": pl.Float64(),
        "score.max_heart_rate": pl.Float64(),
    },
    split=_split_cycles,
    prepare=_prepare_span,
    tables=(
        Scalars("daily", {**SPAN, **_CYCLE_VALUES}, where=pl.col("end_at").is_not_null()),
        # Of a cycle that goes on nobody knows the end: its row is the day on the calendar.
        Scalars("daily", _CYCLE_VALUES, where=pl.col("end_at").is_null()),
    ),
    rejects=(_NO_START, _WRONG_END),
    ignored=frozenset(_META),
    evidence="recorded",
)

_RECOVERY = Resource(
    name="recovery",
    recognise=partial(_recognise, "recovery"),
    wire={
        "created_at": pl.String(),
        "score.recovery_score": pl.Float64(),
        "score.resting_heart_rate": pl.Float64(),
        "score.hrv_rmssd_milli": pl.Float64(),
        "score.spo2_percentage": pl.Float64(),
        "score.skin_temp_celsius": pl.Float64(),
    },
    split=_split_recoveries,
    prepare=_prepare_recovery,
    tables=(
        Scalars(
            "daily",
            {
                "scores_recovery": pl.col("score.recovery_score"),
                "heart_rate_summary_resting_hr_bpm": pl.col("score.resting_heart_rate"),
                "heart_rate_summary_avg_hrv_rmssd": pl.col("score.hrv_rmssd_milli"),
                "oxygen_avg_saturation_percentage": pl.col("score.spo2_percentage"),
            },
        ),
        Samples(
            "body",
            "temperature_skin_temperature_samples",
            {"temperature_celsius": pl.col("score.skin_temp_celsius")},
            where=pl.col("score.skin_temp_celsius").is_not_null(),
        ),
    ),
    context_wire={"woke_at": pl.String(), "timezone_offset": pl.String()},
    ignored=frozenset(
        {"cycle_id", "sleep_id", "user_id", "updated_at", "score_state", "score.user_calibrating"}
    ),
    evidence="recorded",
)

_STAGES = "score.stage_summary"
_SLEEP = Resource(
    name="sleep",
    recognise=partial(_recognise, "sleep"),
    wire={
        **_SPAN_WIRE,
        "nap": pl.Boolean(),
        f"{_STAGES}.total_in_bed_time_milli": pl.Float64(),
        f"{_STAGES}.total_awake_time_milli": pl.Float64(),
        f"{_STAGES}.total_no_data_time_milli": pl.Float64(),
        f"{_STAGES}.total_light_sleep_time_milli": pl.Float64(),
        f"{_STAGES}.total_slow_wave_sleep_time_milli": pl.Float64(),
        f"{_STAGES}.total_rem_sleep_time_milli": pl.Float64(),
        f"{_STAGES}.disturbance_count": pl.Int64(),
        "score.respiratory_rate": pl.Float64(),
        "score.sleep_performance_percentage": pl.Float64(),
        "score.sleep_efficiency_percentage": pl.Float64(),
    },
    split=partial(_split, dated_by="end"),
    prepare=_prepare_span,
    tables=(
        Scalars(
            "sleep",
            {
                "metadata_summary_id": pl.col("record_id"),
                "metadata_is_nap": pl.col("nap"),
                **SPAN,
                # Asleep is all of the three stages there are.
                "sleep_durations_asleep_duration_asleep_state_seconds": pl.sum_horizontal(
                    f"{_STAGES}.total_light_sleep_time_milli",
                    f"{_STAGES}.total_slow_wave_sleep_time_milli",
                    f"{_STAGES}.total_rem_sleep_time_milli",
                    ignore_nulls=False,
                )
                / 1000,
                "sleep_durations_asleep_duration_light_sleep_state_seconds": _seconds(
                    f"{_STAGES}.total_light_sleep_time_milli"
                ),
                "sleep_durations_asleep_duration_deep_sleep_state_seconds": _seconds(
                    f"{_STAGES}.total_slow_wave_sleep_time_milli"
                ),
                "sleep_durations_asleep_duration_rem_sleep_state_seconds": _seconds(
                    f"{_STAGES}.total_rem_sleep_time_milli"
                ),
                "sleep_durations_awake_duration_awake_state_seconds": _seconds(
                    f"{_STAGES}.total_awake_time_milli"
                ),
                "sleep_durations_awake_num_wakeup_events": pl.col(f"{_STAGES}.disturbance_count"),
                "sleep_durations_other_duration_in_bed_seconds": _seconds(
                    f"{_STAGES}.total_in_bed_time_milli"
                ),
                "sleep_durations_other_duration_unmeasurable_sleep_seconds": _seconds(
                    f"{_STAGES}.total_no_data_time_milli"
                ),
                "sleep_durations_sleep_efficiency": pl.col("score.sleep_efficiency_percentage"),
                "respiration_breaths_avg_breaths_per_min": pl.col("score.respiratory_rate"),
                "scores_sleep": pl.col("score.sleep_performance_percentage"),
            },
        ),
        Scalars(
            "daily",
            {"scores_sleep": pl.col("score.sleep_performance_percentage")},
            where=~pl.col("nap") & pl.col("score.sleep_performance_percentage").is_not_null(),
        ),
    ),
    rejects=(NO_SPAN,),
    # What the person needed, and how regular they are, has no column.
    ignored=frozenset(
        {
            *(*_META, "cycle_id", "score.sleep_needed", "score.sleep_consistency_percentage"),
            f"{_STAGES}.sleep_cycle_count",
        }
    ),
    evidence="recorded",
)

# Words of WHOOP that are not already the code list's own.
SPORTS: Mapping[str, str] = {
    "assault_bike": "stationary_biking",
    "barrys": "hiit",
    "box_fitness": "boxing",
    "breathwork": "guided_breathing",
    "cleaning": "housework",
    "cycling": "biking",
    "dance": "dancing",
    "dog_walking": "walking",
    "duathlon": "multisport",
    "f45_training": "hiit",
    "field_hockey": "hockey",
    "football": "american_football",
    "functional_fitness": "crossfit",
    "hiking_rucking": "hiking",
    "hot_yoga": "yoga",
    "ice_hockey": "hockey",
    "jiu_jitsu": "martial_arts",
    "jump_rope": "jumping_rope",
    "kite_boarding": "kitesurfing",
    "motocross": "motorbiking",
    "padel": "padel_tennis",
    "paddleboarding": "stand_up_paddleboarding",
    "powerlifting": "weightlifting",
    "rucking": "hiking",
    "soccer": "english_football",
    "spin": "spinning",
    "stadium_steps": "stair_climbing",
    "stairmaster": "stair_climbing_machine",
    "strength_trainer": "strength_training",
    "stroller_jogging": "jogging",
    "stroller_walking": "walking_with_stroller",
    "track_field": "running",
    "ultimate": "frisbee",
    "weightlifting_msk": "weightlifting",
    "wheelchair_pushing": "wheelchair",
    "yard_work": "gardening",
}


def _activity_type() -> pl.Expr:
    word = (
        pl.col("sport_name")
        .str.to_lowercase()
        .str.replace_all(r"[^a-z0-9]+", "_")
        .str.strip_chars("_")
    )
    return activity_type(word, {**OWN_WORDS, **SPORTS})


_ZONES = tuple(
    f"score.zone_durations.zone_{word}_milli"
    for word in ("zero", "one", "two", "three", "four", "five")
)


def _zones() -> pl.Expr:
    """Zones as far as their time was told; null when none was."""
    told = pl.concat_list(
        pl.struct(
            pl.lit(number, pl.Int64).alias("zone"),
            pl.lit(None, pl.String).alias("name"),
            pl.lit(None, pl.Float64).alias("start_percentage"),
            pl.lit(None, pl.Float64).alias("end_percentage"),
            _seconds(path).alias("duration_seconds"),
        )
        for number, path in enumerate(_ZONES)
    )
    return not_empty(told.list.filter(pl.element().struct.field("duration_seconds").is_not_null()))


_WORKOUT = Resource(
    name="workout",
    recognise=partial(_recognise, "workout"),
    wire={
        **_SPAN_WIRE,
        "sport_name": pl.String(),
        "score.strain": pl.Float64(),
        "score.average_heart_rate": pl.Float64(),
        "score.max_heart_rate": pl.Float64(),
        "score.kilojoule": pl.Float64(),
        "score.distance_meter": pl.Float64(),
        "score.altitude_gain_meter": pl.Float64(),
        **dict.fromkeys(_ZONES, pl.Float64()),
    },
    split=partial(_split, dated_by="start"),
    prepare=_prepare_span,
    tables=(
        Scalars(
            "activity",
            {
                "metadata_summary_id": pl.col("record_id"),
                "metadata_type": _activity_type(),
                **SPAN,
                "strain_strain_level": pl.col("score.strain"),
                "calories_total_burned_calories": _kilocalories("score.kilojoule"),
                "energy_energy_kilojoules": pl.col("score.kilojoule"),
                "distance_summary_distance_meters": pl.col("score.distance_meter"),
                "distance_summary_elevation_gain_actual_meters": pl.col(
                    "score.altitude_gain_meter"
                ),
                "heart_rate_summary_avg_hr_bpm": pl.col("score.average_heart_rate"),
                "heart_rate_summary_max_hr_bpm": pl.col("score.max_heart_rate"),
                "heart_rate_summary_hr_zone": _zones(),
            },
        ),
    ),
    rejects=(NO_SPAN,),
    # The share recorded is documented as a percentage and sent as a fraction; there is no column for it.
    ignored=frozenset(
        {*_META, "sport_id", "score.percent_recorded", "score.altitude_change_meter"}
    ),
    evidence="recorded",
)

_MEASURED = Resource(
    name="body",
    recognise=_recognise_body,
    wire={
        "height_meter": pl.Float64(),
        "weight_kilogram": pl.Float64(),
        "max_heart_rate": pl.Float64(),
    },
    split=_split_body,
    prepare=prepare_noticed,
    tables=(
        Samples(
            "body",
            "measurements_measurements",
            {
                "weight_kg": pl.col("weight_kilogram"),
                "height_cm": pl.col("height_meter") * 100,
            },
            where=pl.col("weight_kilogram").is_not_null() | pl.col("height_meter").is_not_null(),
        ),
        Scalars(
            "body",
            {"heart_heart_rate_summary_user_max_hr_bpm": pl.col("max_heart_rate")},
            where=pl.col("max_heart_rate").is_not_null(),
        ),
    ),
    context_wire=NOTICED,
    ignored=frozenset({"user_id"}),
    evidence="project-fixture",
)

# In the order they are asked for.
_COLLECTIONS: Mapping[str, str] = {
    "sleep": "/v2/activity/sleep",
    "cycle": "/v2/cycle",
    "recovery": "/v2/recovery",
    "workout": "/v2/activity/workout",
}

# --- pushes


class _Event(msgspec.Struct):
    user_id: int | str
    id: int | str
    type: str


def read_push(request: PushRequest) -> Iterator[Pushed]:
    """What an event says: something changed, or is gone."""
    event = decode(request.body, _Event, "whoop: reading an event")
    kind, _, done = event.type.partition(".")
    if kind not in _COLLECTIONS:
        return
    if done == "deleted":
        yield Removed(str(event.user_id), kind, (str(event.id),))
    else:
        yield Changed(str(event.user_id))


PROVIDER = Provider(
    name="whoop",
    title="WHOOP",
    client_name="WHOOP",
    summary="Cycles with strain, recoveries, sleeps and workouts of a WHOOP strap.",
    freshness="With each sync of the strap; a night once it is scored, the running cycle in part.",
    docs_url="https://developer.whoop.com/api",
    resources=(_CYCLE, _RECOVERY, _SLEEP, _WORKOUT, _MEASURED),
    fetch=fetch,
    explain=explain,
    oauth=OAuth(
        authorize_url="https://api.prod.whoop.com/oauth/oauth2/auth",
        token_url="https://api.prod.whoop.com/oauth/oauth2/token",  # noqa: S106 - an address
        api_url="https://api.prod.whoop.com/developer",
        identify=identify,
        # Without the first there is no refresh token.
        scopes=(
            "offline",
            "read:recovery",
            "read:cycles",
            "read:workout",
            "read:sleep",
            "read:profile",
            "read:body_measurement",
        ),
        pkce=False,
        lifetime=timedelta(hours=1),
        prepare_request=ask_to_stay,
        revoke=revoke,
    ),
    # Where pushes go is set up on the provider's site.
    push=Push(
        read=read_push,
        proof=Signature(
            header="x-whoop-signature",
            encoding="base64",
            timestamp_header="x-whoop-signature-timestamp",
            message=lambda timestamp, body: timestamp.encode() + body,
        ),
    ),
    refusals=(
        Refusal(403, "permanent", "the membership is not active", containing=b"deactivated_user"),
        Refusal(403, "absent", "a permission is missing"),
    ),
    poll_interval=timedelta(hours=1),
    # The current cycle grows, and a night is scored some time after it.
    open_days=3,
    refetch=timedelta(days=3),
    max_window=timedelta(days=30),
    # A hundred requests a minute and 10,000 a day, for all people of the app together.
    requests_per_second=1.6,
    quotas=(Quota(10_000, timedelta(days=1)),),
    limit_scope="app",
)

"""Google Health: Fitbit trackers, Pixel watches, scales and what people log, through API v4.

https://developers.google.com/health

The successor of the Fitbit Web API and of Google Fit: one service for what clients know as FITBIT and as
GOOGLE. Whoever has an account from Fitbit's days is FITBIT to them, everybody else GOOGLE.

A data type is asked for in one of three ways. Roll-ups are the day as the app shows it; raw sources added
up would count twice. Reconciled points are one stream made of all sources. Raw points are asked for only
where there is nothing else. Times are instants in UTC with the offset beside them, days are dates alone,
whole numbers come as texts, masses in grams and lengths in millimetres.

Data arrive when a device has synced, and are edited later. The samples of a day are asked for when its
roll-up is new. What a whole listing of sessions no longer has is deleted here too.

While an app is in testing at Google, its connections end after a week.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from hmac import compare_digest
from typing import Literal

import msgspec
import polars as pl

from wearable_pipeline.errors import PermanentError
from wearable_pipeline.model.enums import ACTIVITY_TYPE
from wearable_pipeline.model.units import (
    grams_to_kilograms,
    grams_to_milligrams,
    millimetres_to_centimetres,
    millimetres_to_metres,
)
from wearable_pipeline.providers import _google_health_frames as frames
from wearable_pipeline.providers._contract import (
    Answer,
    Changed,
    Client,
    Connection,
    Evidence,
    Identity,
    OAuth,
    Page,
    Provider,
    Push,
    PushAnswer,
    Pushed,
    PushRequest,
    PushSecrets,
    Quota,
    Refusal,
    Reject,
    Removed,
    Resource,
    Samples,
    Scalars,
    SharedSecret,
    Window,
)
from wearable_pipeline.providers._google_health_split import (
    Next,
    Timing,
    civil_date,
    date_at,
    explain,
    items_of,
    moment_of,
    name_of,
    read_notices,
    recogniser,
    splitter,
)
from wearable_pipeline.providers._local_time import find_zone
from wearable_pipeline.providers._moments import SPAN
from wearable_pipeline.providers._paging import follow
from wearable_pipeline.providers._spans import Missed
from wearable_pipeline.providers._split import content_id, decode, item_fields
from wearable_pipeline.providers._values import positive

_DAY = timedelta(days=1)
_ME = "/v4/users/me"
_SCOPE = "https://www.googleapis.com/auth/googlehealth"
_REFETCH = timedelta(days=7)
# What is remembered of days: as far as fetches of the present reach back, and a little more.
_REMEMBERED = _REFETCH + 3 * _DAY
# A roll-up may ask for so many days, of what is dear to compute for fewer.
_LONGEST, _LONGEST_DEAR = 90, 14
_DEAR = ("heart-rate", "total-calories", "active-minutes")
# Days of a type that was refused before, asked for with one fetch: the present must not wait for them.
_MOST_MISSED = 30
_MOST_POINTS = 10_000
_MOST_SESSIONS = 25

_log = logging.getLogger(__name__)

# --- talking to Google Health


class _Who(msgspec.Struct):
    healthUserId: str  # noqa: N815 - Google's word
    legacyUserId: str | None = None  # noqa: N815 - Google's word


class _Settings(msgspec.Struct):
    timeZone: str | None = None  # noqa: N815 - Google's word


async def identify(client: Client, granted: Mapping[str, object]) -> Identity:
    """Whose account it is, and by which name clients know it."""
    answer = await client.request("GET", f"{_ME}/identity")
    who = decode(answer.body, _Who, "google_health: reading the account")
    answer = await client.request("GET", f"{_ME}/settings", accept=(200, 403, 404))
    zone = None
    if answer.status == 200:
        zone = decode(answer.body, _Settings, "google_health: reading the settings").timeZone
    return Identity(
        account_id=who.healthUserId,
        timezone=zone if find_zone(zone) else None,
        config={"client_name": "FITBIT" if who.legacyUserId else "GOOGLE"},
    )


@dataclass(frozen=True, slots=True)
class _Ask:
    """How a resource is asked for. `after` names the roll-up that says which days are new."""

    resource: str
    data_type: str
    call: Literal["dailyRollUp", "reconcile", "list"]
    timing: Timing
    after: str | None = None

    @property
    def key(self) -> str:
        """Name of the data type in answers."""
        return _key(self.data_type)

    def spans(self, window: Window) -> list[tuple[date, date]]:
        """First and last days of the requests a window takes."""
        if self.call != "dailyRollUp" or self.data_type not in _DEAR:
            return [(window.start, window.end)]
        days = range(0, (window.end - window.start).days + 1, _LONGEST_DEAR)
        firsts = [window.start + number * _DAY for number in days]
        return [(day, min(day + (_LONGEST_DEAR - 1) * _DAY, window.end)) for day in firsts]

    def filter(self, start: date, end: date) -> str:
        """Points of the person's days from `start` to `end`."""
        known = self.data_type.replace("-", "_")
        if self.data_type == "electrocardiogram":
            # There is no end to ask for, and no time but that of UTC: days begin 14 hours before.
            return f'{known}.interval.start_time >= "{start - _DAY}T10:00:00Z"'
        member = {
            "start": "interval.civil_start_time",
            "end": "interval.civil_end_time",
            "moment": "sample_time.civil_time",
            "date": "date",
        }[self.timing]
        return f'{known}.{member} >= "{start}" AND {known}.{member} < "{end + _DAY}"'


def _key(data_type: str) -> str:
    first, *others = data_type.split("-")
    return first + "".join(part.capitalize() for part in others)


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield the window, data type by data type: roll-ups first, which say whose samples are new.

    A type that is refused stops none of the others. The days it was not read of are remembered, and
    asked for by the next fetches of the present.
    """
    is_present = window.end >= window.now.date()
    if is_present:
        # East of Greenwich it may be tomorrow already.
        window = Window(window.start, window.end + _DAY, window.now)
    memory = _Memory(connection.state, window)
    refused: set[int] = set()
    has_answered = False
    for one in _ASKED:
        due = one.spans(window) if one.after is None else memory.spans(one.after)
        missed = memory.missed.find(one.resource, due, _MOST_MISSED) if is_present else None
        late = one.spans(Window(*missed, window.now)) if missed else []
        wanted = [*due, *late]
        read = 0
        listed: dict[str, str] = {}
        context = {"timezone": connection.timezone, "former": memory.sessions(one.resource)}
        for start, end in wanted:
            status = 200
            async for answer in _pages(client, one, start, end):
                status = answer.status
                if status != 200:
                    break
                memory.note_days(one, answer.body)
                listed |= _sessions_in(one, answer.body)
                yield Page(one.resource, answer.body, answer.fetched_at, context)
            if status != 200:
                refused.add(status)
                if one.resource not in memory.missed:
                    _log.warning("google_health: %s is refused (HTTP %d)", one.resource, status)
                break
            read += 1
        has_answered = has_answered or read > 0
        memory.missed.note(one.resource, wanted[:read], wanted[read:], len(late))
        if one.resource not in _SESSIONS or read < len(due):
            continue
        if gone := memory.gone(one, listed):
            yield Page(one.resource, b"{}", window.now, {"gone": gone})
    if refused and not has_answered:
        raise _refused_everywhere(refused)
    memory.store()


def _refused_everywhere(statuses: set[int]) -> PermanentError:
    if statuses == {403}:
        return PermanentError("google_health: no permission was given for any kind of data")
    told = ", ".join(map(str, sorted(statuses)))
    return PermanentError(f"google_health: every kind of data is refused (HTTP {told})")


async def _pages(client: Client, one: _Ask, start: date, end: date) -> AsyncIterator[Answer]:
    path = f"{_ME}/dataTypes/{one.data_type}/dataPoints"
    most = _MOST_SESSIONS if one.data_type in ("exercise", "sleep") else _MOST_POINTS

    async def ask(token: str | None) -> Answer:
        more = {"pageToken": token} if token else {}
        if one.call == "dailyRollUp":
            days = {"start": _civil(start), "end": _civil(end + _DAY)}
            body = {"range": days, "windowSizeDays": 1, **more}
            return await client.request("POST", f"{path}:dailyRollUp", json=body)
        params: dict[str, str | int] = {"filter": one.filter(start, end), "pageSize": most, **more}
        suffix = ":reconcile" if one.call == "reconcile" else ""
        return await client.request("GET", f"{path}{suffix}", params=params)

    what = f"google_health: reading {one.resource}"

    def find_next(answer: Answer) -> str | None:
        if answer.status != 200:
            return None
        return decode(answer.body, Next, what).nextPageToken or None

    async for answer in follow(ask, find_next, what):
        yield answer


def _civil(day: date) -> dict[str, object]:
    return {"date": {"year": day.year, "month": day.month, "day": day.day}}


def _sessions_in(one: _Ask, body: bytes) -> dict[str, str]:
    """Ids of sessions with their local dates, as far as those are beyond doubt."""
    if one.resource not in _SESSIONS:
        return {}
    found: dict[str, str] = {}
    for item in items_of(body, one.key, f"google_health: reading {one.resource}"):
        fields = item_fields(item)
        value = fields.get(one.key)
        name = name_of(fields)
        if name is None or not isinstance(value, dict):
            continue
        at, offset = moment_of(value, one.timing)
        # Without an offset the day we take it for may not be the day it was listed by.
        found[name] = date_at(at, offset, None).isoformat() if at and offset is not None else ""
    return found


class _Memory:
    """What the fetch before knew: digests of roll-ups and ids of sessions of the last days, missed days."""

    def __init__(self, state: dict[str, object], window: Window) -> None:
        self._state = state
        self._window = window
        self._days = _tables(state.get("days"))
        self._there = _tables(state.get("sessions"))
        self.missed = Missed(state.get("missed"), window.now.date())
        self._new: dict[str, set[date]] = {}
        self._oldest = (window.now.date() - _REMEMBERED).isoformat()

    def note_days(self, one: _Ask, body: bytes) -> None:
        """Note which days of a roll-up are not as they were."""
        if one.resource not in _LEADING:
            return
        known = self._days.setdefault(one.resource, {})
        for item in items_of(body, one.key, f"google_health: reading {one.resource}"):
            day = civil_date(item_fields(item).get("civilStartTime"))
            digest = content_id(bytes(item))
            if day is not None and known.get(day.isoformat()) != digest:
                known[day.isoformat()] = digest
                self._new.setdefault(one.resource, set()).add(day)

    def spans(self, roll_up: str) -> list[tuple[date, date]]:
        """First and last of the new days, run by run."""
        found: list[tuple[date, date]] = []
        for day in sorted(self._new.get(roll_up, ())):
            if found and day - found[-1][1] == _DAY:
                found[-1] = (found[-1][0], day)
            else:
                found.append((day, day))
        return found

    def sessions(self, resource: str) -> dict[str, str]:
        """Ids of sessions and the local dates they were stored under."""
        return {name: day for name, day in self._there.get(resource, {}).items() if day}

    def gone(self, one: _Ask, listed: Mapping[str, str]) -> dict[str, str]:
        """Sessions of the window that a whole listing of it no longer has; `listed` is remembered."""
        known = self._there.setdefault(one.resource, {})
        first, last = self._window.start.isoformat(), self._window.end.isoformat()
        gone = {
            name: day
            for name, day in known.items()
            if day and first <= day <= last and name not in listed
        }
        for name in gone:
            del known[name]
        known |= listed
        return gone

    def store(self) -> None:
        """Keep what the next fetch must know."""
        for name, tables in (("days", self._days), ("sessions", self._there)):
            kept = {
                resource: {
                    key: value
                    for key, value in table.items()
                    if (key if name == "days" else value) >= self._oldest
                }
                for resource, table in tables.items()
            }
            self._state[name] = {resource: table for resource, table in kept.items() if table}
        self._state["missed"] = self.missed.to_store()


def _tables(stored: object) -> dict[str, dict[str, str]]:
    if not isinstance(stored, dict):
        return {}
    return {str(name): dict(table) for name, table in stored.items() if isinstance(table, dict)}


# --- points → columns

_CONTEXT: Mapping[str, pl.DataType] = {"timezone": pl.String()}
Prepare = Callable[[pl.DataFrame], pl.DataFrame]
_LIST_MEMBERS = ("name", "dataPointName", "dataSource")


def _resource(
    name: str,
    data_type: str,
    timing: Timing,
    wire: Mapping[str, pl.DataType],
    *tables: Samples | Scalars,
    evidence: Evidence = "contract only",
    ignored: tuple[str, ...] = (),
    rejects: tuple[Reject, ...] = (),
    has_device: bool = False,
    prepare: Prepare | None = None,
) -> Resource:
    """A resource whose wire names members of the point's own object."""
    key = _key(data_type)
    times: dict[str, pl.DataType]
    match timing:
        case "roll_up":
            times = {**frames.date_wire("civilStartTime"), **frames.date_wire("civilEndTime")}
            timed: Prepare = partial(frames.prepare_day, path="civilStartTime")
            left: tuple[str, ...] = ("civilStartTime.time", "civilEndTime.time")
            rejects = (_NOT_ONE_DAY, *rejects)
        case "date":
            times = frames.date_wire(key)
            timed = partial(frames.prepare_day, path=key)
            left = _LIST_MEMBERS
        case "moment":
            times = frames.moment_wire(key)
            timed = partial(frames.prepare_moment, key=key)
            left = (*_LIST_MEMBERS, f"{key}.sampleTime.civilTime")
        case _:
            times = frames.interval_wire(key)
            timed = partial(frames.prepare_interval, key=key)
            left = (*_LIST_MEMBERS, *(f"{key}.interval.civil{end}Time" for end in ("Start", "End")))
            ends = f"{key}.interval.endTime"
            rejects = (Reject("endTime: no instant or before the start", _is_wrong(ends)), *rejects)
    if has_device:
        times |= frames.DEVICE_WIRE
        left = (
            *(one for one in left if one != "dataSource"),
            *(f"dataSource.{one}" for one in ("platform", "application", "device.formFactor")),
        )
    return Resource(
        name=name,
        wire={**times, **{f"{key}.{path}": dtype for path, dtype in wire.items()}},
        split=splitter(key, timing),
        prepare=prepare or timed,
        tables=tables,
        rejects=rejects,
        context_wire=_CONTEXT,
        ignored=frozenset({*left, *(f"{key}.{path}" for path in ignored)}),
        recognise=recogniser(key, timing),
        evidence=evidence,
    )


def _is_wrong(end: str) -> pl.Expr:
    is_told = pl.col(end).is_not_null()
    return is_told & (pl.col("end_at").is_null() | (pl.col("end_at") < pl.col("timestamp")))


_NOT_ONE_DAY = Reject(
    "window: not one whole day",
    (frames.day_at("civilEndTime") - frames.day_at("civilStartTime") != _DAY).fill_null(
        value=False
    ),
)


def _said(*columns: str) -> pl.Expr:
    return pl.any_horizontal(pl.col(name).is_not_null() for name in columns)


def _metres(path: str) -> pl.Expr:
    return millimetres_to_metres(pl.col(path))


def _whole_metres(path: str) -> pl.Expr:
    """Metres where they are whole: pools of yards have no column."""
    metres = _metres(path)
    return pl.when(metres == metres.round()).then(metres).cast(pl.Int64)


# --- days


def _roll_up(
    data_type: str,
    wire: Mapping[str, pl.DataType],
    columns: Mapping[str, pl.Expr],
    *more: Samples | Scalars,
    table: str = "daily",
    evidence: Evidence = "contract only",
    ignored: tuple[str, ...] = (),
) -> Resource:
    name = f"{data_type.replace('-', '_')}_roll_up"
    told = _said(*(f"{_key(data_type)}.{path}" for path in wire))
    return _resource(
        name,
        data_type,
        "roll_up",
        wire,
        Scalars(table, columns, where=told),
        *more,
        evidence=evidence,
        ignored=ignored,
    )


_WHOLE, _NUMBER, _TEXT = pl.Int64(), pl.Float64(), pl.String()

_STEPS_DAY = _roll_up(
    "steps",
    {"countSum": _WHOLE},
    {"distance_steps": pl.col("steps.countSum")},
    evidence="recorded",
)
_DISTANCE_DAY = _roll_up(
    "distance",
    {"millimetersSum": _NUMBER},
    {"distance_distance_meters": _metres("distance.millimetersSum")},
    evidence="project-fixture",
)
_HEART_RATE_DAY = _roll_up(
    "heart-rate",
    {f"beatsPerMinute{which}": _NUMBER for which in ("Avg", "Min", "Max")},
    {
        f"heart_rate_summary_{which.lower()}_hr_bpm": pl.col(f"heartRate.beatsPerMinute{which}")
        for which in ("Avg", "Min", "Max")
    },
)
_MINUTES = "activeMinutes.activeMinutesRollupByActivityLevel"
_ZONES = "timeInHeartRateZone.timeInHeartRateZones"
_NUTRIENTS_DAY = "nutritionLog.nutrients"

# Our columns of nutrients, whose masses always come in grams.
_NUTRIENTS: Mapping[str, str] = {
    "macros_sugar_g": "SUGAR",
    "macros_fiber_g": "DIETARY_FIBER",
    "macros_saturated_fat_g": "SATURATED_FAT",
    "macros_trans_fat_g": "TRANS_FAT",
    "macros_protein_g": "PROTEIN",
    "macros_cholesterol_mg": "CHOLESTEROL",
    "macros_sodium_mg": "SODIUM",
    "micros_monounsaturated_fat_g": "MONOUNSATURATED_FAT",
    "micros_polyunsaturated_fat_g": "POLYUNSATURATED_FAT",
    **{
        f"micros_{name.lower()}_mg": name
        for name in (
            *("BIOTIN", "CAFFEINE", "CALCIUM", "CHLORIDE", "CHROMIUM", "COPPER", "FOLATE"),
            *("FOLIC_ACID", "IODINE", "IRON", "MAGNESIUM", "MANGANESE", "MOLYBDENUM", "NIACIN"),
            *("PANTOTHENIC_ACID", "PHOSPHORUS", "POTASSIUM", "RIBOFLAVIN", "SELENIUM", "THIAMIN"),
            *("VITAMIN_A", "VITAMIN_B12", "VITAMIN_B6", "VITAMIN_C", "VITAMIN_D", "VITAMIN_E"),
            *("VITAMIN_K", "ZINC"),
        )
    },
}


def _nutrients(field: str, prefix: str = "") -> dict[str, pl.Expr]:
    grams = {column: frames.grams_of(_NUTRIENTS_DAY, n, field) for column, n in _NUTRIENTS.items()}
    return {
        prefix + column: grams_to_milligrams(mass) if column.endswith("_mg") else mass
        for column, mass in grams.items()
    }


def _carbohydrates(field: str) -> pl.Expr:
    listed = frames.grams_of(_NUTRIENTS_DAY, "CARBOHYDRATES", field)
    return pl.coalesce(pl.col(f"nutritionLog.totalCarbohydrate.{field}"), listed)


_ROLL_UPS = (
    _STEPS_DAY,
    _DISTANCE_DAY,
    _HEART_RATE_DAY,
    _roll_up(
        "floors", {"countSum": _WHOLE}, {"distance_floors_climbed": pl.col("floors.countSum")}
    ),
    _roll_up(
        "altitude",
        {"gainMillimetersSum": _NUMBER},
        {"distance_elevation_gain_actual_meters": _metres("altitude.gainMillimetersSum")},
    ),
    _roll_up(
        "active-energy-burned",
        {"kcalSum": _NUMBER},
        {"calories_net_activity_calories": pl.col("activeEnergyBurned.kcalSum")},
    ),
    _roll_up(
        "total-calories",
        {"kcalSum": _NUMBER},
        {"calories_total_burned_calories": pl.col("totalCalories.kcalSum")},
        evidence="project-fixture",
    ),
    _roll_up(
        "active-minutes",
        {"activeMinutesRollupByActivityLevel": frames.LEVELS},
        {
            f"active_durations_{column}_intensity_seconds": frames.active_seconds(_MINUTES, level)
            for column, level in (
                ("low", "LIGHT"),
                ("moderate", "MODERATE"),
                ("vigorous", "VIGOROUS"),
            )
        },
    ),
    _roll_up(
        "sedentary-period",
        {"durationSum": _TEXT},
        {
            "active_durations_inactivity_seconds": frames.duration_seconds(
                pl.col("sedentaryPeriod.durationSum")
            )
        },
    ),
    _roll_up(
        "time-in-heart-rate-zone",
        {"timeInHeartRateZones": frames.ZONES},
        {"heart_rate_summary_hr_zone": frames.zones_of_day(_ZONES)},
    ),
    _roll_up(
        "swim-lengths-data",
        {"strokeCountSum": _WHOLE},
        {"distance_swimming_num_strokes": pl.col("swimLengthsData.strokeCountSum")},
    ),
    _roll_up(
        "weight",
        {"weightGramsAvg": _NUMBER},
        {"measurements_day_avg_weight_kg": grams_to_kilograms(pl.col("weight.weightGramsAvg"))},
        table="body",
    ),
    _roll_up(
        "body-fat",
        {"bodyFatPercentageAvg": _NUMBER},
        {"measurements_day_avg_bodyfat_percentage": pl.col("bodyFat.bodyFatPercentageAvg")},
        table="body",
    ),
    _roll_up(
        "core-body-temperature",
        {"temperatureCelsiusAvg": _NUMBER},
        {
            "temperature_day_avg_body_temperature_celsius": pl.col(
                "coreBodyTemperature.temperatureCelsiusAvg"
            )
        },
        table="body",
        ignored=("temperatureCelsiusMin", "temperatureCelsiusMax"),
    ),
    _roll_up(
        "blood-glucose",
        {"bloodGlucoseMilligramsPerDeciliterAvg": _NUMBER},
        {
            "glucose_day_avg_blood_glucose_mg_per_dl": pl.col(
                "bloodGlucose.bloodGlucoseMilligramsPerDeciliterAvg"
            )
        },
        table="body",
    ),
    _roll_up(
        "hydration-log",
        {"amountConsumed.millilitersSum": _NUMBER},
        {"summary_water_ml": pl.col("hydrationLog.amountConsumed.millilitersSum")},
        Scalars(
            "body",
            {
                "hydration_day_total_water_consumption_ml": pl.col(
                    "hydrationLog.amountConsumed.millilitersSum"
                )
            },
            where=_said("hydrationLog.amountConsumed.millilitersSum"),
        ),
        table="nutrition",
        evidence="project-fixture",
        ignored=("amountConsumed.userProvidedUnitLast",),
    ),
    _roll_up(
        "nutrition-log",
        {
            "energy.kcalSum": _NUMBER,
            "totalCarbohydrate.gramsSum": _NUMBER,
            "totalFat.gramsSum": _NUMBER,
            "nutrients": frames.nutrients_wire("gramsSum"),
        },
        {
            "summary_macros_calories": pl.col("nutritionLog.energy.kcalSum"),
            "summary_macros_carbohydrates_g": _carbohydrates("gramsSum"),
            "summary_macros_fat_g": pl.col("nutritionLog.totalFat.gramsSum"),
            **_nutrients("gramsSum", "summary_"),
        },
        Scalars(
            "daily",
            {"calories_net_intake_calories": pl.col("nutritionLog.energy.kcalSum")},
            where=_said("nutritionLog.energy.kcalSum"),
        ),
        table="nutrition",
        evidence="project-fixture",
        ignored=(
            "energyFromFat",
            *(f"{one}.userProvidedUnitLast" for one in ("energy", "totalCarbohydrate", "totalFat")),
        ),
    ),
)


# Of a night that has no row of its own.
_NIGHT_KEY: Mapping[str, pl.Expr] = {
    "metadata_summary_id": pl.lit("night-") + pl.col("local_date").cast(pl.String)
}


def _day(
    data_type: str,
    wire: Mapping[str, pl.DataType],
    columns: Mapping[str, pl.Expr],
    ignored: tuple[str, ...] = (),
    *,
    is_of_night: bool = False,
) -> Resource:
    """What is told of a date; or of its main sleep, without saying which that is."""
    told = pl.any_horizontal(value.is_not_null() for value in columns.values())
    return _resource(
        data_type.replace("-", "_"),
        data_type,
        "date",
        wire,
        Scalars("sleep", columns, where=told, key=_NIGHT_KEY, joins_main=True)
        if is_of_night
        else Scalars("daily", columns, where=told),
        ignored=ignored,
    )


_DAYS = (
    _day(
        "daily-resting-heart-rate",
        {"beatsPerMinute": _NUMBER},
        {"heart_rate_summary_resting_hr_bpm": pl.col("dailyRestingHeartRate.beatsPerMinute")},
        ("dailyRestingHeartRateMetadata", "metadata"),
    ),
    _day(
        "daily-heart-rate-variability",
        {"averageHeartRateVariabilityMilliseconds": _NUMBER},
        {
            "heart_rate_summary_avg_hrv_rmssd": pl.col(
                "dailyHeartRateVariability.averageHeartRateVariabilityMilliseconds"
            )
        },
        # Of deep sleep alone, and a measure of disorder: no table has columns for them.
        (
            "deepSleepRootMeanSquareOfSuccessiveDifferencesMilliseconds",
            "entropy",
            "nonRemHeartRateBeatsPerMinute",
        ),
    ),
    _day(
        "daily-oxygen-saturation",
        {"averagePercentage": _NUMBER},
        {"oxygen_avg_saturation_percentage": pl.col("dailyOxygenSaturation.averagePercentage")},
        ("lowerBoundPercentage", "upperBoundPercentage", "standardDeviationPercentage"),
    ),
    _day(
        "daily-vo2-max",
        {"vo2Max": _NUMBER},
        {"oxygen_vo2max_ml_per_min_per_kg": pl.col("dailyVo2Max.vo2Max")},
        ("vo2MaxCovariance", "estimated", "cardioFitnessLevel"),
    ),
    _day(
        "daily-respiratory-rate",
        {"breathsPerMinute": _NUMBER},
        {
            "respiration_breaths_avg_breaths_per_min": positive(
                "dailyRespiratoryRate.breathsPerMinute"
            )
        },
        is_of_night=True,
    ),
    _day(
        "daily-sleep-temperature-derivations",
        {"nightlyTemperatureCelsius": _NUMBER, "baselineTemperatureCelsius": _NUMBER},
        {
            "temperature_delta": pl.col(
                "dailySleepTemperatureDerivations.nightlyTemperatureCelsius"
            )
            - pl.col("dailySleepTemperatureDerivations.baselineTemperatureCelsius")
        },
        ("relativeNightlyStddev30dCelsius",),
        is_of_night=True,
    ),
)

# --- samples


def _samples(
    data_type: str,
    timing: Timing,
    wire: Mapping[str, pl.DataType],
    *columns: tuple[str, str, Mapping[str, pl.Expr]],
    evidence: Evidence = "contract only",
    ignored: tuple[str, ...] = (),
    has_device: bool = False,
) -> Resource:
    """Points that each become one sample, wherever their first value was told."""
    name, key = data_type.replace("-", "_"), _key(data_type)
    return _resource(
        name,
        data_type,
        timing,
        wire,
        *(
            Samples(table, column, fields, where=next(iter(fields.values())).is_not_null())
            for table, column, fields in columns
        ),
        evidence=evidence,
        ignored=ignored,
        has_device=has_device,
        rejects=(Reject(f"{key}: no value", ~_said(*(f"{key}.{path}" for path in wire))),),
    )


_RMSSD = "rootMeanSquareOfSuccessiveDifferencesMilliseconds"
_SDNN = "standardDeviationMilliseconds"
_MEASURED = "measurements_measurements"
_MG_PER_DL = "bloodGlucose.bloodGlucoseMilligramsPerDeciliter"

_POINTS = (
    _samples(
        "heart-rate",
        "moment",
        {"beatsPerMinute": _NUMBER, "metadata.motionContext": _TEXT},
        (
            "daily",
            "heart_rate_detailed_hr_samples",
            {
                "bpm": pl.col("heartRate.beatsPerMinute"),
                "context": pl.col("heartRate.metadata.motionContext").replace_strict(
                    {"ACTIVE": "active", "SEDENTARY": "not_active"},
                    default=None,
                    return_dtype=pl.String,
                ),
            },
        ),
        ignored=("metadata.sensorLocation",),
    ),
    _samples(
        "steps",
        "start",
        {"count": _NUMBER},
        ("daily", "distance_detailed_step_samples", {"steps": pl.col("steps.count")}),
    ),
    _samples(
        "distance",
        "start",
        {"millimeters": _NUMBER},
        (
            "daily",
            "distance_detailed_distance_samples",
            {"distance_meters": _metres("distance.millimeters")},
        ),
    ),
    _samples(
        "heart-rate-variability",
        "moment",
        {_RMSSD: _NUMBER, _SDNN: _NUMBER},
        (
            "daily",
            "heart_rate_detailed_hrv_samples_rmssd",
            {"hrv_rmssd": pl.col(f"heartRateVariability.{_RMSSD}")},
        ),
        (
            "daily",
            "heart_rate_detailed_hrv_samples_sdnn",
            {"hrv_sdnn": pl.col(f"heartRateVariability.{_SDNN}")},
        ),
        ignored=("metadata",),
    ),
    _samples(
        "oxygen-saturation",
        "moment",
        {"percentage": _NUMBER},
        (
            "daily",
            "oxygen_saturation_samples",
            {"percentage": pl.col("oxygenSaturation.percentage"), "type": pl.lit("blood")},
        ),
    ),
    _samples(
        "vo2-max",
        "moment",
        {"vo2Max": _NUMBER},
        ("daily", "oxygen_vo2_samples", {"vo2max_ml_per_min_per_kg": pl.col("vo2Max.vo2Max")}),
        ignored=("measurementMethod",),
    ),
    _samples(
        "weight",
        "moment",
        {"weightGrams": _NUMBER, "notes": _TEXT},
        (
            "body",
            _MEASURED,
            {
                "weight_kg": grams_to_kilograms(pl.col("weight.weightGrams")),
                "user_notes": pl.col("weight.notes"),
            },
        ),
        evidence="project-fixture",
    ),
    _samples(
        "body-fat",
        "moment",
        {"percentage": _NUMBER},
        ("body", _MEASURED, {"bodyfat_percentage": pl.col("bodyFat.percentage")}),
    ),
    _samples(
        "height",
        "moment",
        {"heightMillimeters": _NUMBER},
        (
            "body",
            _MEASURED,
            {"height_cm": millimetres_to_centimetres(pl.col("height.heightMillimeters"))},
        ),
    ),
    _samples(
        "core-body-temperature",
        "moment",
        {"temperatureCelsius": _NUMBER},
        (
            "body",
            "temperature_body_temperature_samples",
            {"temperature_celsius": pl.col("coreBodyTemperature.temperatureCelsius")},
        ),
        ignored=("id", "measurementLocation"),
    ),
    _samples(
        "blood-glucose",
        "moment",
        {"bloodGlucoseMilligramsPerDeciliter": _NUMBER, "measurementSource": _TEXT},
        (
            "body",
            "glucose_blood_glucose_samples",
            {
                "blood_glucose_mg_per_dl": pl.col(_MG_PER_DL),
                "native_value": pl.col(_MG_PER_DL),
                "native_unit": pl.lit("mg/dL"),
                "sample_kind": pl.col("bloodGlucose.measurementSource").replace_strict(
                    {
                        "CONTINUOUS_GLUCOSE_MONITORING": "cgm",
                        "SELF_MONITORING_BLOOD_GLUCOSE": "fingerstick",
                    },
                    default=None,
                    return_dtype=pl.String,
                ),
                "device_id": pl.col("dataSource.device.displayName"),
            },
        ),
        ignored=("mealType", "measurementTiming", "specimen", "notes"),
        has_device=True,
    ),
)

_VERDICTS: Mapping[str, str] = {
    "NORMAL_SINUS_RHYTHM": "negative",
    "ATRIAL_FIBRILLATION": "positive",
    "INCONCLUSIVE": "inconclusive",
    "INCONCLUSIVE_HIGH_HEART_RATE": "inconclusive",
    "INCONCLUSIVE_LOW_HEART_RATE": "inconclusive",
    "UNREADABLE": "inconclusive",
}


_WAVES = ("waveformSamples", "samplingFrequencyHertz", "millivoltsScalingFactor")


def _with_trace(frame: pl.DataFrame) -> pl.DataFrame:
    # The history has offsets of zero where nobody knows them.
    timed = frames.prepare_interval(frame, "electrocardiogram", is_zero_known=False)
    trace = frames.trace(timed, *(f"electrocardiogram.{name}" for name in _WAVES))
    return timed.with_columns(trace.alias("trace"))


_ECG = _resource(
    "electrocardiogram",
    "electrocardiogram",
    "start",
    {
        "beatsPerMinuteAvg": _NUMBER,
        "resultClassification": _TEXT,
        "waveformSamples": pl.List(pl.Float64()),
        "samplingFrequencyHertz": _NUMBER,
        "millivoltsScalingFactor": _NUMBER,
    },
    Samples(
        "body",
        "heart_ecg_signal",
        {
            "avg_hr_bpm": pl.col("electrocardiogram.beatsPerMinuteAvg"),
            "afib_classification": pl.col("electrocardiogram.resultClassification").replace_strict(
                dict(_VERDICTS), default=None, return_dtype=pl.String
            ),
            "raw_signal": pl.col("trace"),
        },
    ),
    prepare=_with_trace,
    ignored=("leadNumber", "medicalDeviceInfo"),
)

# --- sessions

_STAGES = "sleep.summary.stagesSummary"
_METHOD = pl.col("dataSource.recordingMethod")
_DEVICE: Mapping[str, pl.Expr] = {
    "device_name": pl.col("dataSource.device.displayName"),
    "device_manufacturer": pl.col("dataSource.device.manufacturer"),
}


def _minutes(name: str) -> pl.Expr:
    return pl.col(f"sleep.summary.minutes{name}") * 60


def _times(stage: str) -> pl.Expr:
    """How often a stage came."""
    return frames.of_stage(_STAGES, stage, "count").cast(pl.Int64, strict=False)


def _uploaded(*, by_hand: pl.Expr) -> pl.Expr:
    """How a session came about, where its source tells."""
    return (
        pl.when(by_hand)
        .then(pl.lit("manual"))
        .when(_METHOD.is_in(["PASSIVELY_MEASURED", "ACTIVELY_MEASURED", "DERIVED"]))
        .then(pl.lit("automatic"))
    )


def _with_hypnogram(frame: pl.DataFrame) -> pl.DataFrame:
    timed = frames.prepare_interval(frame, "sleep")
    return timed.with_columns(frames.hypnogram(timed, "sleep").alias("hypnogram"))


_SLEEP = _resource(
    "sleep",
    "sleep",
    "end",
    {
        "type": _TEXT,
        "stages": frames.STAGES,
        "shortAwakenings": frames.STAGES,
        "outOfBedSegments": frames.SEGMENTS,
        **{
            f"summary.minutes{name}": _NUMBER
            for name in ("InSleepPeriod", "Asleep", "Awake", "ToFallAsleep", "AfterWakeUp")
        },
        "summary.stagesSummary": frames.STAGE_SUMMARIES,
        "metadata.mainSleep": pl.Boolean(),
        "metadata.nap": pl.Boolean(),
        "metadata.processed": pl.Boolean(),
    },
    Scalars(
        "sleep",
        {
            "metadata_summary_id": pl.col("record_id"),
            # Whatever is the main sleep of its day is no nap.
            "metadata_is_nap": pl.coalesce(
                "sleep.metadata.nap",
                pl.when(pl.col("sleep.metadata.mainSleep")).then(pl.lit(value=False)),
            ),
            "metadata_upload_type": pl.when(~pl.col("sleep.metadata.processed"))
            .then(pl.lit("tentative"))
            .otherwise(_uploaded(by_hand=_METHOD == "MANUAL")),
            **SPAN,
            **_DEVICE,
            "sleep_durations_asleep_duration_asleep_state_seconds": _minutes("Asleep"),
            **{
                f"sleep_durations_asleep_duration_{name}_sleep_state_seconds": frames.of_stage(
                    _STAGES, stage, "minutes"
                )
                * 60
                for name, stage in (("light", "LIGHT"), ("deep", "DEEP"), ("rem", "REM"))
            },
            "sleep_durations_asleep_num_rem_events": _times("REM"),
            "sleep_durations_awake_duration_awake_state_seconds": _minutes("Awake"),
            "sleep_durations_awake_sleep_latency_seconds": _minutes("ToFallAsleep"),
            "sleep_durations_awake_wake_up_latency_seconds": _minutes("AfterWakeUp"),
            "sleep_durations_awake_num_wakeup_events": _times("AWAKE"),
            "sleep_durations_other_duration_in_bed_seconds": _minutes("InSleepPeriod"),
            "sleep_durations_hypnogram_samples": pl.col("hypnogram"),
        },
        # Somebody still asleep has no end yet.
        where=pl.col("end_at").is_not_null(),
    ),
    prepare=_with_hypnogram,
    evidence="project-fixture",
    ignored=(
        *("createTime", "updateTime", "metadata.manuallyEdited", "metadata.stagesStatus"),
        "metadata.externalId",
    ),
    has_device=True,
)

# Words of Google that are not already the code list's own.
EXERCISES: Mapping[str, str] = {
    "aerobic_workout": "aerobics",
    "assault_bike": "stationary_biking",
    "backpacking": "hiking",
    "body_weight": "calisthenics",
    "cardio_sculpt": "cardio_training",
    "cardio_workout": "cardio_training",
    "cleaning": "housework",
    "climbing": "rock_climbing",
    "core_training": "calisthenics",
    "cross_country_ski": "cross_country_skiing",
    "electric_bike": "e_biking",
    "equestrian_sports": "horseback_riding",
    "exercise_type_unspecified": "unknown",
    "field_hockey": "hockey",
    "football_american": "american_football",
    "football_australian": "australian_football",
    "free_weights": "weightlifting",
    "frisbee_playing_general": "frisbee",
    "functional_strength_training": "strength_training",
    "hand_cycling": "hand_biking",
    "household_chores": "housework",
    "incline_run": "running",
    "incline_walk": "walking",
    "indoor_climbing": "rock_climbing",
    "interval_workout": "interval_training",
    "meditate": "meditation",
    "motocross": "motorbiking",
    "motorcycle": "motorbiking",
    "mountain_bike": "mountain_biking",
    "outdoor_bike": "biking",
    "paddleboarding": "stand_up_paddleboarding",
    "padel": "padel_tennis",
    "power_walking": "walking_for_fitness",
    "powerlifting": "weightlifting",
    "resistance_bands": "strength_training",
    "rollerblading": "inline_skating",
    "roller_skating": "skating",
    "rucking": "hiking",
    "skydiving": "sky_diving",
    "snowmobiling": "snowmobile",
    "soccer": "english_football",
    "speed_skating": "skating",
    "stairclimber": "stair_climbing_machine",
    "stationary_bike": "stationary_biking",
    "step_training": "aerobics",
    "stroller_walk": "walking_with_stroller",
    "swimming_open_water": "open_water_swimming",
    "swimming_pool": "swimming_in_pool",
    "synchronized_swimming": "swimming",
    "tabata_workout": "hiit",
    "track_and_field": "running",
    "trail_run": "trail_running",
    "treadmill_walk": "treadmill_walking",
    "trx": "strength_training",
    "ultimate_frisbee": "frisbee",
    "volleyball_beach": "beach_volleyball",
    "walk_with_weights": "walking",
    "water_aerobics": "aerobics",
    "weight_machines": "strength_training",
    "weights": "weightlifting",
    **dict.fromkeys(("hoeing", "mowing_lawn", "shoveling", "weeding"), "gardening"),
    **dict.fromkeys(("jiu_jitsu", "karate", "muay_thai", "taekwondo", "tai_chi"), "martial_arts"),
    **dict.fromkeys(
        (
            *("ballet", "ballroom_dance", "breakdancing", "hip_hop", "jazz_dance"),
            *("modern_dance", "tango"),
        ),
        "dancing",
    ),
    **{f"yoga_{kind}": "yoga" for kind in ("bikram", "hatha", "power", "vinyasa")},
}


def _exercise_type() -> pl.Expr:
    own = {name: name for name in map(str, ACTIVITY_TYPE.names.values())}
    word = pl.col("exercise.exerciseType").str.to_lowercase()
    # A word nobody has met is some activity; no word at all is not known to be one.
    return pl.when(word.is_not_null()).then(
        word.replace_strict({**own, **EXERCISES}, default="other", return_dtype=pl.String)
    )


_METRICS = "exercise.metricsSummary"
_EXERCISE = _resource(
    "exercise",
    "exercise",
    "start",
    {
        "exerciseType": _TEXT,
        "displayName": _TEXT,
        "activeDuration": _TEXT,
        "exerciseMetadata.poolLengthMillimeters": _NUMBER,
        "splitSummaries": frames.SPLITS,
        "splits": frames.SPLITS,
        **{
            f"metricsSummary.{name}": _NUMBER
            for name in (
                "caloriesKcal",
                "distanceMillimeters",
                # Spelt like this in an answer of the documentation.
                "distanceMillimiters",
                "averageHeartRateBeatsPerMinute",
                "averageSpeedMillimetersPerSecond",
                "averagePaceSecondsPerMeter",
                "elevationGainMillimeters",
                "runVo2Max",
                "mobilityMetrics.avgCadenceStepsPerMinute",
            )
        },
        "metricsSummary.steps": _WHOLE,
        "metricsSummary.totalSwimLengths": _WHOLE,
        **{
            f"metricsSummary.heartRateZoneDurations.{name}Time": _TEXT
            for name in ("light", "moderate", "vigorous", "peak")
        },
    },
    Scalars(
        "activity",
        {
            "metadata_summary_id": pl.col("record_id"),
            "metadata_name": pl.col("exercise.displayName"),
            "metadata_type": _exercise_type(),
            "metadata_upload_type": _uploaded(by_hand=_METHOD == "MANUAL"),
            **SPAN,
            **_DEVICE,
            "active_durations_activity_seconds": frames.duration_seconds(
                pl.col("exercise.activeDuration")
            ),
            "calories_total_burned_calories": pl.col(f"{_METRICS}.caloriesKcal"),
            "distance_summary_distance_meters": millimetres_to_metres(
                pl.coalesce(f"{_METRICS}.distanceMillimeters", f"{_METRICS}.distanceMillimiters")
            ),
            "distance_summary_steps": pl.col(f"{_METRICS}.steps"),
            "distance_summary_elevation_gain_actual_meters": _metres(
                f"{_METRICS}.elevationGainMillimeters"
            ),
            "distance_summary_swimming_num_laps": pl.col(f"{_METRICS}.totalSwimLengths"),
            "distance_summary_swimming_pool_length_meters": _whole_metres(
                "exercise.exerciseMetadata.poolLengthMillimeters"
            ),
            "heart_rate_summary_avg_hr_bpm": pl.col(f"{_METRICS}.averageHeartRateBeatsPerMinute"),
            "heart_rate_summary_hr_zone": frames.zones_of_session(
                f"{_METRICS}.heartRateZoneDurations"
            ),
            "lap_laps": pl.coalesce(
                frames.laps("exercise.splitSummaries"), frames.laps("exercise.splits")
            ),
            "movement_avg_speed_meters_per_second": _metres(
                f"{_METRICS}.averageSpeedMillimetersPerSecond"
            ),
            "movement_avg_pace_minutes_per_kilometer": frames.pace_minutes_per_kilometre(
                pl.col(f"{_METRICS}.averagePaceSecondsPerMeter")
            ),
            "movement_avg_cadence_rpm": pl.col(
                f"{_METRICS}.mobilityMetrics.avgCadenceStepsPerMinute"
            ),
            "oxygen_vo2max_ml_per_min_per_kg": pl.col(f"{_METRICS}.runVo2Max"),
        },
    ),
    evidence="vendor-doc",
    rejects=(Reject("endTime: missing", pl.col("exercise.interval.endTime").is_null()),),
    ignored=(
        *("createTime", "updateTime", "exerciseEvents", "notes", "exerciseMetadata"),
        # Minutes that count twice in the higher zones: no table has a column for them.
        "metricsSummary.activeZoneMinutes",
        *(
            f"metricsSummary.mobilityMetrics.avg{name}"
            for name in (
                "GroundContactTimeDuration",
                "StrideLengthMillimeters",
                "VerticalOscillationMillimeters",
                "VerticalRatio",
            )
        ),
    ),
    has_device=True,
)

_MEALS: Mapping[str, str] = {
    "BREAKFAST": "breakfast",
    "BEFORE_LUNCH": "morning_snack",
    "LUNCH": "lunch",
    "BEFORE_DINNER": "afternoon_snack",
    "DINNER": "dinner",
    "AFTER_DINNER": "snack",
    "SNACK": "snack",
}
_FOOD_UNITS: Mapping[str, str] = {
    **dict.fromkeys(("g", "gram", "grams"), "gram"),
    **dict.fromkeys(("ml", "milliliter", "milliliters"), "milliliter"),
    **dict.fromkeys(("oz", "ounce", "ounces"), "ounce"),
    **dict.fromkeys(("fl oz", "fluid ounce", "fluid ounces"), "fluid_ounce"),
    **dict.fromkeys(("cup", "cups"), "cup"),
    **dict.fromkeys(("tsp", "teaspoon", "teaspoons"), "teaspoon"),
    **dict.fromkeys(("tbsp", "tablespoon", "tablespoons"), "tablespoon"),
    **dict.fromkeys(("piece", "pieces"), "count"),
    **dict.fromkeys(("scoop", "scoops"), "scoop"),
    **{f"{size} egg": f"{size}_egg" for size in ("small", "medium", "large")},
}
_MEAL = _resource(
    "nutrition_log",
    "nutrition-log",
    "start",
    {
        "mealType": _TEXT,
        "foodDisplayName": _TEXT,
        "serving.amount": _NUMBER,
        "serving.foodMeasurementUnitDisplayName": _TEXT,
        "energy.kcal": _NUMBER,
        "totalCarbohydrate.grams": _NUMBER,
        "totalFat.grams": _NUMBER,
        "nutrients": frames.nutrients_wire("grams"),
    },
    Samples(
        "nutrition",
        "meals",
        {
            "id": pl.col("record_id"),
            "name": pl.col("nutritionLog.foodDisplayName"),
            "type": pl.col("nutritionLog.mealType").replace_strict(
                dict(_MEALS), default="unknown", return_dtype=pl.String
            ),
            "quantity_amount": pl.col("nutritionLog.serving.amount"),
            "quantity_unit": pl.col("nutritionLog.serving.foodMeasurementUnitDisplayName")
            .str.to_lowercase()
            .replace_strict(dict(_FOOD_UNITS), default="unknown", return_dtype=pl.String),
            "macros_calories": pl.col("nutritionLog.energy.kcal"),
            "macros_carbohydrates_g": _carbohydrates("grams"),
            "macros_fat_g": pl.col("nutritionLog.totalFat.grams"),
            **_nutrients("grams"),
        },
    ),
    ignored=(
        *("food", "energyFromFat", "serving.foodMeasurementUnit"),
        *(f"{one}.userProvidedUnit" for one in ("energy", "totalCarbohydrate", "totalFat")),
    ),
)
_DRINK = _resource(
    "hydration_log",
    "hydration-log",
    "start",
    {"amountConsumed.milliliters": _NUMBER},
    Samples(
        "nutrition",
        "drink_samples",
        {
            "drink_volume": pl.col("hydrationLog.amountConsumed.milliliters"),
            "drink_unit": pl.lit("milliliter"),
        },
        where=_said("hydrationLog.amountConsumed.milliliters"),
    ),
    ignored=("amountConsumed.userProvidedUnit",),
)
_PERIOD = _resource(
    "menstrual_period",
    "menstrual-period",
    "start",
    {},
    Scalars("menstruation", {"menstruation_period_start_date": pl.col("local_date")}),
    Samples(
        "menstruation",
        "menstruation_intervals",
        {
            "end_timestamp": pl.col("end_at"),
            "local_end_timestamp": pl.col("local_end_at"),
            "phase": pl.lit("period"),
        },
    ),
    ignored=("notes",),
)

# Everything that is asked for, in this order. Samples follow the roll-up that says which days are new.
_ASKED: tuple[_Ask, ...] = (
    *(
        _Ask(
            one.name, one.name.removesuffix("_roll_up").replace("_", "-"), "dailyRollUp", "roll_up"
        )
        for one in _ROLL_UPS
    ),
    *(_Ask(one.name, one.name.replace("_", "-"), "reconcile", "date") for one in _DAYS),
    _Ask("heart_rate", "heart-rate", "reconcile", "moment", after="heart_rate_roll_up"),
    _Ask("steps", "steps", "reconcile", "start", after="steps_roll_up"),
    _Ask("distance", "distance", "reconcile", "start", after="distance_roll_up"),
    *(
        _Ask(name, name.replace("_", "-"), "reconcile", "moment")
        for name in (
            "heart_rate_variability",
            "oxygen_saturation",
            "vo2_max",
            "weight",
            "body_fat",
            "height",
            "core_body_temperature",
        )
    ),
    _Ask("blood_glucose", "blood-glucose", "list", "moment"),
    _Ask("electrocardiogram", "electrocardiogram", "list", "start"),
    _Ask("sleep", "sleep", "reconcile", "end"),
    _Ask("exercise", "exercise", "reconcile", "start"),
    _Ask("nutrition_log", "nutrition-log", "reconcile", "start"),
    _Ask("hydration_log", "hydration-log", "reconcile", "start"),
    _Ask("menstrual_period", "menstrual-period", "list", "start"),
)
_LEADING = frozenset(one.after for one in _ASKED if one.after)
# What has a name, and with it an end: whoever deletes or joins two leaves nothing behind.
_SESSIONS = frozenset({"sleep", "exercise", "nutrition_log", "hydration_log", "menstrual_period"})

# --- pushes


def read_push(request: PushRequest) -> Iterator[Pushed]:
    """What notifications say: days to fetch again, and what was deleted."""
    resources = {one.data_type: one.resource for one in _ASKED if one.timing != "roll_up"}
    for notice in read_notices(request.body):
        resource = resources.get(notice.data_type)
        if notice.is_deletion and notice.record_id and resource:
            yield Removed(notice.account_id, resource, (notice.record_id,))
        yield Changed(notice.account_id, notice.start, notice.end)


def answer_challenge(request: PushRequest, secrets: PushSecrets) -> PushAnswer | None:
    """The proof that the address is ours and looks at the secret, asked for twice: with it and without."""
    if request.method != "POST" or b"verification" not in request.body[:200]:
        return None
    try:
        told = msgspec.json.decode(request.body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if told.get("type") != "verification":
        return None
    given = request.headers.get("authorization", "").encode("utf-8", "replace")
    expected = f"Bearer {secrets.push_secret}".encode()
    return PushAnswer(201 if secrets.push_secret and compare_digest(given, expected) else 401)


PROVIDER = Provider(
    name="google_health",
    title="Google Health",
    client_name="GOOGLE",
    other_client_names=("FITBIT",),
    summary="Days, nights, exercises, measurements, food and periods of Fitbit and Google devices and apps.",
    docs_url="https://developers.google.com/health",
    resources=(
        *_ROLL_UPS,
        *_DAYS,
        *_POINTS,
        _ECG,
        _SLEEP,
        _EXERCISE,
        _MEAL,
        _DRINK,
        _PERIOD,
    ),
    fetch=fetch,
    explain=explain,
    oauth=OAuth(
        authorize_url="https://accounts.google.com/o/oauth2/v2/auth",
        token_url="https://oauth2.googleapis.com/token",  # noqa: S106 - an address
        revoke_url="https://oauth2.googleapis.com/revoke",
        api_url="https://health.googleapis.com",
        identify=identify,
        scopes=tuple(
            f"{_SCOPE}.{name}.readonly"
            for name in (
                "activity_and_fitness",
                "health_metrics_and_measurements",
                "sleep",
                "nutrition",
                "reproductive_health",
                "ecg",
                "settings",
            )
        ),
        # Without both there is no refresh token, or none the second time.
        authorize_parameters={"access_type": "offline", "prompt": "consent"},
        rotates_refresh=False,
        lifetime=timedelta(hours=1),
    ),
    # Who posts where is set up once per project, with an account of the project's own.
    push=Push(
        read=read_push,
        proof=SharedSecret(header="authorization", prefix="Bearer "),
        challenge=answer_challenge,
        answer=PushAnswer(204),
        setup="make the project's one subscriber at Google, with policy AUTOMATIC, the address of"
        " /in/google_health and the secret 'Bearer <WEARABLE_GOOGLE_HEALTH_PUSH_SECRET>'",
    ),
    refusals=(
        Refusal(403, "permanent", "the API is off for this project", containing=b"DISABLED"),
        Refusal(403, "rate_limited", "too many requests", containing=b"RATE_LIMIT_EXCEEDED"),
        Refusal(403, "absent", "the permission for this type of data was not given"),
        Refusal(
            400, "permanent", "the account has no Google Health", containing=b"ACCOUNT_NOT_LINKED"
        ),
        Refusal(400, "absent", "what was asked is not taken for this type of data"),
        Refusal(404, "absent", "there is no such type of data for this account"),
    ),
    freshness="With each sync of the device, about every quarter of an hour; a notification tells of it.",
    poll_interval=timedelta(hours=1),
    open_days=_REFETCH.days,
    refetch=_REFETCH,
    # One day less, for the day that is added where it is the present.
    max_window=timedelta(days=_LONGEST - 1),
    requests_per_second=100.0,
    quotas=(
        Quota(86_400_000, timedelta(days=1)),
        Quota(120_000, timedelta(minutes=1)),
        Quota(300, timedelta(minutes=1), of="account"),
    ),
)

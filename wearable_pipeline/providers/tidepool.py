"""Tidepool: glucose, ketones, insulin, food and activity that people upload from their devices.

https://tidepool.redocly.app/docs/device-data

A session is begun with e-mail and password and goes into a header of its own. Data are asked for by
type and time, without pages. Meters and pumps are uploaded when somebody remembers, weeks of them at
once: of each new upload everything is fetched, whatever days it is of.

Ids change when the same device is uploaded again: a record is what happened when, on which device.
Glucose is in mmol/L whatever the device showed. `time` is UTC, `timezoneOffset` what local clocks were
ahead; `deviceTime` is the device's clock, which may be wrong.
"""

import base64
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import quote

import msgspec
import polars as pl

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.model import units
from wearable_pipeline.model.columns import LOCAL
from wearable_pipeline.model.time import parse_pair
from wearable_pipeline.providers._contract import (
    Answer,
    Client,
    Connected,
    Connection,
    CredentialField,
    Page,
    Provider,
    Record,
    Reject,
    Resource,
    Samples,
    Scalars,
    Window,
)
from wearable_pipeline.providers._local_time import (
    YEARS,
    local_date_of,
    read_instant,
    read_time,
    wall_clock,
    zone_of,
)
from wearable_pipeline.providers._sessions import begin_anew
from wearable_pipeline.providers._split import content_id, decode, decode_any, item_fields
from wearable_pipeline.providers._windows import instants_around
from wearable_pipeline.settings import settings

_API = "https://api.tidepool.org"
_TOKEN = "x-tidepool-session-token"  # noqa: S105 - the name of a header
_DAY = timedelta(days=1)
# Uploads are listed from so long before the last fetch; those known are passed over.
_OVERLAP = _DAY
_UPLOADS_KEPT = 50

# Which types of records each resource is made of.
_TYPES: Mapping[str, tuple[str, ...]] = {
    "glucose": ("cbg", "smbg"),
    "ketones": ("bloodKetone",),
    "insulin": ("bolus", "insulin"),
    "wizards": ("wizard",),
    "food": ("food", "water"),
    "activities": ("physicalActivity",),
}

# --- talking to Tidepool


class _User(msgspec.Struct):
    userid: str


class _Upload(msgspec.Struct, rename="camel"):
    upload_id: str | None = None
    data_set_type: str | None = None


def _address(path: str) -> str:
    return (settings().provider("tidepool").base_url or _API).rstrip("/") + path


async def _login(client: Client, email: str, password: str) -> dict[str, object]:
    """Credentials with a fresh session."""
    basic = base64.b64encode(f"{email}:{password}".encode()).decode()
    answer = await client.request(
        "POST",
        _address("/auth/login"),
        headers={"authorization": f"Basic {basic}", "accept": "application/json"},
        accept=(200, 401, 403),
    )
    if answer.status != 200:
        raise NotConnectedError(
            "tidepool: login: e-mail or password is wrong, or the address is not confirmed:"
            " check them at Tidepool and connect again"
        )
    headers = {name.lower(): value for name, value in answer.headers.items()}
    if not headers.get(_TOKEN):
        raise BadPayloadError("tidepool: login: no session in the answer")
    found = decode(answer.body, _User, "tidepool: login")
    return {
        "email": email,
        "password": password,
        "user_id": found.userid,
        "session": headers[_TOKEN],
    }


async def connect(client: Client, values: Mapping[str, str]) -> Connected:
    """Log in, and see that the data can be read."""
    email, password = values.get("email", "").strip(), values.get("password", "")
    if not email or not password:
        raise UsageError("tidepool: e-mail and password of the account are needed")
    credentials = await _login(client, email, password)
    connection = Connection("", {}, credentials, {}, None, lambda: None)
    await _Session(client, connection).data({"type": "upload", "latest": "true"})
    return Connected(account_id=str(credentials["user_id"]), credentials=credentials)


@dataclass(slots=True)
class _Session:
    """A logged-in person; a session that is refused is begun anew once."""

    client: Client
    connection: Connection
    renewals: int = 0

    async def data(self, params: Mapping[str, str | int]) -> Answer:
        """The person's records that fit."""
        answer = await self._data(params)
        if answer.status == 401 and self.renewals == 0:
            self.renewals += 1
            await self._renew()
            answer = await self._data(params)
        if answer.status == 401:
            raise TransientError("tidepool: a session just begun is refused")
        return answer

    async def _data(self, params: Mapping[str, str | int]) -> Answer:
        known = self.connection.credentials
        user = quote(str(known.get("user_id") or ""), safe="")
        return await self.client.request(
            "GET",
            _address(f"/data/{user}"),
            params=params,
            headers={_TOKEN: str(known.get("session") or ""), "accept": "application/json"},
            accept=(200, 401),
        )

    async def _renew(self) -> None:
        login = partial(_login, self.client)
        await begin_anew(self.connection, "tidepool", login, session="session")


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield the records of the window, and those of uploads nobody has fetched yet."""
    session = _Session(client, connection)
    context = {"timezone": connection.timezone}
    begin, end = instants_around(window)
    dates = {"startDate": _written_time(begin), "endDate": _written_time(end)}
    for name, types in _TYPES.items():
        answer = await session.data({"type": ",".join(types), **dates})
        yield Page(name, answer.body, answer.fetched_at, context)
    if window.end < window.now.date() - _DAY:
        return
    for upload in await _new_uploads(session, window.now):
        for name, types in _TYPES.items():
            answer = await session.data({"type": ",".join(types), "uploadId": upload})
            yield Page(name, answer.body, answer.fetched_at, context)


async def _new_uploads(session: _Session, now: datetime) -> list[str]:
    """Ids of what was uploaded since the last fetch; none at the first, which reads by date.

    Sources that go on and on write into one upload for years: those are read by date alone.
    """
    state = session.connection.state
    since, before = state.get("uploads_since"), state.get("uploads")
    state["uploads_since"] = _written_time(now - _OVERLAP)
    if not isinstance(since, str):
        return []
    known = [str(one) for one in before] if isinstance(before, list) else []
    answer = await session.data({"type": "upload", "startDate": since})
    found = decode(answer.body, list[_Upload], "tidepool: reading the uploads")
    fresh = [
        one.upload_id
        for one in found
        if one.upload_id and one.data_set_type != "continuous" and one.upload_id not in known
    ]
    state["uploads"] = [*known, *dict.fromkeys(fresh)][-_UPLOADS_KEPT:]
    return list(dict.fromkeys(fresh))


def _written_time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z"


# --- answers → records

# What tells two records of one type, time and device apart.
_VALUES: Mapping[str, tuple[str, ...]] = {
    "bolus": ("normal", "extended"),
    "insulin": ("dose",),
    "wizard": ("carbInput", "bgInput"),
    "food": ("nutrition", "name"),
    "water": ("amount",),
    "physicalActivity": ("duration", "name"),
}
_GLUCOSE_VALUE = ("value",)
_LARGEST_OFFSET = timedelta(hours=14)
_QUARTER = timedelta(minutes=15)


def _items(body: bytes, what: str) -> list[msgspec.Raw]:
    text = body.strip()
    if text[:1] == b"{":
        return [msgspec.Raw(text)]
    return decode(text, list[msgspec.Raw], what)


def _split(page: Page, types: tuple[str, ...]) -> Iterator[Record]:
    zone = zone_of(page)
    mine = [
        (item, fields)
        for item in _items(page.body, f"tidepool: reading {page.resource}")
        if (fields := item_fields(item)).get("type") in types
    ]
    places = _places([fields for _, fields in mine])
    for item, fields in mine:
        at = read_instant(fields.get("time"))
        offset = _offset(at, fields) if at else None
        day = local_date_of(at or page.fetched_at, zone)
        context: dict[str, object] = {"timezone": zone} if zone else {}
        beyond = _out_of_range(fields.get("annotations"))
        if beyond:
            context["out_of_range"] = beyond
        place = places.get(_identity(fields), 1)
        if place > 1:
            context["occurrence"] = place
        yield Record(
            page.resource,
            _identity(fields) if at else content_id(bytes(item)),
            bytes(item),
            (at + offset).date() if at and offset is not None else day,
            context,
            provider_updated_at=read_instant(fields.get("modifiedTime")),
            is_deleted=bool(fields.get("deletedTime")),
        )


def _moment(fields: Mapping[str, object]) -> str:
    return f"{fields.get('type')}/{fields.get('time')}/{fields.get('deviceId')}"


def _identity(fields: Mapping[str, object]) -> str:
    names = _VALUES.get(str(fields.get("type")), _GLUCOSE_VALUE)
    said = msgspec.json.encode([fields.get(name) for name in names], order="sorted")
    return f"{_moment(fields)}/{content_id(said).removeprefix('sha256:')[:12]}"


def _places(found: list[dict[str, object]]) -> dict[str, int]:
    """Of readings of one moment which is which, by their values: 1 for the lowest."""
    of_moment: dict[str, dict[str, float]] = {}
    for fields in found:
        value = fields.get("value")
        number = float(value) if isinstance(value, int | float) else 0.0
        of_moment.setdefault(_moment(fields), {})[_identity(fields)] = number
    return {
        identity: place
        for several in of_moment.values()
        if len(several) > 1
        for place, identity in enumerate(sorted(several, key=lambda one: several[one]), 1)
    }


def _out_of_range(annotations: object) -> str | None:
    for one in annotations if isinstance(annotations, list) else []:
        is_it = isinstance(one, dict) and one.get("code") == "bg/out-of-range"
        if is_it and one.get("value") in ("low", "high"):
            return str(one["value"])
    return None


def _offset(at: datetime, fields: Mapping[str, object]) -> timedelta | None:
    """What local clocks were ahead; the same rule as `_prepare`."""
    stated = fields.get("timezoneOffset")
    if isinstance(stated, int | float) and abs(stated) <= _LARGEST_OFFSET / timedelta(minutes=1):
        return timedelta(minutes=int(stated))
    shown = read_time(fields.get("deviceTime"))
    if shown is None or shown.tzinfo is not None:
        return None
    ahead = shown.replace(tzinfo=UTC) - at.replace(microsecond=0)
    return ahead if abs(ahead) <= _LARGEST_OFFSET and not ahead % _QUARTER else None


# --- bodies of unknown origin


def _is_record(one: object) -> bool:
    return isinstance(one, dict) and isinstance(one.get("type"), str) and "time" in one


def _records(answer: object) -> list[object]:
    return answer if isinstance(answer, list) else [answer]


def _recognise(types: tuple[str, ...], answer: object) -> bool:
    records = _records(answer)
    return all(map(_is_record, records)) and any(
        isinstance(one, dict) and one["type"] in types for one in records
    )


_ALL_TYPES = frozenset(one for types in _TYPES.values() for one in types)
_OTHER_TYPES = frozenset(
    {
        *("basal", "cgmSettings", "controllerSettings", "controllerStatus", "deviceEvent"),
        *("deviceStatus", "dosingDecision", "pumpSettings", "pumpStatus", "reportedState"),
        *("upload", "urineKetone", "alert"),
    }
)


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer of Tidepool without readings."""
    what = "tidepool: reading the answer"
    answer = decode_any(body)
    records = _records(answer)
    if isinstance(answer, dict) and "userid" in answer:
        raise BadPayloadError(f"{what}: it is a login answer: it carries no readings")
    if isinstance(answer, dict) and answer.get("code") in (401, 403, "unauthorized"):
        raise NotConnectedError(f"{what}: access is refused: connect this user again")
    if isinstance(answer, dict) and {"code", "reason"} <= answer.keys():
        raise BadPayloadError(f"{what}: it is a refusal: it carries no readings")
    if not records or not all(map(_is_record, records)):
        return
    kinds = {str(one["type"]) for one in records if isinstance(one, dict)}
    if not kinds & _ALL_TYPES and kinds <= _OTHER_TYPES:
        raise BadPayloadError(f"{what}: it holds {', '.join(sorted(kinds))}: no readings")


# --- records → columns

_STATED, _SHOWN = "stated\x00", "shown\x00"


def _prepare(frame: pl.DataFrame) -> pl.DataFrame:
    pair = parse_pair(pl.col("time"))
    shown = pl.col("deviceTime").str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us"
    )
    most = int(_LARGEST_OFFSET / timedelta(minutes=1))
    stated = pl.col("timezoneOffset").cast(pl.Int64, strict=False)
    frame = frame.with_columns(pair.timestamp.alias("timestamp"), shown.alias(_SHOWN)).with_columns(
        pl.when(pl.col("timestamp").dt.year().is_between(YEARS.start, YEARS.stop - 1)).then(
            pl.col("timestamp")
        )
    )
    wall = pl.col("timestamp").dt.replace_time_zone(None)
    seconds = (pl.col(_SHOWN) - wall.dt.truncate("1s")).dt.total_seconds()
    by_clock = pl.when(
        (seconds % int(_QUARTER.total_seconds()) == 0) & (seconds.abs() <= most * 60)
    ).then(seconds // 60)
    frame = frame.with_columns(
        pl.coalesce(pl.when(stated.abs() <= most).then(stated), by_clock).alias(_STATED)
    )
    zoned = wall_clock(frame, pl.col("timestamp"), "context.timezone")
    told = pl.col(_STATED).is_not_null()
    return frame.with_columns(
        pl.coalesce(wall + pl.duration(minutes=pl.col(_STATED), time_unit="us"), zoned)
        .cast(LOCAL)
        .alias("local_timestamp"),
        pl.when(~told & zoned.is_not_null()).then(pl.col("context.timezone")).alias("timezone"),
        pl.when(told)
        .then(pl.lit("provider"))
        .when(zoned.is_not_null())
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    ).drop(_STATED, _SHOWN)


_BASE_WIRE: Mapping[str, pl.DataType] = {
    "type": pl.String(),
    "time": pl.String(),
    "deviceTime": pl.String(),
    "timezoneOffset": pl.Float64(),
    "deviceId": pl.String(),
}
_BASE_IGNORED = frozenset(
    {
        *("id", "guid", "uploadId", "payload", "annotations", "associations", "origin", "source"),
        *("clockDriftOffset", "conversionOffset", "timezone", "location", "tags", "notes"),
        *("createdTime", "createdUserId", "modifiedTime", "modifiedUserId", "deletedTime"),
        *("deletedUserId", "archivedTime", "archivedDatasetId", "deduplicator", "history"),
        *("revision", "version", "provenance", "hash"),
        *("_id", "_userId", "_groupId", "_version", "_active", "_schemaVersion", "_deduplicator"),
        *("_archivedTime", "_state", "_dataState"),
    }
)
_CONTEXT: Mapping[str, pl.DataType] = {
    "timezone": pl.String(),
    "out_of_range": pl.String(),
    "occurrence": pl.Int64(),
}
_NO_TIME = Reject("time: missing or no instant", pl.col("timestamp").is_null())
_TYPE = pl.col("type")
_MEASURED: Mapping[str, pl.Expr] = {
    "measurement_time": pl.col("timestamp"),
    "local_measurement_time": pl.col("local_timestamp"),
    "device_id": pl.col("deviceId"),
    "occurrence": pl.col("context.occurrence"),
}


def _resource(
    name: str,
    wire: Mapping[str, pl.DataType],
    *tables: Samples | Scalars,
    rejects: tuple[Reject, ...] = (),
    ignored: frozenset[str] = frozenset(),
    prepare: Callable[[pl.DataFrame], pl.DataFrame] = _prepare,
) -> Resource:
    types = _TYPES[name]
    return Resource(
        name=name,
        recognise=partial(_recognise, types),
        wire={**_BASE_WIRE, **wire},
        split=partial(_split, types=types),
        prepare=prepare,
        tables=tables,
        rejects=(_NO_TIME, *rejects),
        context_wire=_CONTEXT,
        ignored=_BASE_IGNORED | ignored,
        evidence="recorded",
    )


# Everything is stored in mmol/L; what was handed in may say otherwise.
_WORD = pl.col("units").str.to_lowercase()
_UNIT = (
    pl.when(_WORD.is_null() | _WORD.is_in(["mmol/l", "mmol/liter"]))
    .then(pl.lit("mmol/L"))
    .when(_WORD == "mg/dl")
    .then(pl.lit("mg/dL"))
)
_VALUE = pl.col("value")
_NO_VALUE = (
    Reject("value: missing", _VALUE.is_null()),
    Reject("units: neither mmol/L nor mg/dL", _UNIT.is_null()),
)
TRENDS: Mapping[str, str] = {
    "rapidFall": "falling_quickly",
    "moderateFall": "falling_quickly",
    "slowFall": "falling",
    "constant": "flat",
    "slowRise": "rising",
    "moderateRise": "rising_quickly",
    "rapidRise": "rising_quickly",
}

_GLUCOSE = _resource(
    "glucose",
    {"subType": pl.String(), "value": pl.Float64(), "units": pl.String(), "trend": pl.String()},
    Samples(
        "body",
        "glucose_blood_glucose_samples",
        {
            "blood_glucose_mg_per_dl": units.glucose_in_mg(_VALUE, _UNIT),
            "glucose_level_flag": pl.col("context.out_of_range"),
            "trend_arrow": pl.col("trend").replace_strict(
                TRENDS, default=None, return_dtype=pl.String
            ),
            "native_value": _VALUE,
            "native_unit": _UNIT,
            "sample_kind": pl.when(_TYPE == "cbg")
            .then(pl.lit("cgm"))
            .when(pl.col("subType") == "manual")
            .then(pl.lit("manual"))
            .when(pl.col("subType") == "scanned")
            .then(pl.lit("scan"))
            .otherwise(pl.lit("fingerstick")),
            "out_of_range": pl.col("context.out_of_range"),
            "native_trend": pl.col("trend"),
            "device_id": pl.col("deviceId"),
            "occurrence": pl.col("context.occurrence"),
        },
    ),
    rejects=_NO_VALUE,
    ignored=frozenset(
        {"isig", "sampleInterval", "backfilled", "trendRate", "trendRateUnits", "jitter"}
    ),
)

_KETONES = _resource(
    "ketones",
    {"value": pl.Float64(), "units": pl.String()},
    Samples(
        "body",
        "ketone_ketone_samples",
        {
            "ketone_mg_per_dl": units.ketone_in_mg(_VALUE, _UNIT),
            "sample_type": pl.lit("blood"),
            "native_value": _VALUE,
            "native_unit": _UNIT,
            "device_id": pl.col("deviceId"),
            "occurrence": pl.col("context.occurrence"),
        },
    ),
    rejects=_NO_VALUE,
)

_GIVEN = (
    pl.when(_TYPE == "insulin")
    .then(pl.col("dose.total"))
    .otherwise(
        # The parts of one dose: at once, and over hours.
        pl.when(pl.col("normal").is_not_null() | pl.col("extended").is_not_null()).then(
            pl.sum_horizontal("normal", "extended")
        )
    )
)
_INSULIN = _resource(
    "insulin",
    {
        "normal": pl.Float64(),
        "extended": pl.Float64(),
        "dose.total": pl.Float64(),
        "formulation.simple.actingType": pl.String(),
    },
    Samples(
        "body",
        "measurements_measurements",
        {
            **_MEASURED,
            "insulin_units": _GIVEN,
            "insulin_type": pl.col("formulation.simple.actingType"),
        },
    ),
    rejects=(Reject("dose: missing", _GIVEN.is_null()),),
    ignored=frozenset(
        {
            *("subType", "duration", "expectedNormal", "expectedExtended", "expectedDuration"),
            *("previous", "next", "dose", "formulation", "site", "deliveryContext"),
            *("insulinFormulation", "insulinOnBoard"),
        }
    ),
)

_CARBS = pl.col("carbInput")
_WIZARDS = _resource(
    "wizards",
    {"carbInput": pl.Float64(), "carbUnits": pl.String()},
    Samples(
        "nutrition",
        "meals",
        {
            "id": pl.col("record_id"),
            "type": pl.lit("unknown"),
            "quantity_unit": pl.lit("unknown"),
            "macros_carbohydrates_g": _CARBS,
        },
        # Most calculations are about a correction, without a meal.
        where=_CARBS > 0,
    ),
    rejects=(Reject("carbUnits: not grams", pl.col("carbUnits") != "grams"),),
    # The value typed in is a record of its own, as is the dose.
    ignored=frozenset(
        {
            *("bgInput", "bgTarget", "bolus", "insulinCarbRatio", "insulinOnBoard", "units"),
            *("insulinSensitivity", "recommended"),
        }
    ),
)

_NET, _FIBER = "nutrition.carbohydrate.net", "nutrition.carbohydrate.dietaryFiber"
_ENERGY = "nutrition.energy"


def _kilocalories(path: str) -> pl.Expr:
    value, unit = pl.col(f"{path}.value"), pl.col(f"{path}.units")
    return (
        pl.when(unit == "kilocalories")
        .then(value)
        .when(unit == "calories")
        .then(value / 1000)
        .when(unit == "kilojoules")
        .then(units.kilojoules_to_kilocalories(value))
        .when(unit == "joules")
        .then(units.kilojoules_to_kilocalories(value / 1000))
    )


_DRUNK, _DRUNK_IN = pl.col("amount.value"), pl.col("amount.units")
_MILLILITRES = (
    pl.when(_DRUNK_IN == "milliliters")
    .then(_DRUNK)
    .when(_DRUNK_IN == "liters")
    .then(_DRUNK * 1000)
    .when(_DRUNK_IN == "ounces")
    .then(units.fluid_ounces_to_millilitres(_DRUNK))
    .when(_DRUNK_IN == "gallons")
    .then(units.fluid_ounces_to_millilitres(_DRUNK * 128))
)
_FOOD = _resource(
    "food",
    {
        "name": pl.String(),
        "meal": pl.String(),
        "amount.value": pl.Float64(),
        "amount.units": pl.String(),
        _NET: pl.Float64(),
        _FIBER: pl.Float64(),
        "nutrition.carbohydrate.total": pl.Float64(),
        "nutrition.carbohydrate.sugars": pl.Float64(),
        "nutrition.fat.total": pl.Float64(),
        "nutrition.protein.total": pl.Float64(),
        f"{_ENERGY}.value": pl.Float64(),
        f"{_ENERGY}.units": pl.String(),
    },
    Samples(
        "nutrition",
        "meals",
        {
            "id": pl.col("record_id"),
            "name": pl.col("name"),
            "type": pl.col("meal").replace_strict(
                {name: name for name in ("breakfast", "lunch", "dinner", "snack")},
                default="unknown",
                return_dtype=pl.String,
            ),
            "quantity_unit": pl.lit("unknown"),
            # People type in one number, and it is kept as net; fibre is told where it is known.
            "macros_carbohydrates_g": pl.coalesce(
                "nutrition.carbohydrate.total", pl.col(_NET) + pl.col(_FIBER).fill_null(0)
            ),
            "macros_net_carbohydrates_g": pl.col(_NET),
            "macros_fiber_g": pl.col(_FIBER),
            "macros_sugar_g": pl.col("nutrition.carbohydrate.sugars"),
            "macros_fat_g": pl.col("nutrition.fat.total"),
            "macros_protein_g": pl.col("nutrition.protein.total"),
            "macros_calories": _kilocalories(_ENERGY),
        },
        where=_TYPE == "food",
    ),
    Samples(
        "nutrition",
        "drink_samples",
        {
            "drink_name": pl.lit("water"),
            "drink_volume": _MILLILITRES,
            "drink_unit": pl.lit("milliliter"),
        },
        where=_TYPE == "water",
    ),
    rejects=(
        Reject("amount: missing or in no known unit", (_TYPE == "water") & _MILLILITRES.is_null()),
    ),
    ignored=frozenset(
        {
            *("brand", "code", "ingredients", "mealOther", "nutrition.absorptionDuration"),
            *("nutrition.estimatedAbsorptionDuration", "nutrition.carbohydrate.units"),
            *("nutrition.fat.units", "nutrition.protein.units"),
        }
    ),
)

# Words of Tidepool that are not the code list's own.
ACTIVITIES: Mapping[str, str] = {
    "americanFootball": "american_football",
    "archery": "archery",
    "australianFootball": "australian_football",
    "badminton": "badminton",
    "baseball": "baseball",
    "basketball": "basketball",
    "boxing": "boxing",
    "climbing": "rock_climbing",
    "coreTraining": "calisthenics",
    "cricket": "cricket",
    "crossCountrySkiing": "cross_country_skiing",
    "crossTraining": "crossfit",
    "curling": "curling",
    "cycling": "biking",
    "dance": "dancing",
    "danceInspiredTraining": "dancing",
    "downhillSkiing": "downhill_skiing",
    "elliptical": "elliptical",
    "equestrianSports": "horseback_riding",
    "fencing": "fencing",
    "fishing": "fishing",
    "flexibility": "stretching",
    "functionalStrengthTraining": "strength_training",
    "golf": "golf",
    "gymnastics": "gymnastics",
    "handCycling": "hand_biking",
    "handball": "handball",
    "highIntensityIntervalTraining": "hiit",
    "hiking": "hiking",
    "hockey": "hockey",
    "jumpRope": "jumping_rope",
    "kickboxing": "kickboxing",
    "lacrosse": "lacrosse",
    "martialArts": "martial_arts",
    "mixedCardio": "cardio_training",
    "paddleSports": "paddling",
    "pilates": "pilates",
    "racquetball": "racquetball",
    "rowing": "rowing",
    "rugby": "rugby",
    "running": "running",
    "sailing": "sailing",
    "skatingSports": "skating",
    "snowboarding": "snowboarding",
    "soccer": "english_football",
    "softball": "softball",
    "squash": "squash",
    "stairClimbing": "stair_climbing",
    "stairs": "stair_climbing",
    "surfingSports": "surfing",
    "swimming": "swimming",
    "tableTennis": "table_tennis",
    "tennis": "tennis",
    "traditionalStrengthTraining": "strength_training",
    "volleyball": "volleyball",
    "walking": "walking",
    "waterPolo": "water_polo",
    "wheelchairRunPace": "wheelchair",
    "wheelchairWalkPace": "wheelchair",
    "yoga": "yoga",
}
_LASTED, _LASTED_IN = pl.col("duration.value"), pl.col("duration.units")
# A week is the most that is allowed; what no duration can hold would stop the batch.
_SECONDS = (
    pl.when(~_LASTED.is_between(0, 604_800))
    .then(None)
    .when(_LASTED_IN == "seconds")
    .then(_LASTED)
    .when(_LASTED_IN == "minutes")
    .then(_LASTED * 60)
    .when(_LASTED_IN == "hours")
    .then(_LASTED * 3600)
)
_WAY, _WAY_IN = pl.col("distance.value"), pl.col("distance.units")
_METRES = (
    pl.when(_WAY_IN == "meters")
    .then(_WAY)
    .when(_WAY_IN == "kilometers")
    .then(_WAY * 1000)
    .when(_WAY_IN == "feet")
    .then(units.feet_to_metres(_WAY))
    .when(_WAY_IN == "yards")
    .then(units.feet_to_metres(_WAY * 3))
    .when(_WAY_IN == "miles")
    .then(units.miles_to_metres(_WAY))
)


def _prepare_activity(frame: pl.DataFrame) -> pl.DataFrame:
    lasted = pl.duration(microseconds=(_SECONDS * 1e6).round().cast(pl.Int64), time_unit="us")
    return _prepare(frame).with_columns(
        (pl.col("timestamp") + lasted).alias("end_at"),
        (pl.col("local_timestamp") + lasted).alias("local_end_at"),
    )


def _felt(intensity: str) -> pl.Expr:
    return pl.when(pl.col("reportedIntensity") == intensity).then(_SECONDS)


_ACTIVITIES = _resource(
    "activities",
    {
        "name": pl.String(),
        "activityType": pl.String(),
        "reportedIntensity": pl.String(),
        "duration.value": pl.Float64(),
        "duration.units": pl.String(),
        "distance.value": pl.Float64(),
        "distance.units": pl.String(),
        "energy.value": pl.Float64(),
        "energy.units": pl.String(),
        "step.count": pl.Int64(),
    },
    Scalars(
        "activity",
        {
            "metadata_summary_id": pl.col("record_id"),
            "metadata_name": pl.col("name"),
            "metadata_type": pl.col("activityType").replace_strict(
                ACTIVITIES, default="other", return_dtype=pl.String
            ),
            "start_at": pl.col("timestamp"),
            "local_start_at": pl.col("local_timestamp"),
            "end_at": pl.col("end_at"),
            "local_end_at": pl.col("local_end_at"),
            "active_durations_activity_seconds": _SECONDS,
            "active_durations_low_intensity_seconds": _felt("low"),
            "active_durations_moderate_intensity_seconds": _felt("medium"),
            "active_durations_vigorous_intensity_seconds": _felt("high"),
            "distance_summary_distance_meters": _METRES,
            "distance_summary_steps": pl.col("step.count"),
            "calories_total_burned_calories": _kilocalories("energy"),
        },
    ),
    rejects=(Reject("duration: missing or in no known unit", _SECONDS.is_null()),),
    ignored=frozenset({"activityTypeOther", "aggregate", "elevationChange", "flight", "lap"}),
    prepare=_prepare_activity,
)

PROVIDER = Provider(
    name="tidepool",
    title="Tidepool",
    client_name="TIDEPOOL",
    summary="Glucose, ketones, insulin, food and activity uploaded to Tidepool.",
    freshness="When somebody uploads.",
    docs_url="https://tidepool.redocly.app/docs/device-data",
    resources=(_GLUCOSE, _KETONES, _INSULIN, _WIZARDS, _FOOD, _ACTIVITIES),
    credentials=(
        CredentialField("email", "E-mail of the Tidepool account."),
        CredentialField("password", "Password of the Tidepool account."),
    ),
    connect=connect,
    fetch=fetch,
    explain=explain,
    # As late as somebody uploads.
    poll_interval=timedelta(hours=1),
    open_days=3,
    refetch=timedelta(days=2),
    max_window=timedelta(days=30),
    # Nobody says what is allowed.
    requests_per_second=5.0,
)

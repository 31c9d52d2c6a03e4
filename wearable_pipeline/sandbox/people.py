"""Synthetic people: who they are, where they are, and what their sensors report at any instant.

Everything is a pure function of (seed, name, instant): no state, no clock, the same answer in every
process. Instants are whole epoch seconds inside this module; the functions meant for tests take and
return aware datetimes.
"""

import hashlib
import math
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from random import Random
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

MINUTE = 60
HOUR = 3600
DAY = 86400
WEEK = 7 * DAY

DOMAIN = "sandbox.invalid"
DEFAULT_SEED = 20

WARM_UP = 60 * MINUTE
WEAR = 14 * DAY
GRAPH_WINDOW = 12 * HOUR
GRAPH_LAG = 17 * MINUTE
LOGBOOK_WINDOW = 14 * DAY

Source = Literal["freestyle_libre", "nightscout", "libreview"]
Device = Literal["libre2", "libre3", "dexcom"]
OutOfRange = Literal["high", "low"]

# Abbott displays mmol/L as mg/dL divided by 18, one decimal (181 is shown as 10.1).
DISPLAY_FACTOR = 18.0

_MASK = (1 << 64) - 1
_LOAD_ZONES = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Europe/London", "Asia/Tokyo")
_LOAD_REGIONS = ("eu", "us", "ap", "eu2", "jp")
# The Monday weeks are counted from.
_FIRST_MONDAY = 4 * DAY


@dataclass(frozen=True, slots=True)
class Person:
    """One synthetic person and the sensor they wear.

    `away_zone` is where a traveller is from Wednesday 15:00 UTC to Saturday 09:00 UTC of every
    second week. `uploader` says through which Nightscout API the readings came in: documents of
    `v1` uploaders carry no `srvModified` and so never show in v3's history.
    """

    name: str
    source: Source
    device: Device
    zone: str
    region: str
    country: str
    uom: int
    seed: int
    key: int
    away_zone: str | None = None
    uploader: Literal["v1", "v3"] = "v3"
    history_days: int = 42

    @property
    def email(self) -> str:
        """Login of the account that follows this person."""
        return f"{self.name}@{DOMAIN}"

    @property
    def password(self) -> str:
        """An obviously fake password."""
        return fake_password(self.name)

    @property
    def last_name(self) -> str:
        """Family name as providers show it; the first name is always `Sandbox`."""
        return f"Person {self.name}"

    @property
    def patient_id(self) -> str:
        """Id of the person as a patient at LibreLinkUp."""
        return _uuid(self._id("patient"))

    @property
    def connection_id(self) -> str:
        """Id of the connection between patient and follower."""
        return _uuid(self._id("connection"))

    @property
    def device_id(self) -> str:
        """Id of the phone or reader."""
        return _uuid(self._id("device"))

    @property
    def api_secret(self) -> str:
        """API secret of the person's Nightscout site."""
        return f"fake-secret-of-{self.name}"

    @property
    def access_token(self) -> str:
        """Access token of a reader of the person's Nightscout site."""
        return f"reader-{self._id('token') & _MASK:016x}"

    @property
    def step(self) -> int:
        """Seconds between two stored readings."""
        return 15 * MINUTE if self.device == "libre2" else 5 * MINUTE

    @property
    def phase(self) -> int:
        """Second of the step at which this person's sensor stores."""
        return self.key % self.step

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest number the sensor can measure, mg/dL."""
        return (40, 400) if self.device == "dexcom" or self.region == "us" else (40, 500)

    def _id(self, purpose: str) -> int:
        return _digest(f"{self.seed}/{self.name}/{purpose}", 16)


@dataclass(frozen=True, slots=True)
class Account:
    """A LibreLinkUp login. `login` says what the service answers to the right password."""

    name: str
    user_id: str
    region: str
    country: str
    follows: tuple[str, ...]
    seed: int
    login: Literal["ok", "tou", "pp", "verifyEmail", "maintenance"] = "ok"

    @property
    def email(self) -> str:
        """Login name."""
        return f"{self.name}@{DOMAIN}"

    @property
    def password(self) -> str:
        """An obviously fake password."""
        return fake_password(self.name)

    def people(self) -> list[Person]:
        """The people this account follows."""
        return [person(name, self.seed) for name in self.follows]


class Reading(NamedTuple):
    """One stored reading; all times are epoch seconds.

    `mg_dl` is what was served first; from `corrected_at` on the source serves `corrected_mg_dl`.
    `is_error` marks a sensor code in the place of a value.
    """

    at: int
    mg_dl: int
    out_of_range: OutOfRange | None
    available_at: int
    corrected_at: int | None = None
    corrected_mg_dl: int | None = None
    deleted_at: int | None = None
    is_error: bool = False

    def value(self, now: int) -> int:
        """The value the source serves at `now`."""
        if self.corrected_at is not None and self.corrected_mg_dl is not None:
            return self.corrected_mg_dl if now >= self.corrected_at else self.mg_dl
        return self.mg_dl


class Bump(NamedTuple):
    """One influence on the glucose trace: a meal's rise and decay, or a bell around an instant."""

    start: int
    end: int
    at: int
    amount: float
    width: float
    is_meal: bool


class Pause(NamedTuple):
    """A stretch without readings: lost for good, or stored and delivered when it ends."""

    start: int
    end: int
    is_lost: bool


class Meal(NamedTuple):
    """Something eaten."""

    at: int
    carbs: int
    insulin: float


class Alarm(NamedTuple):
    """A glucose alarm; `kind` is LibreLinkUp's alarmType (0 fixed low, 1 low, 2 high)."""

    at: int
    kind: int


@dataclass(frozen=True, slots=True)
class DayPlan:
    """What happens to one person on one local day."""

    midnight: int
    bumps: tuple[Bump, ...]
    meals: tuple[Meal, ...]
    pauses: tuple[Pause, ...]
    scans: tuple[int, ...]
    fingersticks: tuple[int, ...]
    alarms: tuple[Alarm, ...]
    corrected_slot: int | None
    phantom_at: int | None
    correction_bolus_at: int | None
    rescue_carbs_at: int | None


# Who they are


def cast(seed: int = DEFAULT_SEED) -> tuple[Person, ...]:
    """The five people the demo connects, and one whose data come as a file."""
    return tuple(person(name, seed) for name in ("ada", "bo", "cleo", "dag", "esi", "finn"))


@lru_cache(maxsize=65536)
def person(name: str, seed: int = DEFAULT_SEED, source: Source | None = None) -> Person:
    """The person of that name; `load-…` names exist for both providers. KeyError for others."""
    if name.startswith("load-") and name[5:].isdigit():
        return _load_person(name, seed, source or "freestyle_libre")
    made = _named(name, seed)
    if source is not None and made.source != source:
        raise KeyError(f"{name} is not a {source} person")
    return made


def account(email: str, seed: int = DEFAULT_SEED) -> Account:
    """The LibreLinkUp account with that login. KeyError if there is none."""
    name, _, domain = email.partition("@")
    if domain != DOMAIN:
        raise KeyError("no such account")
    user_id = _uuid(_digest(f"{seed}/{name}/user", 16))
    match name:
        case "family":
            return Account(name, user_id, "eu", "DE", ("ada", "cleo"), seed)
        case "unconnected":
            return Account(name, user_id, "eu", "DE", (), seed)
        case "tou" | "pp" | "maintenance":
            return Account(name, user_id, "eu", "DE", ("ada",), seed, name)
        case "verify-email":
            return Account(name, user_id, "eu", "DE", ("ada",), seed, "verifyEmail")
    follows = person(name, seed, "freestyle_libre")
    return Account(name, user_id, follows.region, follows.country, (name,), seed)


def fake_password(name: str) -> str:
    """The password of an account; nobody could take it for a real one."""
    return f"fake-password-of-{name}"


def _named(name: str, seed: int) -> Person:
    key = _digest(f"{seed}/{name}", 8)
    match name:
        case "ada":
            return Person(
                name, "freestyle_libre", "libre2", "Europe/Berlin", "eu", "DE", 1, seed, key
            )
        case "bo":
            return Person(
                name, "freestyle_libre", "libre2", "Asia/Kolkata", "ap", "IN", 0, seed, key
            )
        case "cleo":
            return Person(
                name,
                "freestyle_libre",
                "libre3",
                "Europe/London",
                "eu2",
                "GB",
                0,
                seed,
                key,
                away_zone="America/New_York",
            )
        case "dag":
            return Person(name, "nightscout", "dexcom", "America/New_York", "", "US", 1, seed, key)
        case "esi":
            return Person(
                name,
                "nightscout",
                "dexcom",
                "Australia/Adelaide",
                "",
                "AU",
                0,
                seed,
                key,
                uploader="v1",
            )
        case "finn":
            return Person(name, "libreview", "libre2", "Europe/Madrid", "", "ES", 0, seed, key)
    raise KeyError("no such person")


def _load_person(name: str, seed: int, source: Source) -> Person:
    key = _digest(f"{seed}/{name}", 8)
    number = int(name[5:])
    place = number % len(_LOAD_ZONES)
    device: Device = "libre3" if number % 2 else "libre2"
    if source == "nightscout":
        device = "dexcom"
    return Person(
        name=name,
        source=source,
        device=device,
        zone=_LOAD_ZONES[place],
        region=_LOAD_REGIONS[place],
        country=("DE", "US", "IN", "GB", "JP")[place],
        uom=number % 2,
        seed=seed,
        key=key,
    )


# Where they are


def zone_at(who: Person, at: int) -> str:
    """IANA zone the person is in."""
    if who.away_zone is None:
        return who.zone
    week, second = divmod(at - _FIRST_MONDAY, WEEK)
    is_away = week % 2 == 0 and 2 * DAY + 15 * HOUR <= second < 5 * DAY + 9 * HOUR
    return who.away_zone if is_away else who.zone


def offset_at(who: Person, at: int) -> int:
    """Seconds the person's wall clock is ahead of UTC."""
    return _zone_offset(zone_at(who, at), at // 900)


@lru_cache(maxsize=65536)
def _zone_offset(zone: str, quarter: int) -> int:
    # Every change of offset happens on a whole quarter of an hour.
    moment = datetime.fromtimestamp(quarter * 900, ZoneInfo(zone))
    offset = moment.utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0


def sensor_started_at(who: Person, at: int) -> int:
    """When the sensor worn at that instant was activated; no reading exists in its first hour."""
    anchor = who.key % WEAR
    return at - (at - anchor) % WEAR


def sensor_serial(who: Person, at: int) -> str:
    """Serial number of the sensor worn at that instant."""
    return f"SANDBOX{_mix(who.key, sensor_started_at(who, at)) & 0xFFFFFFF:07X}"


# What happens to them


@lru_cache(maxsize=32768)
def plan(who: Person, day: int) -> DayPlan:
    """The events of local day `day`, counted in days from 1970-01-01."""
    rng = Random(f"{who.seed}/{who.name}/{day}")  # noqa: S311 (synthetic data, must be repeatable)
    midnight = day * DAY - offset_at(who, day * DAY + DAY // 2)

    def clock(hours: float) -> int:
        return midnight + int(hours * HOUR)

    meals = []
    bumps = [_bell(clock(6.2), rng.uniform(10, 28), 1.6 * HOUR)]
    for hour, low, high in ((7.5, 25, 60), (12.6, 35, 80), (16.0, 8, 25), (19.2, 40, 90)):
        at = clock(hour + rng.uniform(-0.7, 0.7))
        carbs = int(rng.uniform(low, high))
        meals.append(Meal(at, carbs, round(carbs / 10 * rng.uniform(0.8, 1.2), 1)))
        width = rng.uniform(0.7, 1.1) * HOUR
        bumps.append(
            Bump(at, at + int(7 * width), at, carbs * rng.uniform(0.9, 1.5), width, is_meal=True)
        )

    alarms = []
    rescue_carbs_at = None
    if rng.random() < 0.25:
        low_at = clock(rng.uniform(1.0, 22.0))
        bumps.append(_bell(low_at, -rng.uniform(45, 60), 25 * MINUTE))
        alarms.append(Alarm(low_at, 1))
        rescue_carbs_at = low_at + 5 * MINUTE
    if (day + who.key) % 9 == 4:
        high_at = clock(15.0)
        bumps.append(_bell(high_at, 520.0, 50 * MINUTE))
        alarms.append(Alarm(high_at - 40 * MINUTE, 2))
    if (day + who.key // 9) % 11 == 7:
        low_at = clock(3.5)
        bumps.append(_bell(low_at, -170.0, 30 * MINUTE))
        alarms.append(Alarm(low_at, 0))

    pauses = []
    if rng.random() < 0.35:
        start = clock(rng.uniform(0.0, 21.0))
        pauses.append(Pause(start, start + int(rng.uniform(30, 170) * MINUTE), is_lost=False))
    if rng.random() < 0.2:
        start = clock(rng.uniform(0.0, 23.0))
        pauses.append(Pause(start, start + int(rng.uniform(20, 75) * MINUTE), is_lost=True))

    scans = tuple(sorted(clock(rng.uniform(6.5, 23.0)) for _ in range(5)))
    fingersticks = (clock(7.2 + rng.uniform(0, 0.2)), clock(21.4 + rng.uniform(0, 0.2)))
    corrected_slot = None
    if (day + who.key // 99) % 3 == 1:
        corrected_slot = -((who.phase - clock(11.0)) // who.step)
    phantom_at = clock(2.3) if (day + who.key // 7) % 4 == 2 else None
    return DayPlan(
        midnight=midnight,
        bumps=tuple(bumps),
        meals=tuple(meals),
        pauses=tuple(pauses),
        scans=scans,
        fingersticks=fingersticks,
        alarms=tuple(sorted(alarms)),
        corrected_slot=corrected_slot,
        phantom_at=phantom_at,
        correction_bolus_at=clock(22.0) if rng.random() < 0.4 else None,
        rescue_carbs_at=rescue_carbs_at,
    )


def plans_between(who: Person, start: int, end: int) -> Iterator[DayPlan]:
    """Plans of all local days that can touch [start, end)."""
    for day in range(start // DAY - 1, (end - 1) // DAY + 2):
        yield plan(who, day)


@lru_cache(maxsize=32768)
def _bumps(who: Person, utc_day: int) -> tuple[Bump, ...]:
    start, end = utc_day * DAY, (utc_day + 1) * DAY
    return tuple(
        bump
        for one in plans_between(who, start, end)
        for bump in one.bumps
        if bump.start < end and bump.end > start
    )


@lru_cache(maxsize=32768)
def _pauses(who: Person, utc_day: int) -> tuple[Pause, ...]:
    start, end = utc_day * DAY, (utc_day + 1) * DAY
    return tuple(
        pause
        for one in plans_between(who, start, end)
        for pause in one.pauses
        if pause.start < end and pause.end > start
    )


def pauses_between(who: Person, start: int, end: int) -> list[Pause]:
    """Stretches without readings that touch [start, end), warm-ups of new sensors included."""
    found = {
        pause
        for day in range(start // DAY, (end - 1) // DAY + 1)
        for pause in _pauses(who, day)
        if pause.start < end and pause.end > start
    }
    activated = sensor_started_at(who, start)
    while activated < end:
        if activated + WARM_UP > start:
            found.add(Pause(activated, activated + WARM_UP, is_lost=True))
        activated += WEAR
    return sorted(found)


def _bell(at: int, amount: float, width: float) -> Bump:
    reach = int(3 * width)
    return Bump(at - reach, at + reach, at, amount, width, is_meal=False)


# What their sensors say


def glucose(who: Person, at: int) -> float:
    """Interstitial glucose in mg/dL as the sensor would measure it, without its limits."""
    value = 96.0 + who.key % 24 + 6.0 * math.sin(at / 2700.0 + who.key % 7)
    for bump in _bumps(who, at // DAY):
        if bump.start < at < bump.end:
            x = (at - bump.at) / bump.width
            value += bump.amount * (x * math.exp(1 - x) if bump.is_meal else math.exp(-x * x))
    return value + _mix(who.key, at) % 5 - 2


def measured(who: Person, at: int) -> tuple[int, OutOfRange | None]:
    """What the sensor reports: mg/dL and whether that number is only a limit."""
    low, high = who.limits
    value = round(glucose(who, at))
    if value < low:
        return (low - 1 if who.device == "dexcom" else low), "low"
    if value > high:
        return (high + 1 if who.device == "dexcom" else high), "high"
    return value, None


def change_per_minute(who: Person, at: int) -> float:
    """Change of glucose over the last 15 minutes, mg/dL per minute."""
    return (glucose(who, at) - glucose(who, at - 15 * MINUTE)) / 15


def readings(who: Person, start: int, end: int) -> list[Reading]:
    """Readings the sensor stores in [start, end), in order, whether or not they are out yet."""
    step, phase = who.step, who.phase
    jitters = who.device != "libre2"
    pauses = pauses_between(who, start, end)
    corrected = {
        one.corrected_slot
        for one in plans_between(who, start, end)
        if one.corrected_slot is not None
    }
    found = []
    for slot in range((start - phase) // step - 1, (end - phase) // step + 2):
        noise = _mix(who.key, slot)
        at = slot * step + phase + ((noise >> 8) % 3 - 1 if jitters else 0)
        if not start <= at < end:
            continue
        reading = _reading(who, at, noise, pauses, is_corrected=slot in corrected)
        if reading is not None:
            found.append(reading)
    if who.source == "nightscout" and who.uploader == "v3":
        found += _phantoms(who, start, end)
        found.sort()
    return found


def _reading(
    who: Person, at: int, noise: int, pauses: Iterable[Pause], *, is_corrected: bool
) -> Reading | None:
    is_upload = who.source == "nightscout"
    available_at = at + (4 + (noise >> 16) % 15 if is_upload else GRAPH_LAG)
    for pause in pauses:
        if pause.start <= at < pause.end:
            if pause.is_lost:
                return None
            available_at = max(available_at, pause.end + 5)
    if is_upload and (noise >> 24) % 211 == 0:
        return Reading(at, 5, None, available_at, is_error=True)
    value, out_of_range = measured(who, at)
    if not is_corrected or out_of_range:
        return Reading(at, value, out_of_range, available_at)
    # LibreLinkUp shows twelve hours, so a later correction would never be seen there.
    corrected_at = available_at + (DAY if is_upload else 2 * HOUR)
    return Reading(at, value, None, available_at, corrected_at, min(value + 17, who.limits[1]))


def _phantoms(who: Person, start: int, end: int) -> list[Reading]:
    """Readings uploaded by mistake and deleted an hour and a half later."""
    return [
        Reading(one.phantom_at, 47, None, one.phantom_at + 10, deleted_at=one.phantom_at + 5700)
        for one in plans_between(who, start, end)
        if one.phantom_at is not None and start <= one.phantom_at < end
    ]


def graph(who: Person, now: int) -> list[Reading]:
    """The readings LibreLinkUp's graph shows at `now`: twelve hours, about 17 minutes behind."""
    window = readings(who, now - GRAPH_WINDOW, now - GRAPH_LAG + 1)
    return [reading for reading in window if reading.available_at <= now]


def current(who: Person, now: int) -> int | None:
    """Instant of the newest one-minute reading known at `now`, at most a day old; else None."""
    second = who.phase % MINUTE
    at = now - (now - second) % MINUTE
    blocked = [
        pause
        for pause in pauses_between(who, now - DAY, now + 1)
        if pause.is_lost or pause.end > now
    ]
    for pause in sorted(blocked, reverse=True, key=lambda pause: pause.end):
        if pause.start <= at < pause.end:
            before = pause.start - 1
            at = before - (before - second) % MINUTE
    if at <= now - DAY or any(pause.start <= at < pause.end for pause in blocked):
        return None
    return at


def scans(who: Person, start: int, end: int) -> list[int]:
    """Instants in [start, end) at which the person scanned the sensor and got a value."""
    wanted = (at for one in plans_between(who, start, end) for at in one.scans if start <= at < end)
    return [at for at in wanted if not _is_silent(who, at)]


def alarms(who: Person, start: int, end: int) -> list[Alarm]:
    """Glucose alarms in [start, end): expected excursions that did cross their threshold."""
    wanted = (
        alarm
        for one in plans_between(who, start, end)
        for alarm in one.alarms
        if start <= alarm.at < end
    )
    return [alarm for alarm in wanted if not _is_silent(who, alarm.at) and _is_due(who, alarm)]


def _is_due(who: Person, alarm: Alarm) -> bool:
    value = measured(who, alarm.at)[0]
    return value > 250 if alarm.kind == 2 else value < (55 if alarm.kind == 0 else 70)


def _is_silent(who: Person, at: int) -> bool:
    return any(pause.start <= at < pause.end for pause in pauses_between(who, at, at + 1))


# What tests compare with


def truth(who: Person, start: datetime, end: datetime, now: datetime) -> set[tuple[datetime, int]]:
    """The stored CGM readings in [start, end) the source serves at `now`: (instant, mg/dL).

    Out-of-range readings count with the number the source shows; sensor error codes and deleted
    readings do not count. LibreLinkUp's one-minute current reading is not stored: see `polled`.
    """
    instant = epoch(now)
    oldest = instant - who.history_days * DAY
    if who.source != "nightscout":
        oldest = epoch(start)
    return {
        (moment(reading.at), reading.value(instant))
        for reading in readings(who, max(epoch(start), oldest), epoch(end))
        if is_served(reading, instant) and not reading.is_error
    }


def polled(who: Person, polls: Iterable[datetime]) -> dict[datetime, int]:
    """What somebody who asked for graph and connection at those instants knows: instant → mg/dL."""
    known: dict[datetime, int] = {}
    for poll in sorted(polls):
        now = epoch(poll)
        for reading in graph(who, now):
            known[moment(reading.at)] = reading.value(now)
        at = current(who, now)
        # A one-minute reading on a graph instant repeats the reading, before any correction.
        if at is not None:
            known.setdefault(moment(at), measured(who, at)[0])
    return known


def is_served(reading: Reading, now: int) -> bool:
    """Whether the source shows the reading at `now`."""
    if reading.available_at > now:
        return False
    return reading.deleted_at is None or now < reading.deleted_at


def epoch(instant: datetime) -> int:
    """Whole seconds since 1970 of an aware datetime."""
    if instant.tzinfo is None:
        raise ValueError("a datetime without a zone has no instant")
    return math.floor(instant.timestamp())


def moment(at: int) -> datetime:
    """The aware UTC datetime of an epoch second."""
    return datetime.fromtimestamp(at, UTC)


def wall_clock(who: Person, at: int) -> datetime:
    """The naive local time the person's phone shows."""
    return moment(at + offset_at(who, at)).replace(tzinfo=None)


def display(mg_dl: int, uom: int) -> float | int:
    """The number LibreLink shows in the person's unit: 0 mmol/L with one decimal, 1 mg/dL."""
    if uom == 1:
        return mg_dl
    shown = math.floor(mg_dl / DISPLAY_FACTOR * 10 + 0.5) / 10
    return int(shown) if shown.is_integer() else shown


# The file LibreView exports

_CSV_COLUMNS = (
    "Device",
    "Serial Number",
    "Device Timestamp",
    "Record Type",
    "Historic Glucose {unit}",
    "Scan Glucose {unit}",
    "Non-numeric Rapid-Acting Insulin",
    "Rapid-Acting Insulin (units)",
    "Non-numeric Food",
    "Carbohydrates (grams)",
    "Carbohydrates (servings)",
    "Non-numeric Long-Acting Insulin",
    "{long_acting}",
    "Notes",
    "Strip Glucose {unit}",
    "Ketone mmol/L",
    "Meal Insulin (units)",
    "Correction Insulin (units)",
    "User Change Insulin (units)",
)
_HISTORIC, _SCAN, _RAPID, _CARBS, _LONG, _NOTES, _STRIP, _KETONE = 4, 5, 7, 9, 12, 13, 14, 15


def libreview_csv(
    who: Person,
    start: datetime,
    end: datetime,
    unit: Literal["mg/dL", "mmol/L"] = "mmol/L",
    style: Literal["eu", "us"] = "eu",
) -> bytes:
    """A LibreView export of [start, end), generated at `end`: all record types, grouped by type.

    Times are the person's wall clock without zone or seconds, so an hour repeats or is missing when
    the clocks change.
    """
    first, last = epoch(start), epoch(end)
    uom = 1 if unit == "mg/dL" else 0
    rows: list[list[str]] = []

    def add(at: int, kind: int, *cells: tuple[int, object]) -> None:
        row = [""] * len(_CSV_COLUMNS)
        row[0] = "FreeStyle LibreLink"
        row[1] = who.device_id
        row[2] = _csv_time(wall_clock(who, at), style)
        row[3] = str(kind)
        for column, value in cells:
            row[column] = str(value)
        rows.append(row)

    for reading in readings(who, first, last):
        if is_served(reading, last):
            add(reading.at, 0, (_HISTORIC, display(reading.value(last), uom)))
    for at in scans(who, first, last):
        add(at, 1, (_SCAN, display(measured(who, at)[0], uom)))
    days = list(plans_between(who, first, last))
    for at in (at for one in days for at in one.fingersticks if first <= at < last):
        add(at, 2, (_STRIP, display(max(round(glucose(who, at)) + 4, 20), uom)))
    for at in (one.midnight + 9 * HOUR for one in days if one.midnight // DAY % 3 == 0):
        if first <= at < last:
            add(at, 3, (_KETONE, (1 + _mix(who.key, at) % 9) / 10))
    for one in days:
        for meal in one.meals:
            if first <= meal.at < last:
                add(meal.at, 4, (_RAPID, round(meal.insulin)))
        if first <= one.midnight + 22 * HOUR < last:
            add(one.midnight + 22 * HOUR, 4, (_LONG, 14))
    for meal in (meal for one in days for meal in one.meals if first <= meal.at < last):
        add(meal.at, 5, (_CARBS, meal.carbs))
    for one in days:
        if first <= one.midnight + 8 * HOUR < last:
            add(one.midnight + 8 * HOUR, 6)
        if one.midnight // DAY % 5 == 0 and first <= one.midnight + 18 * HOUR < last:
            add(one.midnight + 18 * HOUR, 6, (_NOTES, '"Walk, then tea"'))

    long_acting = (
        "Long-Acting Insulin Value (units)" if style == "eu" else "Long-Acting Insulin (units)"
    )
    header = ",".join(_CSV_COLUMNS).format(unit=unit, long_acting=long_acting)
    generated = _csv_time(moment(last).replace(tzinfo=None), style)
    title = f"Glucose Data,Generated on,{generated} UTC,Generated by,Sandbox {who.last_name}"
    lines = [title, header, *(",".join(row) for row in rows)]
    return ("\r\n".join(lines) + "\r\n").encode()


def csv_file_name(who: Person, day: date) -> str:
    """The name LibreView gives the download."""
    return f"Sandbox{who.last_name.replace(' ', '')}_glucose_{day.day}-{day.month}-{day.year}.csv"


def _csv_time(local: datetime, style: str) -> str:
    return local.strftime("%d-%m-%Y %H:%M" if style == "eu" else "%m-%d-%Y %I:%M %p")


def _uuid(number: int) -> str:
    return str(uuid.UUID(int=number, version=4))


def _digest(text: str, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), "big")


def _mix(key: int, number: int) -> int:
    """A well-spread 64-bit number of both, much cheaper than seeding a generator (splitmix64)."""
    x = (key + number * 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)

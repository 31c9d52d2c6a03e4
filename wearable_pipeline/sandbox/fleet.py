"""A LibreLinkUp with very many people, cheap enough to stand beside the pipeline on one machine.

The small sandbox models people; this one only speaks the wire: login, connections, graph and an empty
logbook for `users` synthetic accounts. Everybody has a reading every five minutes at a second of their
own (`phase_of`), so that a fleet is spread over the cycle like a real one. Answers are glued from
prepared bytes: some dozens of microseconds of CPU a request, whatever the number of users.

`GET /control/stats` tells requests by kind, logins and CPU seconds, `PUT /control/clock` stops
(`now`), moves (`advance`) or frees (`now` null) the clock, `PUT /control/limit` refuses what comes
faster than `per_second` with 429, `GET /control/arrivals` tells when requests came.
"""

import argparse
import hashlib
import random
import socket
import time
import uuid
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import uvicorn

from wearable_pipeline.registry import NewUser, Registry
from wearable_pipeline.sandbox._process import (
    LOOPBACK,
    ChildProcess,
    stop_with_parent,
    tell_port,
)
from wearable_pipeline.sandbox.control import Clock
from wearable_pipeline.sandbox.libre_linkup import factory_timestamp
from wearable_pipeline.sandbox.people import DEFAULT_SEED

STEP = 300
GRAPH_POINTS = 141
# Whole hours east of UTC; a person's is given by their phase.
OFFSETS = (0, 3600, 7200, -18000)
TICKET_SECONDS = 180 * 86_400
PROVIDER = "freestyle_libre"

_CURVE_POINTS = 2 * 86_400 // STEP
_CURVES = 8
_LOW, _HIGH = 40, 400
_NAMES = uuid.UUID("5ab1f1ee-7000-4000-8000-f1ee7f1ee7f1")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class FleetUser:
    """One synthetic account and everything that is known of it beforehand."""

    number: int
    seed: int = DEFAULT_SEED

    @property
    def user_id(self) -> str:
        """The id it is registered under; the same at every run."""
        return str(uuid.uuid5(_NAMES, f"user {self.seed} {self.number}"))

    @property
    def patient_id(self) -> str:
        """The person's id at the provider."""
        return f"f1ee7000-0000-4000-8000-{self.number:012d}"

    @property
    def email(self) -> str:
        """The follower account that logs in."""
        return f"fleet-{self.number}@sandbox.invalid"

    @property
    def password(self) -> str:
        """The account's password."""
        return f"fleet-password-{self.number}"

    @property
    def phase(self) -> int:
        """Second of the five minutes at which this person's readings are taken."""
        return phase_of(self.number, self.seed)

    def token(self, expires_at: int) -> str:
        """A bearer token good until `expires_at`."""
        return f"fleet.{self.number}.{expires_at}"

    def newest_reading(self, now: datetime) -> datetime:
        """When the newest reading the service shows at `now` was taken."""
        at = int(now.timestamp())
        return datetime.fromtimestamp(at - (at - self.phase) % STEP, UTC)


def phase_of(number: int, seed: int = DEFAULT_SEED) -> int:
    """Second of the five minutes at which readings of user `number` are taken."""
    return (number * 7919 + seed) % STEP


def register(
    registry: Registry,
    numbers: Iterable[int],
    *,
    now: datetime,
    seed: int = DEFAULT_SEED,
    is_logged_in: bool = True,
) -> list[str]:
    """Add those users to the registry, connected, encrypted and due; returns their ids.

    With `is_logged_in` they hold tokens that are good for months, else the first poll logs in.
    """
    expires_at = int((now + timedelta(seconds=TICKET_SECONDS)).timestamp())
    users = [FleetUser(number, seed) for number in numbers]
    registry.add_users(
        NewUser(
            user_id=user.user_id,
            provider=PROVIDER,
            config={"patient_id": user.patient_id},
            credentials={
                "email": user.email,
                "password": user.password,
                "region": "eu",
                **(
                    {
                        "token": user.token(expires_at),
                        "expires_at": expires_at,
                        "account_hash": hashlib.sha256(user.patient_id.encode()).hexdigest(),
                    }
                    if is_logged_in
                    else {}
                ),
            },
        )
        for user in users
    )
    return [user.user_id for user in users]


class _Login(msgspec.Struct):
    email: str
    password: str


class _Curves:
    """What readings look like: prepared bytes that every user's window is cut from."""

    def __init__(self, seed: int) -> None:
        shape = random.Random(seed)  # noqa: S311 (synthetic values)
        values = {value: _value(value) for value in range(_LOW, _HIGH + 1)}
        self._values: list[list[bytes]] = []
        for _ in range(_CURVES):
            level, speed = 110.0, 0.0
            curve: list[int] = []
            for _ in range(_CURVE_POINTS):
                speed = 0.8 * speed + shape.gauss(0, 3) - 0.02 * (level - 120)
                level = min(max(level + speed, _LOW), _HIGH)
                curve.append(int(level))
            # Twice round, so that a window across the seam is one slice.
            self._values.append([values[value] for value in curve * 2])
        self._times: dict[int, tuple[int, list[bytes]]] = {}

    def window(self, number: int, phase: int, last: int) -> list[bytes]:
        """Pieces of the graph's readings and the newest, slot `last`: time and value in turn."""
        start = (last - GRAPH_POINTS + number * 31) % _CURVE_POINTS
        pieces: list[bytes] = [b""] * (2 * GRAPH_POINTS + 2)
        pieces[0::2] = self._times_until(phase, last)
        pieces[1::2] = self._values[number % _CURVES][start : start + GRAPH_POINTS + 1]
        return pieces

    def _times_until(self, phase: int, last: int) -> list[bytes]:
        until, made = self._times.get(phase, (0, []))
        if until != last:
            kept = made if 0 < last - until <= GRAPH_POINTS else []
            first = last - GRAPH_POINTS if not kept else until + 1
            made = kept + [_times(phase, slot) for slot in range(first, last + 1)]
            made = made[-GRAPH_POINTS - 1 :]
            self._times[phase] = (last, made)
        return made


def _times(phase: int, slot: int) -> bytes:
    at = slot * STEP + phase
    local = at + OFFSETS[phase % len(OFFSETS)]
    return (
        f',{{"FactoryTimestamp":"{factory_timestamp(at)}","Timestamp":"{factory_timestamp(local)}",'
    ).encode()


def _value(value: int) -> bytes:
    color = 4 if value < 70 else 1 if value <= 180 else 2 if value <= 250 else 3
    return (
        f'"type":0,"ValueInMgPerDl":{value},"MeasurementColor":{color},"GlucoseUnits":1,'
        f'"Value":{value},"isHigh":false,"isLow":false}}'
    ).encode()


@dataclass(slots=True)
class _Fleet:
    """The application: raw ASGI, because a framework would cost more than the answers."""

    users: int
    seed: int
    clock: Clock
    curves: _Curves
    kinds: Counter[str] = field(default_factory=Counter)
    logins: Counter[int] = field(default_factory=Counter)
    arrivals: "array[float]" = field(default_factory=lambda: array("d"))
    per_second: float = 0.0
    _free_at: float = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        if path.startswith("/control/"):
            status, body = self._control(path, await _body_of(receive))
        else:
            status, body = await self._answer(path, scope, receive)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if status == 429:
            headers.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, path: str, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        now = time.time()
        self.arrivals.append(now)
        if self.per_second:
            if now < self._free_at:
                self.kinds["refused"] += 1
                return 429, b'{"message":"too many requests"}'
            self._free_at = max(self._free_at, now - 1) + 1 / self.per_second
        if path.endswith("/llu/auth/login"):
            self.kinds["login"] += 1
            return 200, self._log_in(await _body_of(receive))
        number = self._caller(scope)
        if number is None:
            self.kinds["unauthorized"] += 1
            return 401, b'{"message":"invalid or expired jwt"}'
        if path.endswith("/graph"):
            self.kinds["graph"] += 1
            if not path.endswith(f"/{FleetUser(number).patient_id}/graph"):
                return 200, _COULD_NOT_LOAD
            return 200, self._graph(number)
        if path.endswith("/logbook"):
            self.kinds["logbook"] += 1
            return 200, b'{"status":0,"data":[]}'
        if path.endswith("/llu/connections"):
            self.kinds["connections"] += 1
            return 200, b'{"status":0,"data":[%s]}' % self._connection(number, self._window(number))
        return 404, b"{}"

    def _log_in(self, body: bytes) -> bytes:
        asked = msgspec.json.decode(body, type=_Login)
        number = asked.email.removeprefix("fleet-").removesuffix("@sandbox.invalid")
        user = FleetUser(int(number) if number.isdigit() else -1, self.seed)
        if not 0 <= user.number < self.users or asked.password != user.password:
            return b'{"status":2,"error":{"message":"notAuthenticated"}}'
        self.logins[user.number] += 1
        expires_at = self.clock.now() + TICKET_SECONDS
        return msgspec.json.encode(
            {
                "status": 0,
                "data": {
                    "user": {"id": user.patient_id, "country": "DE"},
                    "authTicket": {
                        "token": user.token(expires_at),
                        "expires": expires_at,
                        "duration": TICKET_SECONDS * 1000,
                    },
                },
            }
        )

    def _caller(self, scope: Scope) -> int | None:
        for name, value in scope["headers"]:
            if name == b"authorization":
                kind, _, rest = value.partition(b"Bearer fleet.")[2].partition(b".")
                if not kind.isdigit() or not rest.isdigit() or int(rest) <= self.clock.now():
                    return None
                number = int(kind)
                return number if number < self.users else None
        return None

    def _window(self, number: int) -> list[bytes]:
        phase = phase_of(number, self.seed)
        return self.curves.window(number, phase, (self.clock.now() - phase) // STEP)

    def _connection(self, number: int, pieces: list[bytes]) -> bytes:
        newest = (pieces[-2] + pieces[-1])[1:-1].replace(b'"type":0', b'"type":1')
        return _CONNECTION % (FleetUser(number).patient_id.encode(), number, newest)

    def _graph(self, number: int) -> bytes:
        pieces = self._window(number)
        return b'{"status":0,"data":{"connection":%s,"activeSensors":[],"graphData":[%s]}}' % (
            self._connection(number, pieces),
            b"".join(pieces[:-2])[1:],
        )

    def _control(self, path: str, body: bytes) -> tuple[int, bytes]:
        asked = msgspec.json.decode(body, type=dict[str, Any]) if body else {}
        match path:
            case "/control/stats":
                told: object = {
                    "requests": self.kinds,
                    "logins": sum(self.logins.values()),
                    "most_logins_of_one_user": max(self.logins.values(), default=0),
                    "cpu_seconds": time.process_time(),
                }
                return 200, msgspec.json.encode(told)
            case "/control/arrivals":
                return 200, msgspec.json.encode(self.arrivals.tolist())
            case "/control/clock":
                if "advance" in asked:
                    self.clock.advance(float(asked["advance"]))
                else:
                    now = asked.get("now")
                    self.clock.set(None if now is None else datetime.fromisoformat(now))
                return 200, b"{}"
            case "/control/limit":
                self.per_second = float(asked["per_second"] or 0)
                return 200, b"{}"
        return 404, b"{}"


_COULD_NOT_LOAD = b'{"status":4,"error":{"message":"couldNotLoadPatient"}}'
_CONNECTION = (
    b'{"id":"fleet","patientId":"%s","country":"DE","status":2,"firstName":"Fleet","lastName":"",'
    b'"targetLow":70,"targetHigh":180,"uom":1,"sensor":{"deviceId":"","sn":"FLEET%06d",'
    b'"a":1700000000,"w":60,"pt":4,"s":false,"lj":false},"glucoseMeasurement":%s,"TrendArrow":3,"TrendMessage":null}}'
)


async def _body_of(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        part: bytes = message.get("body", b"")
        body += part
        if not message.get("more_body"):
            return body


class FleetProcess(ChildProcess):
    """A fleet in a child process on the loopback, port 0 a free one; stop it with `close`.

    The child stops by itself when this process is gone.
    """

    def __init__(
        self,
        users: int,
        seed: int = DEFAULT_SEED,
        now: datetime | None = None,
        port: int = 0,
    ) -> None:
        arguments = ["--users", str(users), "--port", str(port), "--seed", str(seed)]
        if now is not None:
            arguments += ["--now", now.isoformat()]
        self.users = users
        self.seed = seed
        super().__init__("wearable_pipeline.sandbox.fleet", *arguments, timeout=30)

    @property
    def libre_base_url(self) -> str:
        """What to set `WEARABLE_FREESTYLE_LIBRE_BASE_URL` to."""
        return f"{self.origin}/libre/{{region}}"

    def register(
        self,
        registry: Registry,
        numbers: Sequence[int] | None = None,
        *,
        now: datetime | None = None,
        is_logged_in: bool = True,
    ) -> list[str]:
        """Add these users (default: all) to the registry; returns their ids."""
        return register(
            registry,
            range(self.users) if numbers is None else numbers,
            now=now or datetime.now(UTC),
            seed=self.seed,
            is_logged_in=is_logged_in,
        )

    def stats(self) -> dict[str, Any]:
        """Requests by kind, logins and CPU seconds so far."""
        told: dict[str, Any] = self._client.get("/control/stats").raise_for_status().json()
        return told

    def cpu_seconds(self) -> float:
        """CPU the fleet has used so far."""
        return float(self.stats()["cpu_seconds"])

    def arrivals(self) -> list[float]:
        """Wall-clock seconds at which requests came, refused ones too."""
        told: list[float] = self._client.get("/control/arrivals").raise_for_status().json()
        return told

    def set_clock(self, now: datetime | None) -> None:
        """Stop the fleet's clock at that instant; None lets it run in real time."""
        self._put("/control/clock", {"now": None if now is None else now.isoformat()})

    def advance_clock(self, seconds: float) -> None:
        """Move the fleet's clock."""
        self._put("/control/clock", {"advance": seconds})

    def limit(self, per_second: float | None) -> None:
        """Refuse what comes faster with 429, a second's worth at once apart; None lets all pass."""
        self._put("/control/limit", {"per_second": per_second})

    def _put(self, path: str, body: object) -> None:
        self._client.put(path, json=body).raise_for_status()


def serve(app: Callable[[Scope, Receive, Send], Awaitable[None]], port: int) -> None:
    """Serve `app` on the loopback, tell the port on standard output, stop with the parent."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=120,
            lifespan="off",
            interface="asgi3",
            ws="none",
            date_header=False,
            server_header=False,
        )
    )

    stop_with_parent(server)
    with socket.create_server((LOOPBACK, port), backlog=2048) as listener:
        tell_port(listener.getsockname()[1])
        server.run(sockets=[listener])


def _main() -> None:
    parser = argparse.ArgumentParser(description="A LibreLinkUp with very many people")
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--now", type=datetime.fromisoformat)
    asked = parser.parse_args()
    clock = Clock()
    clock.set(asked.now)
    serve(_Fleet(asked.users, asked.seed, clock, _Curves(asked.seed)), asked.port)


if __name__ == "__main__":
    _main()

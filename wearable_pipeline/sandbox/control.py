"""What a test can turn in a running sandbox: its clock, faults on demand, counts of requests."""

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from wearable_pipeline.sandbox import people

FaultKind = Literal[
    "401",
    "429",
    "500",
    "timeout",
    "html",
    "truncated",
    "disconnect",
    "wrong_region",
    "slow",
    "garbage",
    "lockout",
    "redirect_loop",
    "maintenance",
]

Endpoint = Callable[[Request], Awaitable[Response]]
# Name of the person a request is about, or None when nobody can be named.
Identify = Callable[[Request], Awaitable[str | None]]
# The provider's own body for a fault, or None when it has none.
FaultAnswer = Callable[[Request, "Fault"], Awaitable[Response | None]]

_HTML = """<!DOCTYPE html>
<html lang="en-US"><head><title>Access denied | sandbox.invalid used Cloudflare to restrict access
</title></head><body><h1>Error 1015</h1><h2>You are being rate limited</h2></body></html>
"""


class Match(msgspec.Struct, kw_only=True, frozen=True):
    """Which requests a fault hits: a regex searched in the path, a name; absent means any."""

    path: str | None = None
    person: str | None = None


class Fault(msgspec.Struct, kw_only=True):
    """One fault on demand. `times` null keeps it until faults are cleared.

    The first `after` requests it is for pass unharmed.
    """

    fault: FaultKind
    match: Match = Match()
    times: int | None = 1
    after: int = 0
    retry_after: int | None = None
    delay: float | None = None
    status: int | None = None
    fired: int = 0

    def is_for(self, path: str, name: str | None) -> bool:
        """Whether it hits that request now."""
        if self.times is not None and self.fired >= self.times:
            return False
        if self.match.person is not None:
            wanted = self.match.person.partition("@")[0]
            if wanted != name:
                return False
        return self.match.path is None or re.search(self.match.path, path) is not None


class _ClockChange(msgspec.Struct):
    now: datetime | None = None
    advance: float = 0.0


@dataclass(slots=True)
class Clock:
    """The sandbox's clock: real time until it is set, then it stands still until moved."""

    frozen_at: float | None = None
    ahead: float = 0.0

    def now(self) -> int:
        """Epoch seconds."""
        return int(self.exact())

    def exact(self) -> float:
        """Epoch seconds with their fraction."""
        return self.frozen_at if self.frozen_at is not None else time.time() + self.ahead

    def instant(self) -> datetime:
        """The moment it shows, in UTC."""
        return datetime.fromtimestamp(self.exact(), UTC)

    def set(self, instant: datetime | None) -> None:
        """Stand still at that instant; None returns to real time."""
        self.frozen_at = None if instant is None else instant.timestamp()
        self.ahead = 0.0

    def advance(self, seconds: float) -> None:
        """Move by so many seconds."""
        if self.frozen_at is None:
            self.ahead += seconds
        else:
            self.frozen_at += seconds


@dataclass(slots=True)
class Sandbox:
    """State of one running sandbox."""

    seed: int = people.DEFAULT_SEED
    clock: Clock = field(default_factory=Clock)
    faults: list[Fault] = field(default_factory=list)
    paths: Counter[str] = field(default_factory=Counter)
    persons: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    failed_logins: dict[str, deque[int]] = field(default_factory=dict)
    locked_until: dict[str, int] = field(default_factory=dict)

    def take_fault(self, path: str, name: str | None) -> Fault | None:
        """The oldest fault that hits the request; it counts as fired."""
        for fault in self.faults:
            if fault.is_for(path, name):
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.fired += 1
                return fault
        return None

    def guard(
        self, endpoint: Endpoint, identify: Identify, answer: FaultAnswer | None = None
    ) -> Endpoint:
        """The endpoint with counting and faults in front of it."""

        async def guarded(request: Request) -> Response:
            path = request.url.path
            name = await identify(request)
            self.paths[path] += 1
            self.persons[name or "?"] += 1
            fault = self.take_fault(path, name)
            if fault is None:
                response = await endpoint(request)
            else:
                own = await answer(request, fault) if answer is not None else None
                response = own or await _spoil(request, endpoint, fault)
            self.statuses[str(response.status_code)] += 1
            return response

        return guarded

    def routes(self) -> list[Route]:
        """The control plane."""
        return [
            Route("/control/faults", self._add_fault, methods=["POST"]),
            Route("/control/faults", self._list_faults, methods=["GET"]),
            Route("/control/faults", self._clear_faults, methods=["DELETE"]),
            Route("/control/clock", self._change_clock, methods=["POST"]),
            Route("/control/clock", self._show_clock, methods=["GET"]),
            Route("/control/requests", self._show_requests, methods=["GET"]),
            Route("/control/requests", self._clear_requests, methods=["DELETE"]),
            Route("/control/people", self._list_people, methods=["GET"]),
        ]

    async def _add_fault(self, request: Request) -> Response:
        try:
            fault = msgspec.json.decode(await request.body(), type=Fault)
            re.compile(fault.match.path or "")
        except (msgspec.DecodeError, re.error) as error:
            return json_answer({"error": str(error)}, 400)
        self.faults.append(fault)
        return json_answer(fault, 201)

    async def _list_faults(self, _: Request) -> Response:
        return json_answer(self.faults)

    async def _clear_faults(self, _: Request) -> Response:
        self.faults.clear()
        return Response(status_code=204)

    async def _change_clock(self, request: Request) -> Response:
        body = await request.body()
        try:
            change = msgspec.json.decode(body, type=_ClockChange)
            names = msgspec.json.decode(body, type=dict[str, object]).keys()
        except msgspec.DecodeError as error:
            return json_answer({"error": str(error)}, 400)
        if "now" in names:
            if change.now is not None and change.now.tzinfo is None:
                return json_answer({"error": "now needs an offset"}, 400)
            self.clock.set(change.now)
        self.clock.advance(change.advance)
        return await self._show_clock(request)

    async def _show_clock(self, _: Request) -> Response:
        return json_answer({"now": self.clock.instant().isoformat()})

    async def _show_requests(self, _: Request) -> Response:
        return json_answer(
            {
                "total": self.paths.total(),
                "paths": self.paths,
                "persons": self.persons,
                "statuses": self.statuses,
            }
        )

    async def _clear_requests(self, _: Request) -> Response:
        for counts in (self.paths, self.persons, self.statuses):
            counts.clear()
        return Response(status_code=204)

    async def _list_people(self, request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        return json_answer([_describe(who, base) for who in people.cast(self.seed)])


class _Disconnect(Response):
    """Announces a whole body, sends half of it and drops the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})


def json_answer(
    content: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON answer, encoded fast enough for thousands of people."""
    return Response(
        msgspec.json.encode(content), status, headers, media_type="application/json; charset=utf-8"
    )


async def _spoil(request: Request, endpoint: Endpoint, fault: Fault) -> Response:
    match fault.fault:
        case "401":
            return json_answer({"message": "invalid or expired jwt"}, 401)
        case "429":
            wait = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
            return json_answer({"message": "Too Many Requests"}, 429, wait)
        case "500":
            return Response("Internal Server Error", fault.status or 500, media_type="text/plain")
        case "html":
            wait = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
            return Response(_HTML, fault.status or 200, wait, media_type="text/html")
        case "garbage":
            noise = b"".join(
                (people.DEFAULT_SEED * 7919 + i * 104729).to_bytes(4, "big") for i in range(64)
            )
            return Response(b"\xff\x00{" + noise, media_type="application/json")
        case "redirect_loop":
            return RedirectResponse(str(request.url), 302)
        case "timeout":
            with suppress(TimeoutError):
                async with asyncio.timeout(3600.0 if fault.delay is None else fault.delay):
                    await _wait_for_hang_up(request)
            return Response("Gateway Timeout", 504, media_type="text/plain")
        case "slow":
            await asyncio.sleep(2.0 if fault.delay is None else fault.delay)
            return await endpoint(request)
        case "truncated":
            whole = await endpoint(request)
            body = bytes(whole.body)
            return Response(
                body[: len(body) // 2], whole.status_code, media_type="application/json"
            )
        case "disconnect":
            whole = await endpoint(request)
            return _Disconnect(bytes(whole.body), whole.status_code, media_type="application/json")
        case "wrong_region" | "lockout" | "maintenance":
            return json_answer({"message": "Service Unavailable"}, 503)


async def _wait_for_hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _describe(who: people.Person, base: str) -> dict[str, object]:
    told: dict[str, object] = {
        "name": who.name,
        "provider": who.source,
        "device": who.device,
        "zone": who.zone,
        "away_zone": who.away_zone,
        "unit": "mg/dL" if who.uom == 1 else "mmol/L",
    }
    if who.source == "freestyle_libre":
        told |= {
            "base_url": f"{base}/libre/{{region}}",
            "email": who.email,
            "password": who.password,
            "region": who.region,
            "patient_id": who.patient_id,
        }
    elif who.source == "nightscout":
        told |= {
            "url": f"{base}/nightscout/{who.name}",
            "api_secret": who.api_secret,
            "token": who.access_token,
            "uploader": who.uploader,
        }
    else:
        told |= {"csv_url": f"{base}/libreview/{who.name}.csv"}
    return told

"""The sandbox as a server: the application, a way to run it, a child process for tests."""

import argparse
import socket
from collections.abc import Mapping
from datetime import datetime

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wearable_pipeline.sandbox import (
    cardiomood,
    dexcom,
    dexcom_share,
    garmin,
    google_health,
    keto_mojo,
    libre_linkup,
    nightscout,
    oura,
    people,
    polar,
    strava,
    tidepool,
    whoop,
    withings,
)
from wearable_pipeline.sandbox._process import (
    LOOPBACK,
    ChildProcess,
    stop_with_parent,
    tell_port,
)
from wearable_pipeline.sandbox.control import Clock, Sandbox

CSV_DAYS = 28


def create_app(seed: int = people.DEFAULT_SEED, now: datetime | None = None) -> Starlette:
    """The application; with `now` its clock stands still at that instant until moved."""
    clock = Clock()
    clock.set(now)
    sandbox = Sandbox(seed=seed, clock=clock)

    async def export_csv(request: Request) -> Response:
        try:
            who = people.person(request.path_params["person"], seed)
        except KeyError:
            return Response("no such person", 404, media_type="text/plain")
        is_us = request.query_params.get("style") == "us"
        end = people.moment(clock.now())
        body = people.libreview_csv(
            who,
            people.moment(clock.now() - CSV_DAYS * people.DAY),
            end,
            unit="mg/dL" if is_us or who.uom == 1 else "mmol/L",
            style="us" if is_us else "eu",
        )
        name = people.csv_file_name(who, end.date())
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(body, 200, headers, media_type="text/csv")

    async def identify(request: Request) -> str | None:
        return str(request.path_params["person"])

    return Starlette(
        routes=[
            *sandbox.routes(),
            cardiomood.mount(sandbox),
            dexcom.mount(sandbox),
            dexcom_share.mount(sandbox),
            keto_mojo.mount(sandbox),
            garmin.mount(sandbox),
            google_health.mount(sandbox),
            libre_linkup.mount(sandbox),
            nightscout.mount(sandbox),
            oura.mount(sandbox),
            polar.mount(sandbox),
            strava.mount(sandbox),
            whoop.mount(sandbox),
            withings.mount(sandbox),
            tidepool.mount(sandbox),
            Route("/libreview/{person}.csv", sandbox.guard(export_csv, identify)),
        ]
    )


def run(
    host: str = LOOPBACK,
    port: int = 8099,
    seed: int = people.DEFAULT_SEED,
    now: datetime | None = None,
) -> None:
    """Serve until interrupted."""
    with socket.create_server((host, port)) as listener:
        _server(seed, now).run(sockets=[listener])


class SandboxProcess(ChildProcess):
    """A sandbox in a child process on the loopback, port 0 a free one; stop it with `close`.

    The child stops by itself when this process is gone.
    """

    def __init__(
        self, seed: int = people.DEFAULT_SEED, now: datetime | None = None, port: int = 0
    ) -> None:
        arguments = ["--child", "--port", str(port), "--seed", str(seed)]
        if now is not None:
            arguments += ["--now", now.isoformat()]
        super().__init__("wearable_pipeline.sandbox.server", *arguments)
        self.url = self.origin

    @property
    def libre_base_url(self) -> str:
        """What to set `WEARABLE_FREESTYLE_LIBRE_BASE_URL` to."""
        return f"{self.url}/libre/{{region}}"

    def nightscout_url(self, name: str) -> str:
        """Base URL of a person's Nightscout site."""
        return f"{self.url}/nightscout/{name}"

    def change_grant(self, provider: str, person: str, action: str) -> None:
        """`expire` or `revoke` what the person granted at an OAuth provider."""
        self._post(f"/{provider}/control/grants", {"person": person, "action": action})

    def set_endpoint(self, provider: str, url: str, mode: str = "push") -> None:
        """Where a provider that posts its data posts them: whole (`push`) or as links (`ping`)."""
        self._post(f"/{provider}/control/endpoint", {"url": url, "mode": mode})

    def deliver(self, provider: str) -> None:
        """Let a provider that posts its data post what is due."""
        self._post(f"/{provider}/control/deliver", {})

    def fault(
        self,
        kind: str,
        *,
        path: str | None = None,
        person: str | None = None,
        times: int | None = 1,
        after: int = 0,
        retry_after: int | None = None,
        delay: float | None = None,
        status: int | None = None,
    ) -> None:
        """Make `times` matching requests fail that way (None: until cleared), the first `after` pass."""
        self._post(
            "/control/faults",
            {
                "fault": kind,
                "match": {"path": path, "person": person},
                "times": times,
                "after": after,
                "retry_after": retry_after,
                "delay": delay,
                "status": status,
            },
        )

    def clear_faults(self) -> None:
        """Forget all faults."""
        self._client.delete("/control/faults").raise_for_status()

    def set_clock(self, now: datetime | None) -> None:
        """Stop the sandbox's clock at that instant; None lets it run in real time."""
        self._post("/control/clock", {"now": None if now is None else now.isoformat()})

    def advance_clock(self, seconds: float) -> None:
        """Move the sandbox's clock."""
        self._post("/control/clock", {"advance": seconds})

    def requests(self) -> dict[str, int]:
        """How often each path was asked for."""
        answer = self._client.get("/control/requests").raise_for_status()
        paths: dict[str, int] = answer.json()["paths"]
        return paths

    def clear_requests(self) -> None:
        """Count from zero."""
        self._client.delete("/control/requests").raise_for_status()

    def people(self) -> list[dict[str, object]]:
        """The default cast with what is needed to connect each."""
        told: list[dict[str, object]] = (
            self._client.get("/control/people").raise_for_status().json()
        )
        return told

    def _post(self, path: str, body: Mapping[str, object]) -> None:
        self._client.post(path, json=dict(body)).raise_for_status()


class _AnnouncingServer(uvicorn.Server):
    """Writes its port to standard output once it accepts connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets:
            tell_port(sockets[0].getsockname()[1])


def _server(
    seed: int, now: datetime | None, kind: type[uvicorn.Server] = uvicorn.Server
) -> uvicorn.Server:
    config = uvicorn.Config(
        create_app(seed, now),
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=1,
        lifespan="off",
    )
    return kind(config)


def _run_child(port: int, seed: int, now: datetime | None) -> None:
    server = _server(seed, now, _AnnouncingServer)

    stop_with_parent(server)
    with socket.create_server((LOOPBACK, port)) as listener:
        server.run(sockets=[listener])


def _main() -> None:
    parser = argparse.ArgumentParser(description="Providers with synthetic people")
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--seed", type=int, default=people.DEFAULT_SEED)
    parser.add_argument("--now", type=datetime.fromisoformat)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        _run_child(asked.port, asked.seed, asked.now)
    else:
        run(asked.host, asked.port, asked.seed, asked.now)


if __name__ == "__main__":
    _main()

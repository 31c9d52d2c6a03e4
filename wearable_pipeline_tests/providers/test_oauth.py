"""Tokens: renewed once, stored before use, lost never by our doing, given up only on the provider's word."""

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, parse_qsl, urlsplit

import aiohttp
import httpx
import pytest

from wearable_pipeline.errors import (
    NotConnectedError,
    PermanentError,
    PipelineError,
    RateLimitedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.providers._contract import (
    Client,
    Identity,
    OAuth,
    Provider,
    Refusal,
    TokenRequest,
)
from wearable_pipeline.providers._oauth import (
    REST,
    App,
    LetIn,
    app_of,
    authorization_address,
    exchange_code,
    revoke,
)
from wearable_pipeline.raw.client import HttpClient
from wearable_pipeline.settings import ProviderSettings
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.conftest import WrittenDown

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
USER = "11111111-1111-4111-8111-111111111111"


async def _identify(client: Client, granted: Mapping[str, object]) -> Identity:
    raise AssertionError("not asked for here")


OAUTH = OAuth(
    authorize_url="https://auth.example/oauth/authorize?audience=x",
    token_url="https://auth.example/oauth/token",
    revoke_url="https://auth.example/oauth/revoke",
    api_url="https://api.example",
    identify=_identify,
    scopes=("one", "two"),
)
PROVIDER = Provider(
    name="example",
    title="Example",
    client_name="EXAMPLE",
    summary="",
    docs_url="",
    resources=(),
    oauth=OAUTH,
)
SETTINGS = ProviderSettings(client_id="app", client_secret="s3cret/+")


def app(oauth: OAuth = OAUTH) -> App:
    return app_of(replace(PROVIDER, oauth=oauth), SETTINGS)


class Store:
    """Credentials, leases and statuses in memory, with a list of what was done in which order."""

    def __init__(self, done: list[str], **credentials: object) -> None:
        self.done = done
        self.credentials: dict[str, object] = {
            "access_token": "a1",
            "refresh_token": "r1",
            "expires_at": (NOW + timedelta(hours=1)).timestamp(),
            **credentials,
        }
        self.leases: dict[str, str] = {}
        self.status: tuple[str, str | None] | None = None

    def load_credentials(self, user_id: str) -> dict[str, object]:
        return dict(self.credentials)

    def save_credentials(self, user_id: str, values: Mapping[str, object]) -> None:
        self.done.append(f"save {values['access_token']}")
        self.credentials = dict(values)

    def lease(self, name: str, owner: str, ttl: timedelta) -> bool:
        return self.leases.setdefault(name, owner) == owner

    def release_lease(self, name: str, owner: str) -> bool:
        return self.leases.pop(name, None) == owner

    def set_status(self, user_id: str, status: str, reason: str | None = None) -> None:
        self.status = (status, reason)


class Service:
    """A provider on paper: an API that wants the current access token, and a token endpoint."""

    def __init__(self, done: list[str] | None = None) -> None:
        self.done: list[str] = [] if done is None else done
        self.good = "a1"
        self.refresh = "r1"
        self.late: set[str] = set()
        self.number = 1
        self.token_answers: list[httpx.Response | Exception] = []
        self.forms: list[dict[str, str]] = []
        self.loses_answer = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "auth.example":
            return self.token(request)
        value = request.headers["authorization"].removeprefix("Bearer ")
        self.done.append(f"ask {request.url.path} {value}")
        if value != self.good:
            return httpx.Response(401, json={"detail": "expired"})
        return httpx.Response(200, json={"path": request.url.path})

    def token(self, request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl(request.content.decode()))
        self.forms.append(form)
        self.done.append(f"renew with {form.get('refresh_token')}")
        if self.token_answers:
            planned = self.token_answers.pop(0)
            if isinstance(planned, Exception):
                raise planned
            return planned
        if form["refresh_token"] not in {self.refresh, *self.late}:
            return httpx.Response(400, json={"error": "invalid_grant"})
        self.number += 1
        self.good, self.refresh = f"a{self.number}", f"r{self.number}"
        if self.loses_answer:
            self.loses_answer = False
            raise aiohttp.ServerDisconnectedError
        answer = {"access_token": self.good, "refresh_token": self.refresh, "expires_in": 3600}
        return httpx.Response(200, json=answer)


def http(service: Callable[[httpx.Request], httpx.Response]) -> HttpClient:
    return HttpClient(
        "example",
        max_concurrency=16,
        requests_per_second=1e6,
        now=lambda: NOW,
        transport=WrittenDown(service),
        attempts=1,
    )


async def _no_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


def let_in(
    client: Client, store: object, provider: Provider = PROVIDER, now: datetime = NOW
) -> LetIn:
    return LetIn(
        client,
        provider,
        app_of(provider, SETTINGS),
        store,  # type: ignore[arg-type]
        USER,
        lambda: now,
        _no_sleep,
    )


def ask(
    service: Service, store: Store, *paths: str, provider: Provider = PROVIDER, now: datetime = NOW
) -> list[int]:
    async def run() -> list[int]:
        async with http(service) as client:
            asked = let_in(client, store, provider, now)
            answers = await asyncio.gather(*(asked.request("GET", path) for path in paths))
            return [answer.status for answer in answers]

    return asyncio.run(run())


def expired_service(done: list[str] | None = None) -> Service:
    """The access token the store holds is refused; its refresh token is good."""
    service = Service(done)
    service.good = "something else"
    return service


def test_a_page_met_by_an_expired_token_is_asked_for_again_once_with_a_new_one() -> None:
    service = expired_service()
    store = Store(service.done)
    assert ask(service, store, "/v1/sleep") == [200]
    # Noted as sent; renewed; stored; only then used.
    assert service.done == [
        "ask /v1/sleep a1",
        "save a1",
        "renew with r1",
        "save a2",
        "ask /v1/sleep a2",
    ]
    assert store.credentials["refresh_token"] == "r2"
    assert store.credentials["expires_at"] == (NOW + timedelta(hours=1)).timestamp()
    assert "sent" not in store.credentials
    assert store.leases == {}


def test_many_requests_at_once_renew_once() -> None:
    service = expired_service()
    store = Store(service.done)
    assert ask(service, store, *(f"/{n}" for n in range(16))) == [200] * 16
    assert len(service.forms) == 1


def test_a_token_about_to_end_is_renewed_before_it_is_used() -> None:
    service = Service()
    store = Store(service.done, expires_at=(NOW + timedelta(seconds=59)).timestamp())
    assert ask(service, store, "/x") == [200]
    assert [line for line in service.done if line.startswith("ask")] == ["ask /x a2"]


def test_two_processes_renew_once_between_them(workspace: Workspace) -> None:
    user = workspace.registry.add_user(
        "example", credentials={"access_token": "a1", "refresh_token": "r1"}
    )
    service = expired_service()
    slow = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "auth.example":
            # Whoever else is coming has time to come.
            slow.wait(0.3)
        return service(request)

    statuses: list[int] = []

    def process() -> None:
        # A loop of its own: no lock inside a process reaches across.
        async def run() -> None:
            async with http(answer) as client:
                asked = LetIn(
                    client, PROVIDER, app(), workspace.registry, user.user_id, lambda: NOW
                )
                statuses.append((await asked.request("GET", "/x")).status)

        asyncio.run(run())

    threads = [threading.Thread(target=process) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4
    assert len(service.forms) == 1
    assert workspace.registry.load_credentials(user.user_id)["refresh_token"] == "r2"


def test_a_lost_answer_is_asked_for_again_with_the_same_token() -> None:
    service = expired_service()
    service.loses_answer = True
    service.late = {"r1"}
    store = Store(service.done)
    with pytest.raises(TransientError):
        ask(service, store, "/x")
    assert store.status is None
    store.leases.clear()
    assert ask(service, store, "/x") == [200]
    assert [form["refresh_token"] for form in service.forms] == ["r1", "r1"]
    assert store.credentials["refresh_token"] == "r3"


def test_a_lost_answer_of_a_strict_provider_needs_a_new_login_and_is_not_called_revoked() -> None:
    service = expired_service()
    service.loses_answer = True
    store = Store(service.done)
    with pytest.raises(TransientError):
        ask(service, store, "/x")
    store.leases.clear()
    with pytest.raises(NotConnectedError):
        ask(service, store, "/x")
    assert store.status == ("needs_reauth", "the answer with the next token was lost")


def test_invalid_grant_ends_the_connection_as_revoked() -> None:
    service = expired_service()
    service.refresh = "another"
    store = Store(service.done)
    with pytest.raises(NotConnectedError, match="permission was taken back"):
        ask(service, store, "/x")
    assert store.status == ("revoked", "access_revoked: the permission was taken back")


def test_invalid_grant_for_a_token_no_longer_stored_ends_nothing() -> None:
    service = expired_service()
    store = Store(service.done)

    def replaced_meanwhile(request: httpx.Request) -> httpx.Response:
        if request.url.host == "auth.example":
            # The person has just connected again.
            store.credentials = {"access_token": "b1", "refresh_token": "q1"}
            service.good = "b1"
            return httpx.Response(400, json={"error": "invalid_grant"})
        return service(request)

    async def run() -> int:
        async with http(replaced_meanwhile) as client:
            return (await let_in(client, store).request("GET", "/x")).status

    assert asyncio.run(run()) == 200
    assert store.status is None


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(503, text="busy"),
        httpx.Response(200, html="<html>maintenance</html>"),
        httpx.Response(400, html="<html>blocked</html>"),
        httpx.Response(401, html="<html>login</html>"),
        httpx.Response(200, json=["no object"]),
        httpx.Response(200, json={}),
        httpx.Response(400, json={"error": "server_error"}),
        httpx.Response(429, json={"error": "slow down"}),
        TimeoutError("late"),
        aiohttp.ClientConnectionError("down"),
    ],
)
def test_trouble_at_the_token_endpoint_ends_no_connection_and_is_left_alone_for_a_while(
    trouble: httpx.Response | Exception,
) -> None:
    service = expired_service()
    service.token_answers = [trouble]
    store = Store(service.done)
    with pytest.raises(TransientError):
        ask(service, store, *(f"/{n}" for n in range(8)))
    assert store.status is None
    assert store.credentials["refresh_token"] == "r1"
    # One try for eight requests, and none by whoever comes within the next seconds.
    assert len(service.forms) == 1
    with pytest.raises(TransientError):
        ask(service, store, "/x")
    assert len(service.forms) == 1


def test_after_the_rest_the_next_one_tries_again(
    workspace: Workspace, clock: StandingClock
) -> None:
    user = workspace.registry.add_user(
        "example", credentials={"access_token": "a1", "refresh_token": "r1"}
    )
    service = expired_service()
    service.token_answers = [httpx.Response(503)]

    def status() -> int:
        async def run() -> int:
            async with http(service) as client:
                asked = LetIn(
                    client,
                    PROVIDER,
                    app(),
                    workspace.registry,
                    user.user_id,
                    lambda: NOW,
                    _no_sleep,
                )
                return (await asked.request("GET", "/x")).status

        return asyncio.run(run())

    with pytest.raises(TransientError):
        status()
    with pytest.raises(TransientError, match="another process"):
        status()
    clock.advance(seconds=REST.total_seconds() + 1)
    assert status() == 200


def test_a_token_with_a_moment_left_is_used_when_it_cannot_be_renewed() -> None:
    service = Service()
    service.token_answers = [httpx.Response(503)]
    store = Store(service.done, expires_at=(NOW + timedelta(seconds=30)).timestamp())
    assert ask(service, store, "/x") == [200]
    assert service.done[-1] == "ask /x a1"


def test_without_refresh_tokens_a_refused_token_needs_a_new_login() -> None:
    provider = replace(PROVIDER, oauth=replace(OAUTH, refreshes=False))
    service = expired_service()
    store = Store(service.done)
    with pytest.raises(NotConnectedError):
        ask(service, store, "/x", provider=provider)
    assert store.status == ("needs_reauth", "the access token has ended")
    assert service.forms == []


def test_a_fresh_token_that_is_refused_does_not_end_the_connection() -> None:
    service = Service()
    store = Store(service.done)

    def never_content(request: httpx.Request) -> httpx.Response:
        if request.url.host == "auth.example":
            return service(request)
        return httpx.Response(401)

    async def run() -> None:
        async with http(never_content) as client:
            await let_in(client, store).request("GET", "/x")

    with pytest.raises(TransientError, match="just renewed"):
        asyncio.run(run())
    assert store.status is None
    assert len(service.forms) == 1


def test_an_app_the_provider_does_not_know_is_told_by_its_settings() -> None:
    service = expired_service()
    service.token_answers = [httpx.Response(401, json={"error": "invalid_client"})]
    with pytest.raises(PermanentError, match="WEARABLE_EXAMPLE_CLIENT_ID"):
        ask(service, Store(service.done), "/x")
    with pytest.raises(UsageError, match="WEARABLE_EXAMPLE_CLIENT_SECRET"):
        app_of(PROVIDER, ProviderSettings(client_id="app"))


@pytest.mark.parametrize(
    ("meaning", "error"),
    [
        ("transient", TransientError),
        ("rate_limited", RateLimitedError),
        ("permanent", PermanentError),
        ("not_connected", NotConnectedError),
        ("absent", None),
    ],
)
def test_the_error_table_decides(meaning: str, error: type[PipelineError] | None) -> None:
    provider = replace(
        PROVIDER,
        refusals=(
            Refusal(403, "permanent", "something else", containing=b"quota"),
            Refusal(403, meaning, "no scope"),  # type: ignore[arg-type]
        ),
    )

    async def run() -> int:
        async with http(lambda _: httpx.Response(403, text="insufficient")) as client:
            return (await let_in(client, Store([]), provider).request("GET", "/x")).status

    if error is None:
        assert asyncio.run(run()) == 403
        return
    with pytest.raises(error, match="no scope"):
        asyncio.run(run())


def test_a_403_nobody_explained_is_no_reason_to_end_a_connection() -> None:
    store = Store([])

    async def run() -> None:
        async with http(lambda _: httpx.Response(403)) as client:
            await let_in(client, store).request("GET", "/x")

    with pytest.raises(PermanentError, match="refused") as caught:
        asyncio.run(run())
    assert not isinstance(caught.value, NotConnectedError)
    assert store.status is None


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/next",
        "https://api.example.evil.example/next",
        "https://api.example@evil.example/next",
        "//evil.example/next",
        "next",
        "",
    ],
)
def test_a_token_follows_no_link_to_elsewhere(url: str) -> None:
    service = Service()
    with pytest.raises(PermanentError, match="outside"):
        ask(service, Store([]), url)
    assert service.done == []


def test_a_link_the_provider_wrote_is_followed() -> None:
    assert ask(Service(), Store([]), "https://api.example/v1/next?page=2", "/v1/first") == [
        200,
        200,
    ]


def test_the_address_carries_state_scopes_and_a_challenge_made_from_the_verifier() -> None:
    address = authorization_address(app(), "https://us.example/back", "st4te", "v" * 43)
    assert address.startswith("https://auth.example/oauth/authorize?audience=x&")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    digest = hashlib.sha256(b"v" * 43).digest()
    assert asked == {
        "audience": "x",
        "response_type": "code",
        "client_id": "app",
        "redirect_uri": "https://us.example/back",
        "scope": "one two",
        "state": "st4te",
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }


def exchange(oauth: OAuth, answer: httpx.Response) -> tuple[dict[str, object], httpx.Request]:
    seen: list[httpx.Request] = []

    def service(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answer

    async def run() -> dict[str, object]:
        async with http(service) as client:
            return await exchange_code(client, app(oauth), "c0de", "https://us/back", "v3r", NOW)

    return asyncio.run(run()), seen[0]


def test_a_code_is_exchanged_with_the_app_in_the_body_or_in_the_header() -> None:
    answer = {"access_token": "a", "refresh_token": "r", "expires_in": "86400", "user_id": 7}
    found, request = exchange(OAUTH, httpx.Response(200, json=answer))
    assert found == {
        "access_token": "a",
        "refresh_token": "r",
        "expires_at": (NOW + timedelta(days=1)).timestamp(),
        "granted": {"expires_in": "86400", "user_id": 7},
    }
    assert dict(parse_qsl(request.content.decode())) == {
        "grant_type": "authorization_code",
        "code": "c0de",
        "redirect_uri": "https://us/back",
        "code_verifier": "v3r",
        "client_id": "app",
        "client_secret": "s3cret/+",
    }
    basic = replace(OAUTH, client_auth="basic", pkce=False)
    _, request = exchange(basic, httpx.Response(200, json=answer))
    form = dict(parse_qsl(request.content.decode()))
    assert "client_secret" not in form
    assert "code_verifier" not in form
    assert request.headers["authorization"].startswith("Basic ")


def test_a_refused_code_says_start_again_and_quotes_nothing_long() -> None:
    refused = httpx.Response(400, json={"error": "invalid_grant"})
    with pytest.raises(NotConnectedError, match="invalid_grant"):
        exchange(OAUTH, refused)
    quoting = httpx.Response(400, json={"error": "the code c0de of ada@example.org"})
    with pytest.raises(NotConnectedError, match="no reason given"):
        exchange(OAUTH, quoting)


def test_an_envelope_and_an_extra_parameter_can_be_said() -> None:
    def with_action(request: TokenRequest) -> TokenRequest:
        return replace(request, form={**request.form, "action": "requesttoken"})

    def unwrap(body: Mapping[str, object]) -> Mapping[str, object]:
        if body.get("status") != 0:
            return {"error": "invalid_grant" if body.get("status") == 401 else "server_error"}
        inner = body["body"]
        assert isinstance(inner, dict)
        return inner

    oauth = replace(OAUTH, prepare_request=with_action, read_answer=unwrap)
    inner = {"access_token": "a", "userid": "12"}
    found, request = exchange(oauth, httpx.Response(200, json={"status": 0, "body": inner}))
    assert found["granted"] == {"userid": "12"}
    assert dict(parse_qsl(request.content.decode()))["action"] == "requesttoken"
    with pytest.raises(NotConnectedError):
        exchange(oauth, httpx.Response(200, json={"status": 401, "error": "any"}))


def test_tokens_that_live_as_long_as_the_provider_says_elsewhere() -> None:
    lifetime = timedelta(hours=24)
    found, _ = exchange(
        replace(OAUTH, lifetime=lifetime), httpx.Response(200, json={"access_token": "a"})
    )
    assert found["expires_at"] == (NOW + lifetime).timestamp()


def test_giving_back_names_the_refresh_token() -> None:
    seen: list[httpx.Request] = []

    def service(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    async def run() -> None:
        async with http(service) as client:
            await revoke(client, app(), {"access_token": "a", "refresh_token": "r"}, NOW)

    asyncio.run(run())
    form = dict(parse_qsl(seen[0].content.decode()))
    assert str(seen[0].url) == "https://auth.example/oauth/revoke"
    assert (form["token"], form["client_id"]) == ("r", "app")


def test_nothing_secret_is_shown_by_what_holds_it() -> None:
    shown = repr(app()) + repr(app().push_secrets) + json.dumps(repr(SETTINGS))
    assert "s3cret" not in shown

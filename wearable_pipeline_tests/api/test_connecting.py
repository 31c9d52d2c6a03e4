"""A browser on its way to a provider and back, with everything a hostile one might try."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from wearable_pipeline.connect import (
    begin_connecting,
    connect,
    disconnect,
    is_allowed,
)
from wearable_pipeline.errors import UsageError
from wearable_pipeline.providers import get_provider
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.oauth_cast import (
    Served,
    browse,
    connected,
    fetch,
    served,
    state_of,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BACK = "https://app.example/done"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess(now=NOW) as running:
        yield running


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock(NOW)


@pytest.fixture
def there(tmp_path: Path, sandbox: SandboxProcess, clock: StandingClock) -> Iterator[Served]:
    sandbox.clear_faults()
    with served(tmp_path / "home", sandbox, clock, connect_redirects=(BACK,)) as found:
        yield found


def get(there: Served, path: str, **parameters: str) -> httpx.Response:
    return httpx.get(f"{there.url}{path}", params=parameters, trust_env=False)


def consent_of(there: Served, **parameters: str) -> str:
    start = get(there, "/connect/oura", **parameters)
    assert start.status_code == 302, start.text
    return start.headers["location"]


def come_back(there: Served, address: str, person: str = "gus") -> httpx.Response:
    consent = httpx.get(f"{address}&person={person}", trust_env=False)
    return httpx.get(consent.headers["location"], trust_env=False)


def users(there: Served) -> list[str]:
    return [user.user_id for user in there.workspace.registry.find_users()]


def test_a_person_who_says_yes_is_a_user_bound_to_the_reference_id_and_due(there: Served) -> None:
    user = connected(there, "oura", "gus")
    assert user.reference_id == "gus"
    assert user.status == "connected"
    assert user.user_id in [
        one.user_id for one in there.workspace.registry.due_users(NOW, ["oura"])
    ]
    stored = there.workspace.registry.load_credentials(user.user_id)
    assert {"access_token", "refresh_token", "expires_at"} <= stored.keys()
    assert fetch(there.workspace, user).failures == {}


def test_the_same_account_again_is_the_same_user_and_another_person_another(there: Served) -> None:
    first = connected(there, "oura", "gus")
    assert connected(there, "oura", "gus").user_id == first.user_id
    assert connected(there, "oura", "hana").user_id != first.user_id
    page = browse(there, "oura", "gus", reference_id="somebody else")
    assert page.status_code == 200
    assert len(users(there)) == 3


def test_a_state_is_good_once(there: Served) -> None:
    address = consent_of(there)
    consent = httpx.get(f"{address}&person=gus", trust_env=False)
    assert httpx.get(consent.headers["location"], trust_env=False).status_code == 200
    again = httpx.get(consent.headers["location"], trust_env=False)
    assert again.status_code == 400
    assert "Start again" in again.text
    # A second consent with the same state is no second connection either.
    assert come_back(there, address, "hana").status_code == 400
    assert len(users(there)) == 1


@pytest.mark.parametrize("change", ["other secret", "no secret", "unknown", "empty", "other user"])
def test_a_state_that_is_not_ours_connects_nobody(there: Served, change: str) -> None:
    address = consent_of(there)
    state = state_of(address)
    session_id, _, secret = state.partition(".")
    forged = {
        "other secret": f"{session_id}.{secret[::-1]}",
        "no secret": session_id,
        "unknown": f"{'0' * 32}.{secret}",
        "empty": "",
        "other user": state_of(consent_of(there)).partition(".")[0] + "." + secret,
    }[change]
    answer = get(there, "/oauth/oura/callback", state=forged, code="any")
    assert answer.status_code == 400
    assert users(there) == []
    # The true one is still good.
    assert come_back(there, address).status_code == 200


def test_a_state_ends_after_a_quarter_of_an_hour(there: Served, clock: StandingClock) -> None:
    address = consent_of(there)
    clock.advance(minutes=15)
    assert come_back(there, address).status_code == 400
    assert users(there) == []


def test_a_person_who_says_no_sees_that_and_the_session_says_it(there: Served) -> None:
    session, ticket = begin_connecting(there.workspace, get_provider("oura"))
    page = come_back(there, consent_of(there, ticket=ticket), "nobody")
    assert page.status_code == 400
    assert "permission was not given" in page.text
    found = there.workspace.registry.find_session(session.session_id)
    assert found is not None
    assert found.error == "oura: the permission was not given"
    assert found.values == {}


def test_a_code_of_somebody_else_is_refused_by_the_verifier(there: Served) -> None:
    """A stolen code is worth nothing without the session it was asked for in."""
    stolen = httpx.get(f"{consent_of(there)}&person=gus", trust_env=False).headers["location"]
    code = httpx.URL(stolen).params["code"]
    own = state_of(consent_of(there))
    answer = get(there, "/oauth/oura/callback", state=own, code=code)
    assert answer.status_code == 400
    assert users(there) == []


@pytest.mark.parametrize("kind", ["500", "html", "timeout", "disconnect"])
def test_a_provider_in_trouble_ends_with_a_page_that_says_try_again(
    there: Served, sandbox: SandboxProcess, kind: str
) -> None:
    sandbox.fault(kind, path="/oauth/token", times=None, delay=0.1)
    page = come_back(there, consent_of(there))
    assert page.status_code == 502
    assert "Try again" in page.text
    assert users(there) == []


def test_pages_carry_no_secret_and_stay_in_no_cache(there: Served) -> None:
    address = consent_of(there)
    consent = httpx.get(f"{address}&person=gus", trust_env=False).headers["location"]
    page = httpx.get(consent, trust_env=False)
    asked = httpx.URL(consent).params
    assert asked["code"] not in page.text
    assert asked["state"] not in page.text
    for header, value in {"cache-control": "no-store", "referrer-policy": "no-referrer"}.items():
        assert page.headers[header] == value
    start = get(there, "/connect/oura")
    assert start.headers["cache-control"] == "no-store"


def test_what_a_browser_sends_is_not_written_into_a_page_as_html(there: Served) -> None:
    page = get(there, "/connect/oura", timezone="<script>alert(1)</script>")
    assert page.status_code == 400
    assert "<script>" not in page.text


def test_a_redirect_target_gets_who_was_connected(there: Served) -> None:
    target = f"{BACK}?step=2"
    end = come_back(there, consent_of(there, redirect=target, reference_id="r-1"))
    assert end.status_code == 302
    told = httpx.URL(end.headers["location"])
    assert str(told).startswith(f"{BACK}?")
    assert dict(told.params) == {
        "step": "2",
        "status": "connected",
        "provider": "oura",
        "user_id": users(there)[0],
        "reference_id": "r-1",
    }
    refused = come_back(there, consent_of(there, redirect=target), "nobody")
    assert dict(httpx.URL(refused.headers["location"]).params) == {
        "step": "2",
        "status": "error",
        "provider": "oura",
    }


def test_a_redirect_target_that_is_not_allowed_starts_nothing(there: Served) -> None:
    answer = get(there, "/connect/oura", redirect="https://evil.example/done")
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("target", "is_fine"),
    [
        ("https://app.example/done", True),
        ("https://app.example/done/", True),
        ("https://app.example/done/a?b=c", True),
        ("https://app.example/done-and-more", False),
        ("https://app.example/", False),
        ("https://app.example/done/../admin", False),
        ("https://app.example.evil.example/done", False),
        ("https://app.example@evil.example/done", False),
        ("https://evil.example\\@app.example/done", False),
        ("http://app.example/done", False),
        ("//app.example/done", False),
        ("/done", False),
        ("javascript:alert(1)", False),
        ("https://app.example:8443/done", False),
        ("https://app.example/done\r\nset-cookie: a=b", False),
        ("", False),
    ],
)
def test_a_redirect_target_lies_below_an_allowed_address(target: str, is_fine: bool) -> None:
    assert is_allowed(target, (BACK,)) is is_fine
    assert not is_allowed(target, ())


def test_in_public_a_connection_starts_only_from_a_link_made_for_it(
    tmp_path: Path, sandbox: SandboxProcess, clock: StandingClock
) -> None:
    with served(tmp_path / "public", sandbox, clock, connect_open=False) as there:
        assert get(there, "/connect/oura", reference_id="anybody").status_code == 403
        _, ticket = begin_connecting(there.workspace, get_provider("oura"), reference_id="r-9")
        assert come_back(there, consent_of(there, ticket=ticket)).status_code == 200
        (user,) = there.workspace.registry.find_users()
        assert user.reference_id == "r-9"
        # The link is used up.
        assert get(there, "/connect/oura", ticket=ticket).status_code == 410


@pytest.mark.parametrize("name", ["nightscout", "no_such_provider", "..%2f..%2fetc"])
def test_who_is_not_connected_in_the_browser_has_no_page(there: Served, name: str) -> None:
    assert get(there, f"/connect/{name}").status_code == 404
    assert get(there, f"/oauth/{name}/callback", state="a", code="b").status_code == 404


def test_a_missing_app_is_said_before_anybody_is_sent_away(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="WEARABLE_OURA_CLIENT_ID"):
        begin_connecting(workspace, get_provider("oura"))
    with pytest.raises(UsageError, match="in the browser"):
        connect(workspace, get_provider("oura"), {})


def test_disconnecting_gives_the_permission_back(there: Served, sandbox: SandboxProcess) -> None:
    user = connected(there, "oura", "gus")
    old = there.workspace.registry.load_credentials(user.user_id)
    ended = disconnect(there.workspace, user, get_provider("oura"))
    assert ended.status == "disconnected"
    assert there.workspace.registry.load_credentials(user.user_id) == {}
    answer = httpx.get(
        f"{sandbox.url}/oura/v2/usercollection/personal_info",
        headers={"authorization": f"Bearer {old['access_token']}"},
        trust_env=False,
    )
    assert answer.status_code == 401


def test_disconnecting_ends_here_even_when_the_provider_does_not_answer(
    there: Served, sandbox: SandboxProcess
) -> None:
    user = connected(there, "oura", "gus")
    sandbox.fault("500", path="/oauth/revoke", times=None)
    assert disconnect(there.workspace, user, get_provider("oura")).status == "disconnected"


def test_health_is_told(there: Served) -> None:
    assert get(there, "/healthz").json()["status"] == "ok"

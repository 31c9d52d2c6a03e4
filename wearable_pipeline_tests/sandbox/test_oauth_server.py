"""The sandbox's authorization server is as strict as the real ones."""

from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]

from wearable_pipeline.sandbox._oauth_server import CLIENT_ID, CLIENT_SECRET

BACK = "http://127.0.0.1:1/back"
VERIFIER = "v" * 43
APP = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}


def consent(client: httpx.Client, **change: str) -> httpx.Response:
    asked = {
        "client_id": CLIENT_ID,
        "response_type": "code",
        "redirect_uri": BACK,
        "state": "s",
        "code_challenge": create_s256_code_challenge(VERIFIER),
        "code_challenge_method": "S256",
        "person": "gus",
        **change,
    }
    return client.get("/oura/oauth/authorize", params=asked)


def code_of(client: httpx.Client) -> str:
    back = urlsplit(consent(client).headers["location"])
    asked = parse_qs(back.query)
    assert asked["state"] == ["s"]
    return asked["code"][0]


def token(client: httpx.Client, **form: str) -> httpx.Response:
    return client.post("/oura/oauth/token", data={**APP, **form})


def exchange(client: httpx.Client, issued: str, **change: str) -> httpx.Response:
    form = {"code": issued, "redirect_uri": BACK, "code_verifier": VERIFIER, **change}
    return token(client, grant_type="authorization_code", **form)


def is_let_in(client: httpx.Client, access: str) -> bool:
    headers = {"authorization": f"Bearer {access}"}
    answer = client.get("/oura/v2/usercollection/personal_info", headers=headers)
    return answer.status_code == 200


def test_a_code_becomes_tokens_once(client: httpx.Client) -> None:
    code = code_of(client)
    answer = exchange(client, code)
    assert is_let_in(client, answer.json()["access_token"])
    assert exchange(client, code).json() == {"error": "invalid_grant"}


@pytest.mark.parametrize(
    "change",
    [{"code_verifier": "w" * 43}, {"redirect_uri": "http://127.0.0.1:1/other"}, {"code": "guess"}],
)
def test_a_code_is_bound_to_what_it_was_asked_with(
    client: httpx.Client, change: dict[str, str]
) -> None:
    code = code_of(client)
    assert exchange(client, code, **change).status_code == 400


def test_another_app_gets_nothing(client: httpx.Client) -> None:
    code = code_of(client)
    assert exchange(client, code, client_secret="guess").status_code == 401
    assert consent(client, client_id="other").status_code == 400


def test_a_no_and_a_page_to_choose_from(client: httpx.Client) -> None:
    refused = parse_qs(urlsplit(consent(client, person="nobody").headers["location"]).query)
    assert refused == {"error": ["access_denied"], "state": ["s"]}
    query = consent(client).request.url.copy_remove_param("person").query.decode()
    assert "person=hana" in client.get(f"/oura/oauth/authorize?{query}").text


def test_a_refresh_rotates_and_the_old_token_is_worth_nothing(client: httpx.Client) -> None:
    first = exchange(client, code_of(client)).json()
    second = token(client, grant_type="refresh_token", refresh_token=first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    again = token(client, grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert (again.status_code, again.json()) == (400, {"error": "invalid_grant"})


def test_tokens_end_when_told_and_a_permission_taken_back_ends_all(client: httpx.Client) -> None:
    found = exchange(client, code_of(client)).json()
    control = "/oura/control/grants"
    client.post(control, json={"person": "gus", "action": "expire"})
    assert not is_let_in(client, found["access_token"])
    found = token(client, grant_type="refresh_token", refresh_token=found["refresh_token"]).json()
    assert is_let_in(client, found["access_token"])
    client.post(control, json={"person": "gus", "action": "revoke"})
    assert not is_let_in(client, found["access_token"])
    ended = token(client, grant_type="refresh_token", refresh_token=found["refresh_token"])
    assert ended.status_code == 400

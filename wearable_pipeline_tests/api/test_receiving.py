"""The receiver over real HTTP: what is proven is kept before it is answered, what is not leaves no trace."""

import asyncio
import hashlib
import hmac
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest

from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider, providers
from wearable_pipeline.raw.push import (
    KeptPush,
    has_pushes,
    inbox_root,
    needs_renewal,
    renew_subscriptions,
    subscribe,
    take_in,
    unsubscribe,
)
from wearable_pipeline.sandbox._oauth_server import CLIENT_SECRET
from wearable_pipeline.sandbox.oura import PEOPLE
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.oauth_cast import (
    PUSH_SECRET,
    Served,
    connected,
    contents,
    fetch,
    served,
)
from wearable_pipeline_tests.raw.postbox import DAY, SECRET, make_postbox, note, signed

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess(now=NOW) as running:
        yield running


@pytest.fixture
def clock(sandbox: SandboxProcess) -> StandingClock:
    sandbox.set_clock(NOW)
    return StandingClock(NOW)


@pytest.fixture
def there(
    tmp_path: Path, sandbox: SandboxProcess, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    monkeypatch.setitem(providers(), "postbox", make_postbox())
    with served(tmp_path / "home", sandbox, clock, push_max_bytes=20_000) as found:
        found.workspace.settings.providers["postbox"] = type(
            found.workspace.settings.provider("oura")
        )(client_id="app", client_secret=SECRET)  # type: ignore[arg-type]
        yield found


def post(there: Served, body: bytes, headers: dict[str, str] | None = None) -> int:
    proof = signed(body, NOW) if headers is None else headers
    url = f"{there.url}/in/postbox"
    return httpx.post(url, content=body, headers=proof, trust_env=False).status_code


def kept_bodies(there: Served, provider: str = "postbox") -> list[bytes]:
    storage = there.workspace.lake.storage
    return [
        one.body
        for entry in storage.list(inbox_root(provider))
        for one in msgspec.msgpack.decode(storage.read(entry.path), type=list[KeptPush])
    ]


def test_a_proven_push_is_kept_byte_for_byte_before_the_answer(there: Served) -> None:
    body = b' [ {"kind":"data" ,"account":"a","notes":[]} ]\n'
    assert post(there, body) == 200
    assert kept_bodies(there) == [body]


@pytest.mark.parametrize("forgery", ["no proof", "other secret", "other body", "old", "future"])
def test_a_forged_or_old_push_is_refused_and_leaves_nothing(there: Served, forgery: str) -> None:
    body = b"[]"
    headers = {
        "no proof": {},
        "other secret": signed(body, NOW, "guess"),
        "other body": signed(b"[1]", NOW),
        "old": signed(body, NOW - timedelta(minutes=6)),
        "future": signed(body, NOW + timedelta(minutes=6)),
    }[forgery]
    assert post(there, body, headers) == 401
    assert kept_bodies(there) == []
    assert post(there, body) == 200


def test_a_replay_is_answered_and_not_kept_again(there: Served, clock: StandingClock) -> None:
    body = b"[]"
    assert [post(there, body) for _ in range(3)] == [200, 200, 200]
    assert len(kept_bodies(there)) == 1
    # Later than the tolerance it is no longer proven at all.
    clock.advance(minutes=6)
    assert post(there, body, signed(body, NOW)) == 401
    assert len(kept_bodies(there)) == 1


def test_too_much_is_refused_whether_or_not_it_was_announced(there: Served) -> None:
    body = b"x" * 20_001
    assert post(there, body) == 413

    def in_pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"y" * 1_000

    url = f"{there.url}/in/postbox"
    answer = httpx.post(url, content=in_pieces(), trust_env=False)
    assert answer.status_code == 413
    assert kept_bodies(there) == []
    assert post(there, b"z" * 20_000) == 200


def test_a_body_that_dribbles_is_cut_off_while_others_are_served(there: Served) -> None:
    there.workspace.settings.push_body_seconds = 0.5
    host, port = there.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as slow:
        slow.sendall(
            b"POST /in/postbox HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b"[1,"
        )
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        there.workspace.settings.push_body_seconds = 30
        assert post(there, b"[]") == 200
    with socket.create_connection((host, int(port)), timeout=5) as broken:
        broken.sendall(b"POST /in/postbox HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n[")
    assert post(there, b"[2]") == 200
    assert sorted(kept_bodies(there)) == [b"[2]", b"[]"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/in/nobody", 404),
        ("POST", "/in/freestyle_libre", 404),
        ("GET", "/in/postbox", 405),
        ("DELETE", "/in/postbox", 405),
        ("POST", "/in/postbox/more", 404),
    ],
)
def test_what_is_no_receiver_answers_so(there: Served, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, there.url + path, content=b"[]", trust_env=False)
    assert answer.status_code == status
    assert kept_bodies(there) == []


def test_a_full_disk_is_told_and_the_push_taken_when_sent_again(
    there: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = type(there.workspace.lake.storage)

    def full(*_: object) -> str:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "create", full)
        assert post(there, b"[]") == 503
    assert post(there, b"[]") == 200
    assert kept_bodies(there) == [b"[]"]


def test_a_flood_of_pushes_is_in_raw_to_the_last_one(there: Served) -> None:
    count = 1_000
    hashed = there.workspace.registry.hash_account("postbox", "acc-1")
    user = there.workspace.registry.add_user("postbox", account_hash=hashed, credentials={})

    async def flood() -> list[int]:
        slots = asyncio.Semaphore(64)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:

            async def one(number: int) -> int:
                body = msgspec.json.encode([note(number)])
                async with slots:
                    answer = await client.post(
                        f"{there.url}/in/postbox", content=body, headers=signed(body, NOW)
                    )
                return answer.status_code

            return await asyncio.gather(*(one(number) for number in range(count)))

    assert asyncio.run(flood()) == [200] * count
    report = take_in(there.workspace, providers()["postbox"])
    assert report is not None
    assert (report.pushes, report.appended.new) == (count, count)
    cell = Partition(DAY, there.workspace.lake.scheme.cohort_of(user.user_id))
    raw = there.workspace.lake.raw.read(["postbox"], [cell])
    assert sorted(raw["record_id"]) == sorted(f"n{number}" for number in range(count))
    assert not has_pushes(there.workspace.lake.storage, "postbox")


# --- a real provider's pushes


def oura_event(there: Served, clock: StandingClock, **said: str) -> int:
    body = json.dumps(
        {
            "event_type": "update",
            "data_type": "sleep",
            "object_id": "o",
            "event_time": clock.at.isoformat(),
            "user_id": PEOPLE["gus"].account_id,
            **said,
        }
    ).encode()
    stamp = str(int(clock.at.timestamp()))
    digest = hmac.digest(CLIENT_SECRET.encode(), stamp.encode() + body, hashlib.sha256)
    headers = {"x-oura-timestamp": stamp, "x-oura-signature": digest.hex().upper()}
    url = f"{there.url}/in/oura"
    return httpx.post(url, content=body, headers=headers, trust_env=False).status_code


def test_an_event_of_oura_makes_its_user_due_and_a_deletion_takes_the_night_away(
    there: Served, sandbox: SandboxProcess, clock: StandingClock
) -> None:
    user = connected(there, "oura", "gus")
    assert fetch(there.workspace, user).failures == {}
    nights = contents(there.workspace, [user])["sleep"]
    later = clock.advance(minutes=1)
    assert there.workspace.registry.due_users(later, ["oura"]) == []
    assert oura_event(there, clock) == 200
    assert oura_event(there, clock, data_type="ovulation_confirmed") == 200
    report = take_in(there.workspace, get_provider("oura"))
    assert report is not None
    assert (report.pushes, report.made_due, report.parked) == (2, 1, 0)
    assert len(there.workspace.registry.due_users(later, ["oura"])) == 1

    gone = str(nights[-1]["metadata_summary_id"])
    assert oura_event(there, clock, event_type="delete", object_id=gone) == 200
    take_in(there.workspace, get_provider("oura"))
    left = contents(there.workspace, [user])["sleep"]
    assert [row["metadata_summary_id"] for row in left] == [
        row["metadata_summary_id"] for row in nights[:-1]
    ]


def test_subscriptions_are_made_once_proven_by_the_challenge_renewed_and_ended(
    there: Served, sandbox: SandboxProcess, clock: StandingClock
) -> None:
    oura = get_provider("oura")
    made = subscribe(there.workspace, oura)
    # Three events of twelve kinds of documents.
    assert len(made) == 36
    assert subscribe(there.workspace, oura) == made
    assert not needs_renewal(there.workspace, oura)
    ends = {one.expires_at for one in made}
    assert ends == {NOW + timedelta(days=90)}
    sandbox.set_clock(clock.advance(days=84))
    assert needs_renewal(there.workspace, oura)
    assert renew_subscriptions(there.workspace, oura) == 36
    assert not needs_renewal(there.workspace, oura)
    assert unsubscribe(there.workspace, oura) == 36
    assert there.workspace.registry.load_subscriptions("oura") == []


def test_a_challenge_with_another_token_is_not_answered(there: Served) -> None:
    def challenged(token: str) -> httpx.Response:
        parameters = {"verification_token": token, "challenge": "say this"}
        return httpx.get(f"{there.url}/in/oura", params=parameters, trust_env=False)

    assert challenged("a guess").status_code == 401
    assert challenged(PUSH_SECRET).json() == {"challenge": "say this"}

"""The inbox: every push once in raw, whatever dies in between."""

import asyncio
import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest

from wearable_pipeline.erase import erase_user
from wearable_pipeline.errors import StorageError, TransientError, UsageError
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider, providers
from wearable_pipeline.providers._contract import (
    Push,
    PushRequest,
    PushSecrets,
    SharedSecret,
    Signature,
)
from wearable_pipeline.raw import push as push_module
from wearable_pipeline.raw.push import (
    PARKED_FOR,
    Inbox,
    KeptPush,
    RefusedError,
    TakenIn,
    check_proof,
    has_pushes,
    inbox_root,
    keep,
    parked_root,
    subscribe,
    take_in,
)
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.raw.postbox import DAY, Fetched, make_postbox, note

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECRETS = PushSecrets("app", "app-secret", "push-secret")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    asked = Fetched()
    monkeypatch.setitem(providers(), "postbox", make_postbox(asked))
    return asked


@pytest.fixture
def user_id(workspace: Workspace, fetched: Fetched) -> str:
    return connect(workspace, "acc-1")


def connect(workspace: Workspace, account: str, reference_id: str | None = None) -> str:
    hashed = workspace.registry.hash_account("postbox", account)
    return workspace.registry.add_user(
        "postbox", reference_id=reference_id, account_hash=hashed, credentials={}
    ).user_id


def push(workspace: Workspace, *said: dict[str, Any]) -> None:
    """Keep one push that says all this."""
    kept = KeptPush(workspace.now(), "POST", {}, {}, msgspec.json.encode(list(said)))

    async def run() -> None:
        inbox = Inbox(workspace.lake.storage, workspace.registry, workspace.now)
        await inbox.put("postbox", kept, None)
        await inbox.close()

    asyncio.run(run())


def taken(workspace: Workspace) -> TakenIn:
    report = take_in(workspace, providers()["postbox"])
    assert report is not None
    return report


def raw_notes(workspace: Workspace, user_id: str, day: date = DAY) -> list[tuple[str, bool]]:
    cell = Partition(day, workspace.lake.scheme.cohort_of(user_id))
    rows = workspace.lake.raw.read(["postbox"], [cell], user_ids=[user_id])
    return [(row["record_id"], row["is_deleted"]) for row in rows.to_dicts()]


def paths(workspace: Workspace, root: str) -> list[str]:
    return [entry.path for entry in workspace.lake.storage.list(root)]


# --- proof


def request(body: bytes = b"{}", **headers: str) -> PushRequest:
    return PushRequest("POST", {k.replace("_", "-"): v for k, v in headers.items()}, {}, body)


def refused(push: Push, asked: PushRequest, secrets: PushSecrets = SECRETS) -> int:
    with pytest.raises(RefusedError) as caught:
        check_proof(push, asked, secrets, NOW)
    return caught.value.status


def test_a_signature_in_every_encoding_is_the_hmac_of_the_raw_bytes() -> None:
    body = b'{"a": 1}'
    # printf '{"a": 1}' | openssl dgst -sha256 -hmac app-secret
    digest = "bcab0096fb2de3a35d7d68a8623dbb2203e657ed073397fa6420066f3dae73ae"
    for encoding, text in (
        ("hex", digest),
        ("HEX", digest.upper()),
        ("base64", base64.b64encode(bytes.fromhex(digest)).decode()),
    ):
        proven = Push(read=lambda _: (), proof=Signature("x-s", encoding=encoding))  # type: ignore[arg-type]
        assert check_proof(proven, request(body, x_s=text), SECRETS, NOW) is None
        assert refused(proven, request(body + b" ", x_s=text)) == 401
        assert refused(proven, request(body)) == 401
        assert refused(proven, request(body, x_s="é")) == 401


def test_a_signed_time_must_be_near_and_makes_a_mark() -> None:
    proven = Push(
        read=lambda _: (),
        proof=Signature(
            "x-s", timestamp_header="x-t", message=lambda stamp, body: stamp.encode() + body
        ),
    )

    def asked(stamp: str) -> PushRequest:
        digest = hmac.new(b"app-secret", stamp.encode() + b"{}", hashlib.sha256).hexdigest()
        return request(b"{}", x_s=digest, x_t=stamp)

    seconds = int(NOW.timestamp())
    for stamp in (str(seconds - 299), str((seconds + 299) * 1000), NOW.isoformat()):
        mark = check_proof(proven, asked(stamp), SECRETS, NOW)
        assert mark is not None
        assert mark[1] >= NOW
    for stamp in (str(seconds - 301), str(seconds + 301), "", "soon", "nan", "1e400"):
        assert refused(proven, asked(stamp)) == 401


def test_without_its_secret_nothing_is_proven() -> None:
    for proof in (None, SharedSecret(header="authorization", prefix="Bearer "), Signature("x-s")):
        bare = Push(read=lambda _: (), proof=proof)
        assert (
            refused(bare, request(b"{}", authorization="Bearer "), PushSecrets("", "", "")) == 401
        )
    shared = Push(read=lambda _: (), proof=SharedSecret(header="authorization", prefix="Bearer "))
    check_proof(shared, request(authorization="Bearer push-secret"), SECRETS, NOW)
    assert refused(shared, request(authorization="push-secret")) == 401
    keyed = Push(read=lambda _: (), proof=None)
    check_proof(keyed, PushRequest("POST", {}, {"key": "push-secret"}, b""), SECRETS, NOW)
    assert refused(keyed, PushRequest("POST", {}, {"key": "push"}, b"")) == 401


def test_what_is_kept_holds_no_proof() -> None:
    asked = PushRequest(
        "POST",
        {"x-signature": "s", "authorization": "t", "content-type": "application/json"},
        {"key": "push-secret", "userid": "7"},
        b"body",
    )
    kept = keep(Push(lambda _: []), asked, NOW)
    assert kept.headers == {"content-type": "application/json"}
    assert kept.query == {"userid": "7"}
    assert b"push-secret" not in msgspec.msgpack.encode(kept)


# --- keeping


class SlowStorage:
    """The lake's storage with writes that take a while, counted."""

    def __init__(self, storage: Storage, seconds: float = 0.02) -> None:
        self.storage = storage
        self.seconds = seconds
        self.writes = 0

    def create(self, path: str, data: bytes) -> str:
        time.sleep(self.seconds)
        self.writes += 1
        return self.storage.create(path, data)


def put_many(
    workspace: Workspace, storage: object, pushes: Sequence[tuple[KeptPush, str | None]]
) -> list[bool]:
    async def run() -> list[bool]:
        inbox = Inbox(storage, workspace.registry, workspace.now)  # type: ignore[arg-type]
        marks = [(mark, NOW + timedelta(minutes=10)) if mark else None for _, mark in pushes]
        found = await asyncio.gather(
            *(
                inbox.put("postbox", kept, mark)
                for (kept, _), mark in zip(pushes, marks, strict=True)
            )
        )
        await inbox.close()
        return found

    return asyncio.run(run())


def kept_push(number: int) -> KeptPush:
    return KeptPush(NOW, "POST", {}, {}, msgspec.json.encode([note(number)]))


def test_many_pushes_share_few_writes_and_each_is_there(workspace: Workspace) -> None:
    storage = SlowStorage(workspace.lake.storage)
    found = put_many(workspace, storage, [(kept_push(n), f"mark-{n}") for n in range(500)])
    assert found == [True] * 500
    assert storage.writes < 20
    bodies = [
        one.body
        for path in paths(workspace, inbox_root("postbox"))
        for one in msgspec.msgpack.decode(workspace.lake.storage.read(path), type=list[KeptPush])
    ]
    assert sorted(bodies) == sorted(kept_push(n).body for n in range(500))


def test_the_same_signed_push_is_kept_once_in_a_batch_later_and_after_a_restart(
    workspace: Workspace, clock: StandingClock
) -> None:
    storage = SlowStorage(workspace.lake.storage, 0)
    twice = [(kept_push(1), "mark"), (kept_push(1), "mark")]
    assert put_many(workspace, storage, twice) == [True, True]
    assert put_many(workspace, storage, [(kept_push(1), "mark")]) == [False]
    assert storage.writes == 1
    clock.advance(minutes=11)
    assert workspace.registry.forget_pushes() == 1


def test_a_push_that_could_not_be_written_is_refused_and_may_come_again(
    workspace: Workspace,
) -> None:
    class Full(SlowStorage):
        is_full = True

        def create(self, path: str, data: bytes) -> str:
            if self.is_full:
                raise StorageError("no space left")
            return super().create(path, data)

    storage = Full(workspace.lake.storage, 0)
    with pytest.raises(TransientError):
        put_many(workspace, storage, [(kept_push(1), "mark")])
    assert not has_pushes(workspace.lake.storage, "postbox")
    storage.is_full = False
    assert put_many(workspace, storage, [(kept_push(1), "mark")]) == [True]
    assert storage.writes == 1


def test_more_than_fits_in_memory_is_told_to_come_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "MAX_WAITING_BYTES", 200)
    storage = SlowStorage(workspace.lake.storage)
    with pytest.raises(TransientError, match="full"):
        put_many(workspace, storage, [(kept_push(n), None) for n in range(10)])


# --- taking in


def test_data_reaches_raw_once_and_the_inbox_is_empty(workspace: Workspace, user_id: str) -> None:
    push(workspace, note(1), note(2))
    push(workspace, note(2), note(3))
    report = taken(workspace)
    assert (report.pushes, report.appended.new) == (2, 3)
    assert raw_notes(workspace, user_id) == [("n1", False), ("n2", False), ("n3", False)]
    assert paths(workspace, "inbox/") == []
    assert taken(workspace).pushes == 0


def test_every_reference_of_an_account_gets_what_was_pushed(
    workspace: Workspace, user_id: str
) -> None:
    other = connect(workspace, "acc-1", "another reference")
    push(workspace, note(1))
    taken(workspace)
    assert raw_notes(workspace, user_id) == raw_notes(workspace, other) == [("n1", False)]


@pytest.mark.parametrize("place", ["before raw", "after raw", "after deleting half"])
def test_a_crash_while_taking_in_loses_nothing_and_doubles_nothing(
    workspace: Workspace, user_id: str, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for number in range(4):
        push(workspace, note(number))

    class KilledError(BaseException):
        """As sudden as kill -9: nothing catches it."""

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    storage = workspace.lake.storage
    with monkeypatch.context() as patch:
        if place == "before raw":
            patch.setattr(push_module, "ingest", killed)
        elif place == "after raw":
            patch.setattr(type(storage), "delete_many", killed)
        else:
            real = type(storage).delete_many

            def half(self: Storage, found: Sequence[str]) -> None:
                real(self, found[:2])
                raise KilledError

            patch.setattr(type(storage), "delete_many", half)
        with pytest.raises(KilledError):
            take_in(workspace, providers()["postbox"])
    taken(workspace)
    assert raw_notes(workspace, user_id) == [(f"n{n}", False) for n in range(4)]
    assert paths(workspace, "inbox/") == []


def test_two_at_once_take_in_once(workspace: Workspace, user_id: str) -> None:
    push(workspace, note(1))
    with workspace.registry.lease_or_none("inbox:postbox", timedelta(minutes=1)) as lease:
        assert lease is not None
        assert take_in(workspace, providers()["postbox"]) is None
    assert taken(workspace).appended.new == 1


def test_what_arrives_meanwhile_is_kept_for_the_next_time(
    workspace: Workspace, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(workspace, note(1))
    real = push_module.ingest

    def and_another(*args: Any) -> Any:
        thread = threading.Thread(target=push, args=(workspace, note(2)))
        thread.start()
        thread.join()
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(push_module, "ingest", and_another)
        taken(workspace)
    assert raw_notes(workspace, user_id) == [("n1", False)]
    taken(workspace)
    assert raw_notes(workspace, user_id) == [("n1", False), ("n2", False)]


def test_a_hint_makes_due_and_an_old_one_fetches_its_days(
    workspace: Workspace, user_id: str, fetched: Fetched, clock: StandingClock
) -> None:
    workspace.registry.set_status(user_id, "disconnected")
    workspace.registry.set_status(user_id, "connected")
    later = clock.advance(seconds=1)
    push(workspace, {"kind": "changed", "account": "acc-1"})
    assert taken(workspace).made_due == 1
    (due,) = workspace.registry.due_users(later, ["postbox"])
    assert due.next_due_at == later
    assert fetched.windows == []
    push(
        workspace,
        {"kind": "changed", "account": "acc-1", "start": "2026-10-01", "end": "2026-10-02"},
    )
    taken(workspace)
    assert fetched.windows == [(date(2026, 10, 1), date(2026, 10, 2))]
    assert raw_notes(workspace, user_id, date(2026, 10, 1)) == [("fetched-2026-10-01", False)]


def test_days_that_cannot_be_fetched_stay_in_the_inbox(
    workspace: Workspace, user_id: str, fetched: Fetched
) -> None:
    old = {"kind": "changed", "account": "acc-1", "start": "2026-10-01", "end": "2026-10-01"}
    push(workspace, note(1), old)
    fetched.is_down = True
    report = taken(workspace)
    assert (report.postponed, report.appended.new) == (1, 1)
    assert has_pushes(workspace.lake.storage, "postbox")
    fetched.is_down = False
    report = taken(workspace)
    assert report.postponed == 0
    assert raw_notes(workspace, user_id, date(2026, 10, 1)) == [("fetched-2026-10-01", False)]
    assert raw_notes(workspace, user_id) == [("n1", False)]
    assert not has_pushes(workspace.lake.storage, "postbox")


def test_a_deletion_follows_the_record_to_its_day(
    workspace: Workspace, user_id: str, clock: StandingClock
) -> None:
    push(workspace, note(1), note(2))
    taken(workspace)
    clock.advance(minutes=1)
    push(workspace, {"kind": "removed", "account": "acc-1", "ids": ["n1", "never seen"]})
    taken(workspace)
    assert raw_notes(workspace, user_id) == [("n1", False), ("n1", True), ("n2", False)]


def test_a_departure_told_by_the_provider_is_a_revoked_permission(
    workspace: Workspace, user_id: str
) -> None:
    push(workspace, {"kind": "departed", "account": "acc-1"})
    assert taken(workspace).departed == 1
    user = workspace.registry.get_user(user_id)
    assert user.status == "revoked"
    assert str(user.status_reason).startswith("access_revoked")


def test_what_cannot_be_read_or_is_of_nobody_is_parked_and_the_rest_goes_on(
    workspace: Workspace, user_id: str, clock: StandingClock
) -> None:
    push(workspace, {"kind": "crash", "account": "acc-1"})
    push(workspace, note(1))
    push(workspace, note(2, account="nobody"))
    push(workspace, {"kind": "changed", "account": "nobody"})
    push(workspace, {"kind": "data", "account": "acc-1", "notes": [{"no": "id"}]})
    report = taken(workspace)
    assert (report.pushes, report.parked) == (5, 3)
    assert raw_notes(workspace, user_id) == [("n1", False)]
    (parked,) = paths(workspace, parked_root("postbox"))
    kept = msgspec.msgpack.decode(workspace.lake.storage.read(parked), type=list[KeptPush])
    assert len(kept) == 3
    clock.advance(seconds=PARKED_FOR.total_seconds() + 1)
    taken(workspace)
    assert paths(workspace, parked_root("postbox")) == []


def test_an_erased_persons_pushes_go_and_those_of_others_stay(
    workspace: Workspace, user_id: str
) -> None:
    other = connect(workspace, "acc-2")
    push(workspace, {"kind": "data", "account": "acc-1", "notes": [{"no": "id"}]})
    push(workspace, note(1, account="nobody"))
    assert taken(workspace).parked == 2
    push(workspace, note(2))
    push(workspace, note(3), note(4, account="acc-2"))
    report = erase_user(workspace, user_id)
    assert report.pushes_dropped == 2
    taken(workspace)
    assert raw_notes(workspace, other) == [("n4", False)]
    parked = [
        one
        for path in paths(workspace, parked_root("postbox"))
        for one in msgspec.msgpack.decode(workspace.lake.storage.read(path), type=list[KeptPush])
    ]
    # Somebody's who may be connecting, and the one that told of two.
    assert sorted(b"nobody" in one.body for one in parked) == [False, True]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("withings", "made with their next fetch, once WEARABLE_WITHINGS_PUSH_SECRET is set"),
        ("polar", "POST /v3/webhooks"),
        ("whoop", "enter the address of /in/whoop on its developer site"),
        ("garmin", "WEARABLE_GARMIN_PUSH_SECRET, for every kind of summary"),
        ("google_health", "the project's one subscriber at Google, with policy AUTOMATIC"),
    ],
)
def test_who_cannot_be_subscribed_to_as_an_app_says_what_to_do_instead(
    workspace: Workspace, name: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=hint):
        subscribe(workspace, get_provider(name))


def test_without_a_secret_nothing_is_subscribed_to(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="set WEARABLE_OURA_PUSH_SECRET"):
        subscribe(workspace, get_provider("oura"))
    with pytest.raises(UsageError, match="Nightscout pushes nothing"):
        subscribe(workspace, get_provider("nightscout"))

"""Users: one row per connection of a person to a provider."""

import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wearable_pipeline.errors import UsageError
from wearable_pipeline.partitions import Members, check_user_id
from wearable_pipeline.registry import schema
from wearable_pipeline.registry.database import clean
from wearable_pipeline.registry.events import EventType, NewEvent, insert_events
from wearable_pipeline.registry.schema import sync_state, users
from wearable_pipeline.registry.shards import belongs_to
from wearable_pipeline.registry.store import Store

Status = Literal["connected", "needs_reauth", "revoked", "disconnected"]
_REFERENCE_LIMIT = 512
_LIVE = ("connected", "needs_reauth")
# What destinations are told when a user comes into a status.
EVENT_OF: Mapping[str, EventType] = {
    "connected": "user_reauth",
    "needs_reauth": "connection_error",
    "revoked": "access_revoked",
    "disconnected": "deauth",
}


@dataclass(frozen=True, slots=True)
class User:
    """One connection. What a name may have been put into stays out of the repr."""

    user_id: str
    provider: str
    reference_id: str | None = field(repr=False)
    account_hash: str | None = field(repr=False)
    timezone: str | None
    status: Status
    status_reason: str | None
    config: dict[str, object] = field(repr=False)
    created_at: datetime
    updated_at: datetime


_FIELDS = tuple(one.name for one in fields(User))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """A connection to be made; see `Users.add_user`."""

    user_id: str
    provider: str
    reference_id: str | None = None
    timezone: str | None = None
    config: Mapping[str, object] = field(default_factory=dict, repr=False)
    credentials: Mapping[str, object] | None = field(default=None, repr=False)


class Users(Store):
    """Adding, finding and changing users."""

    def add_user(
        self,
        provider: str,
        *,
        reference_id: str | None = None,
        account_hash: str | None = None,
        timezone: str | None = None,
        config: Mapping[str, object] | None = None,
        credentials: Mapping[str, object] | None = None,
        user_id: str | None = None,
        event: EventType | None = None,
        event_detail: Mapping[str, object] | None = None,
    ) -> User:
        """The new user, connected and due at once.

        `user_id` is a fresh UUID unless given. Credentials are stored in the same transaction: a
        run that finds the user due must find them too. Raises UsageError when the id is taken or
        illegal, or when the account is already connected for this `reference_id`. `config` holds no
        secrets. `event` is what destinations are told of it.
        """
        now = self._clock()
        user = User(
            user_id=check_user_id(user_id if user_id is not None else str(uuid.uuid4())),
            provider=provider,
            reference_id=_check_reference(reference_id),
            account_hash=account_hash,
            timezone=_check_timezone(timezone),
            status="connected",
            status_reason=None,
            config=dict(config or {}),
            created_at=now,
            updated_at=now,
        )
        token = None if credentials is None else self._keys.seal(user.user_id, credentials)
        events = [NewEvent(user.user_id, event, event_detail or {})] if event else []

        def insert(connection: Connection) -> None:
            _insert(connection, [(user, token)])
            insert_events(self._db, connection, events, now)

        try:
            self._db.write(insert)
        except sa.exc.IntegrityError:
            # Said after the rollback; the driver's own text would show the reference id.
            if self.find_users(user_ids=[user.user_id]):
                raise UsageError(f"user {user.user_id} exists already") from None
            raise self._account_taken(user) from None
        return user

    def add_users(self, new: Iterable[NewUser]) -> int:
        """Add many users in one transaction, connected and due at once; returns how many.

        Raises UsageError, and adds nobody, when an id is illegal or taken.
        """
        now = self._clock()
        rows = [
            (
                User(
                    user_id=check_user_id(one.user_id),
                    provider=one.provider,
                    reference_id=_check_reference(one.reference_id),
                    account_hash=None,
                    timezone=_check_timezone(one.timezone),
                    status="connected",
                    status_reason=None,
                    config=dict(one.config),
                    created_at=now,
                    updated_at=now,
                ),
                None if one.credentials is None else self._keys.seal(one.user_id, one.credentials),
            )
            for one in new
        ]
        try:
            self._db.write(lambda connection: _insert(connection, rows))
        except sa.exc.IntegrityError:
            raise UsageError("one of the users exists already; nobody was added") from None
        return len(rows)

    def get_user(self, user_id: str) -> User:
        """The user. Raises UsageError when there is none."""
        found = self.find_users(user_ids=[check_user_id(user_id)])
        if not found:
            raise no_such_user(user_id)
        return found[0]

    def find_users(
        self,
        provider: str | None = None,
        reference_id: str | None = None,
        status: Status | None = None,
        user_ids: Collection[str] | None = None,
        members: Members | None = None,
    ) -> list[User]:
        """Users that fit everything given, sorted by user_id. No `user_ids` at all means any."""
        query = sa.select(users).where(*belongs_to(self._db, members))
        if provider is not None:
            query = query.where(users.c.provider == provider)
        if reference_id is not None:
            query = query.where(users.c.reference_id == _check_reference(reference_id))
        if status is not None:
            query = query.where(users.c.status == status)
        if user_ids is not None:
            query = query.where(self._db.any_of(users.c.user_id, user_ids))
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return sorted((_user(row) for row in rows), key=lambda user: user.user_id)

    def count_connected(self, provider: str) -> int:
        """How many users of `provider` are connected."""
        query = sa.select(sa.func.count()).where(
            users.c.provider == provider, users.c.status == "connected"
        )
        return self._db.read(lambda connection: connection.execute(query).scalar_one())

    def find_account(
        self, provider: str, account_hash: str, reference_id: str | None
    ) -> User | None:
        """The connection of that account for that `reference_id`: a live one, else the latest."""
        same_reference = (
            users.c.reference_id.is_(None)
            if reference_id is None
            else users.c.reference_id == _check_reference(reference_id)
        )
        query = (
            sa.select(users)
            .where(
                users.c.provider == provider,
                users.c.account_hash == account_hash,
                same_reference,
            )
            .order_by(
                sa.case((users.c.status.in_(_LIVE), 0), else_=1),
                users.c.updated_at.desc(),
                users.c.user_id,
            )
            .limit(1)
        )
        row = self._db.read(lambda connection: connection.execute(query).first())
        return None if row is None else _user(row)

    def hash_account(self, provider: str, account_id: str) -> str:
        """What is kept of a provider's account id: a keyed hash, the same at every call."""
        return self._keys.hash_account(provider, account_id)

    def set_status(self, user_id: str, status: Status, reason: str | None = None) -> User:
        """The user in its new status. Becoming connected makes it due now, failures forgotten.

        A change is an event that destinations are told.
        """
        if status not in get_args(Status):
            raise UsageError(f"no such status {status!r}: use one of {', '.join(get_args(Status))}")
        now = self._clock()

        def change(connection: Connection) -> User:
            before = self._locked(connection, user_id)
            row = connection.execute(
                sa.update(users)
                .where(users.c.user_id == user_id)
                .values(status=status, status_reason=clean(reason), updated_at=now)
                .returning(users)
            ).one()
            if status == "connected" and before.status != "connected":
                connection.execute(
                    sa.update(sync_state)
                    .where(sync_state.c.user_id == user_id)
                    .values(
                        next_due_at=now,
                        failures=0,
                        error_class=None,
                        error_message=None,
                        locked_until=None,
                    )
                )
            elif status != "connected":
                connection.execute(
                    sa.update(sync_state)
                    .where(sync_state.c.user_id == user_id)
                    .values(next_due_at=None)
                )
            if status != before.status:
                event = NewEvent(user_id, EVENT_OF[status])
                insert_events(self._db, connection, [event], now)
            return _user(row)

        try:
            return self._db.write(change)
        except sa.exc.IntegrityError:
            raise self._account_taken(self.get_user(user_id)) from None

    def update_user(
        self,
        user_id: str,
        *,
        timezone: str | None = None,
        config: Mapping[str, object] | None = None,
        account_hash: str | None = None,
    ) -> User:
        """The user with the given parts replaced; what is None stays as it was.

        Another `scopes` in `config` is an event that destinations are told.
        """
        values: dict[str, object] = {"updated_at": self._clock()}
        if timezone is not None:
            values["timezone"] = _check_timezone(timezone)
        if config is not None:
            values["config"] = dict(config)
        if account_hash is not None:
            values["account_hash"] = account_hash

        def change(connection: Connection) -> User:
            before = self._locked(connection, user_id)
            events = [] if config is None else _changes_of_scopes(before, config)
            insert_events(self._db, connection, events, self._clock())
            return _user(
                connection.execute(
                    sa.update(users)
                    .where(users.c.user_id == user_id)
                    .values(values)
                    .returning(users)
                ).one()
            )

        try:
            return self._db.write(change)
        except sa.exc.IntegrityError:
            user = self.get_user(user_id)
            raise UsageError(
                f"the account is already connected to {user.provider} as another user;"
                f" disconnect that one first (`wearable-pipeline users list` shows them)"
            ) from None

    def _locked(self, connection: Connection, user_id: str) -> User:
        row = connection.execute(
            sa.select(users).where(users.c.user_id == check_user_id(user_id)).with_for_update()
        ).first()
        if row is None:
            raise no_such_user(user_id)
        return _user(row)

    def _account_taken(self, user: User) -> UsageError:
        other = (
            self.find_account(user.provider, user.account_hash, user.reference_id)
            if user.account_hash
            else None
        )
        shown = f" as user {other.user_id}" if other else ""
        return UsageError(
            f"this {user.provider} account is already connected{shown};"
            " disconnect that user first, or give it new credentials"
        )


def _changes_of_scopes(before: User, config: Mapping[str, object]) -> list[NewEvent]:
    """What the person allowed or took back, if both lists are known."""
    had, has = before.config.get("scopes"), config.get("scopes")
    if not isinstance(had, str) or not isinstance(has, str):
        return []
    old, new = (set(re.findall(r"[^\s,]+", scopes)) for scopes in (had, has))
    if old == new:
        return []
    detail = {
        "scopes_added": ",".join(sorted(new - old)),
        "scopes_removed": ",".join(sorted(old - new)),
    }
    return [NewEvent(before.user_id, "permission_change", detail)]


def no_such_user(user_id: str) -> UsageError:
    """The one way to say that a user is unknown."""
    return UsageError(f"no user {user_id}; `wearable-pipeline users list` shows them")


def _insert(connection: Connection, rows: Sequence[tuple[User, bytes | None]]) -> None:
    if not rows:
        return
    connection.execute(sa.insert(users), [_columns(user) for user, _ in rows])
    connection.execute(
        sa.insert(sync_state),
        [
            {
                "user_id": user.user_id,
                "provider": user.provider,
                "state": {},
                "failures": 0,
                "next_due_at": user.created_at,
            }
            for user, _ in rows
        ],
    )
    tokens = [
        {"user_id": user.user_id, "token": token, "updated_at": user.created_at}
        for user, token in rows
        if token is not None
    ]
    if tokens:
        connection.execute(sa.insert(schema.credentials), tokens)


def _columns(user: User) -> dict[str, object]:
    return {name: getattr(user, name) for name in _FIELDS}


def _user(row: sa.Row[tuple[object, ...]]) -> User:
    return User(**{name: row._mapping[name] for name in _FIELDS})


def _check_reference(reference_id: str | None) -> str | None:
    if reference_id is None:
        return None
    if not reference_id.isprintable() or not 0 < len(reference_id) <= _REFERENCE_LIMIT:
        raise UsageError(
            f"reference_id must be 1 to {_REFERENCE_LIMIT} printable characters"
            " (line breaks and control characters are not)"
        )
    return reference_id


def _check_timezone(timezone: str | None) -> str | None:
    if timezone is None:
        return None
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"no time zone {timezone!r}: use an IANA name such as Europe/Berlin"
        ) from None
    return timezone

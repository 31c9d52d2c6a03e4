"""Connect sessions: the minutes between sending a browser to a provider and its coming back."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from wearable_pipeline.registry.database import clean
from wearable_pipeline.registry.schema import connect_sessions
from wearable_pipeline.registry.store import Store

SESSION_LIFETIME = timedelta(minutes=15)
# Whoever waits for a session to end must still find how it ended.
_KEPT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ConnectSession:
    """One attempt to connect. `values` (PKCE verifier, redirect target) are kept encrypted.

    `user_id` is set once it ended well, `error` once it did not.
    """

    session_id: str
    provider: str
    values: dict[str, object] = field(repr=False)
    expires_at: datetime
    is_used: bool
    user_id: str | None
    error: str | None


class ConnectSessions(Store):
    """Starting, redeeming once, and ending sessions."""

    def start_session(
        self, provider: str, values: Mapping[str, object], lifetime: timedelta = SESSION_LIFETIME
    ) -> tuple[ConnectSession, str]:
        """A new session and its state, which is never stored: only its hash is."""
        now = self._clock()
        session_id, secret = secrets.token_hex(16), secrets.token_urlsafe(32)
        row = {
            "session_id": session_id,
            "provider": provider,
            "secret_hash": _hash(secret),
            "sealed": self._keys.seal(session_id, values),
            "created_at": now,
            "expires_at": now + lifetime,
        }
        old = sa.delete(connect_sessions).where(connect_sessions.c.expires_at < now - _KEPT)

        def start(connection: sa.engine.Connection) -> None:
            connection.execute(old)
            connection.execute(sa.insert(connect_sessions).values(row))

        self._db.write(start)
        session = ConnectSession(
            session_id, provider, dict(values), now + lifetime, False, None, None
        )
        return session, f"{session_id}.{secret}"

    def redeem_session(self, provider: str, state: str) -> ConnectSession | None:
        """The session of that state, used up by this call.

        None when it is unknown, of another provider, expired or used before.
        """
        session = self.peek_session(provider, state)
        if session is None:
            return None
        now = self._clock()
        use = (
            sa.update(connect_sessions)
            .where(
                connect_sessions.c.session_id == session.session_id,
                connect_sessions.c.used_at.is_(None),
                connect_sessions.c.expires_at > now,
            )
            .values(used_at=now)
        )
        won = self._db.write(lambda connection: connection.execute(use).rowcount > 0)
        return session if won else None

    def peek_session(self, provider: str, state: str) -> ConnectSession | None:
        """The session of that state if it may still be redeemed; leaves it as it is."""
        session_id, _, secret = state.partition(".")
        row = self._row(session_id)
        stored = row.secret_hash if row is not None else _hash("")
        # The same work whether or not there is such a session.
        is_right = hmac.compare_digest(stored, _hash(secret))
        if row is None or not is_right or row.provider != provider:
            return None
        if row.used_at is not None or row.expires_at <= self._clock():
            return None
        return self._session(row)

    def find_session(self, session_id: str) -> ConnectSession | None:
        """The session of that id, however it stands; None when there is none."""
        row = self._row(session_id)
        return None if row is None else self._session(row)

    def end_session(
        self, session_id: str, *, user_id: str | None = None, error: str | None = None
    ) -> None:
        """Note how a session ended; what it kept secret is forgotten."""
        end = (
            sa.update(connect_sessions)
            .where(connect_sessions.c.session_id == session_id)
            .values(user_id=user_id, error=clean(error), sealed=self._keys.seal(session_id, {}))
        )
        self._db.write(lambda connection: connection.execute(end))

    def _row(self, session_id: str) -> "sa.Row[tuple[object, ...]] | None":
        query = sa.select(connect_sessions).where(connect_sessions.c.session_id == session_id)
        return self._db.read(lambda connection: connection.execute(query).first())

    def _session(self, row: "sa.Row[tuple[object, ...]]") -> ConnectSession:
        found = row._mapping
        return ConnectSession(
            found["session_id"],
            found["provider"],
            self._keys.unseal(found["session_id"], found["sealed"]),
            found["expires_at"],
            found["used_at"] is not None,
            found["user_id"],
            found["error"],
        )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

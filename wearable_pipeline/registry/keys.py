"""The secret key: where it comes from, and encrypting and hashing with it.

A key that does not fit what is stored is noticed before anything is written with it.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy.engine import Connection

from wearable_pipeline.errors import UsageError
from wearable_pipeline.registry.database import Database
from wearable_pipeline.registry.schema import credentials, salts

_ACCOUNT = "account"
_SUBJECT = "subject"
_HALF_WRITTEN_SECONDS = 2.0


class KeyRing:
    """The keys of this installation, read at first use, newest first."""

    def __init__(self, database: Database, secret_key: str | None, key_file: Path) -> None:
        self._db = database
        self._secret_key = secret_key
        self._key_file = key_file
        self._lock = threading.Lock()
        self._fernets: list[Fernet] = []
        self._account_salt = b""

    def __repr__(self) -> str:
        return "<KeyRing>"

    @property
    def source(self) -> str:
        """Where the keys come from, for messages."""
        return "WEARABLE_SECRET_KEY" if self._secret_key else f"key file {self._key_file}"

    def encrypt(self, plain: bytes) -> bytes:
        """`plain` under the newest key."""
        return self._load()[0].encrypt(plain)

    def decrypt(self, token: bytes, what: str) -> bytes:
        """The bytes behind `token`. Raises UsageError naming `what` when no key fits."""
        try:
            return MultiFernet(self._load()).decrypt(token)
        except InvalidToken:
            pass
        # Somebody may have put a newer key in front of the file while this process was running.
        try:
            return MultiFernet(self._load(again=True)).decrypt(token)
        except InvalidToken:
            raise UsageError(
                f"{what} cannot be decrypted with {self.source}: add the key it was written with"
                " (newest first, separated by commas), or connect the user again"
            ) from None

    def seal(self, user_id: str, values: Mapping[str, object]) -> bytes:
        """The user's credentials, encrypted. Raises UsageError when they are not plain JSON."""
        try:
            # The owner is sealed in, so a row copied onto another user does not open.
            plain = json.dumps({"user_id": user_id, "values": dict(values)}, allow_nan=False)
        except (TypeError, ValueError):
            raise UsageError(f"credentials of user {user_id} must be plain JSON values") from None
        return self.encrypt(plain.encode())

    def unseal(self, user_id: str, token: bytes) -> dict[str, object]:
        """What `seal` was given. Raises UsageError when no key fits or it is another user's."""
        sealed = json.loads(self.decrypt(token, f"credentials of user {user_id}"))
        if sealed["user_id"] != user_id:
            raise UsageError(f"the stored credentials of user {user_id} belong to another user")
        values: dict[str, object] = sealed["values"]
        return values

    def is_newest(self, token: bytes) -> bool:
        """Whether `token` was written with the newest key."""
        try:
            self._load()[0].decrypt(token)
        except InvalidToken:
            return False
        return True

    def hash_account(self, provider: str, account_id: str) -> str:
        """A stable name for an account that cannot be guessed back without the secret key."""
        self._load()
        return _keyed_hash(self._account_salt, provider, account_id)

    def hash_subject(self, connection: Connection, user_id: str) -> str:
        """A stable name for an erased user; needs no secret key, erasing must work without it."""
        connection.execute(
            self._db.insert(salts)
            .values(name=_SUBJECT, value=secrets.token_bytes(32))
            .on_conflict_do_nothing()
        )
        salt = connection.execute(
            sa.select(salts.c.value).where(salts.c.name == _SUBJECT)
        ).scalar_one()
        return _keyed_hash(salt, "user", user_id)

    def rotate_salt(self) -> None:
        """Put the account salt under the newest key; its value, and so every hash, stays."""
        value = self._load(again=True)[0].encrypt(self._account_salt)
        change = sa.update(salts).where(salts.c.name == _ACCOUNT).values(value=value)
        self._db.write(lambda connection: connection.execute(change))

    def _load(self, *, again: bool = False) -> list[Fernet]:
        with self._lock:
            if not self._fernets or again:
                fernets = self._read_keys()
                self._account_salt = self._prove(fernets)
                self._fernets = fernets
            return self._fernets

    def _read_keys(self) -> list[Fernet]:
        text = self._secret_key if self._secret_key else self._read_file()
        keys = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
        try:
            fernets = [Fernet(key) for key in keys]
        except ValueError:
            fernets = []
        if not fernets:
            raise UsageError(
                f"{self.source} holds no usable key: make one with python -c 'from cryptography"
                ".fernet import Fernet; print(Fernet.generate_key().decode())'"
            ) from None
        return fernets

    def _read_file(self) -> str:
        deadline = time.monotonic() + _HALF_WRITTEN_SECONDS
        while True:
            try:
                text = self._key_file.read_text(encoding="ascii")
            except FileNotFoundError:
                self._make_file()
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"{self.source} cannot be read ({type(error).__name__})") from None
            # The process that makes the file ends it with a line break.
            if text.endswith("\n") or time.monotonic() > deadline:
                return text
            time.sleep(0.02)

    def _make_file(self) -> None:
        # Secrets without a file are a lost key, unless another process made both since we looked.
        if self._db.read(self._holds_secrets) and not self._key_file.exists():
            raise UsageError(
                f"{self.source} is missing but the registry holds encrypted credentials;"
                " restore the file or set WEARABLE_SECRET_KEY to the key they were written with"
            )
        try:
            self._key_file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        except OSError as error:
            raise UsageError(f"{self.source} cannot be written ({error.strerror})") from None
        try:
            os.write(descriptor, Fernet.generate_key() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # The first credentials must not outlive, after a power cut, the only key that opens them.
        with contextlib.suppress(OSError):
            folder = os.open(self._key_file.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    @staticmethod
    def _holds_secrets(connection: Connection) -> bool:
        salt = sa.select(salts.c.name).where(salts.c.name == _ACCOUNT).limit(1)
        token = sa.select(credentials.c.user_id).limit(1)
        return any(connection.execute(query).first() is not None for query in (salt, token))

    def _prove(self, fernets: list[Fernet]) -> bytes:
        query = sa.select(salts.c.value).where(salts.c.name == _ACCOUNT)
        stored = self._db.read(lambda connection: connection.execute(query).scalar())
        if stored is None:
            fresh = fernets[0].encrypt(secrets.token_bytes(32))

            def keep(connection: Connection) -> bytes:
                connection.execute(
                    self._db.insert(salts)
                    .values(name=_ACCOUNT, value=fresh)
                    .on_conflict_do_nothing()
                )
                value: bytes = connection.execute(query).scalar_one()
                return value

            stored = self._db.write(keep)
        try:
            return MultiFernet(fernets).decrypt(stored)
        except InvalidToken:
            raise UsageError(
                f"{self.source} is not the key the registry was written with;"
                " put the old key behind the new one, separated by a comma, or restore it"
            ) from None


def _keyed_hash(salt: bytes, *parts: str) -> str:
    message = "\x00".join(parts).encode("utf-8", "surrogatepass")
    return hmac.new(salt, message, hashlib.sha256).hexdigest()

"""The Supabase destination: its Postgres, its storage, or its HTTP interface to tables.

Directly to the database (`mode = "postgres"`) it is the SQL destination, with a bucket beside it if
one is named: the JSON of a row is put there while the row's revision is locked, so the bucket is as
the tables are. Through the HTTP interface (`mode = "rest"`) a row travels whole, its samples as JSON
columns, because a request is a transaction and rows of several tables are not. Its tables are made
by `rest_ddl`; a trigger keeps older revisions out, and a withdrawn row leaves a line of its key.

Supabase publishes what lies in `public` to the project's anonymous key: row level security is
turned on for every table made here, so only the service key and the owner read them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import polars as pl
from pydantic import Field, SecretStr

from wearable_pipeline.destinations._addresses import LOCAL_NAMES
from wearable_pipeline.destinations._contract import (
    Batch,
    Destination,
    Event,
    Item,
    Outcome,
    Sender,
    UserInfo,
    delivered,
    permanent,
    untried,
)
from wearable_pipeline.destinations._events import VERSION
from wearable_pipeline.destinations._sql_relations import (
    ORDERING,
    Relation,
    events_of,
    users_of,
    whole_rows_of,
)
from wearable_pipeline.destinations._sql_stores import PostgresStore, RowsRefusedError, make_store
from wearable_pipeline.destinations.sql import SqlSender, TableSettings, access_to, payload_id
from wearable_pipeline.destinations.webhook import encode_data
from wearable_pipeline.errors import PermanentError, TransientError, UsageError
from wearable_pipeline.model import TABLES
from wearable_pipeline.raw.client import parse_retry_after

CONCURRENCY = 8
# Of one request; a day of glucose is some tens of kilobytes.
REQUEST_BYTES = 4 * 1024 * 1024
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SQLSTATE_OF_ROWS = ("22", "23", "P0")
_NEVER_NULL = ("is_deleted", ORDERING)


class SupabaseSettings(TableSettings):
    """What one project needs."""

    mode: Literal["postgres", "rest"] = Field(
        "postgres", description="Write to the database itself, or through the HTTP interface."
    )
    url: SecretStr | None = Field(
        None, description="postgresql://… of the project's database or its pooler (mode postgres)."
    )
    project_url: str | None = Field(
        None, description="https://<project>.supabase.co (mode rest, and for a bucket)."
    )
    service_key: SecretStr | None = Field(
        None, description="Service role key or secret key of the project."
    )
    bucket: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Private storage bucket that keeps the JSON of every row (mode postgres).",
    )
    concurrency: int = Field(CONCURRENCY, ge=1, le=64, description="Uploads at a time.")


class SupabaseHttp:
    """Requests to a project with its service key; a context manager."""

    def __init__(self, settings: SupabaseSettings, name: str) -> None:
        self.name = name
        self.base = _check_project(settings, name)
        self._settings = settings
        self._client: httpx.Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def send(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """The answer, whatever it says. Raises TransientError when there is none."""
        if self._client is None:
            self._client = self._connect()
        try:
            return self._client.request(method, path, content=content, headers=headers)
        except httpx.TimeoutException:
            seconds = self._settings.timeout_seconds
            raise TransientError(f"{self.name}: no answer within {seconds:g} s") from None
        except httpx.HTTPError as error:
            raise TransientError(
                f"{self.name}: cannot be reached ({type(error).__name__})"
            ) from None

    def judge(self, answer: httpx.Response, what: str) -> None:
        """Return when it went well. Raises what the status means; nothing of the body is repeated."""
        if answer.status_code < 300:
            return
        status, code = answer.status_code, _code_of(answer)
        if what == "storage" and code.isdigit():
            status = int(code)  # it answers 400 to nearly everything
        shown = f"HTTP {status}" + (f", {code}" if code and not code.isdigit() else "")
        if status in (408, 425, 429) or status >= 500:
            asked = parse_retry_after(answer.headers.get("retry-after"), datetime.now(UTC))
            raise TransientError(f"{self.name}: {what} is not able to now ({shown})", asked)
        if code in ("42P01", "42703") or code.startswith("PGRST20"):
            raise PermanentError(
                f"{self.name}: tables or columns are missing ({shown}); run the SQL of"
                " wearable_pipeline.destinations.supabase.rest_ddl() in the SQL editor"
            )
        if status in (401, 403):
            raise PermanentError(f"{self.name}: {what} refuses service_key ({shown})")
        if status == 404:
            raise PermanentError(f"{self.name}: {what} has no such bucket or table ({shown})")
        if status == 413 or code.startswith(_SQLSTATE_OF_ROWS):
            raise RowsRefusedError(f"{self.name}: {what} refuses the row ({shown})")
        raise PermanentError(f"{self.name}: {what} does not take our requests ({shown})")

    def _connect(self) -> httpx.Client:
        key = self._settings.service_key
        secret = key.get_secret_value() if key is not None else ""
        return httpx.Client(
            base_url=self.base,
            headers={"apikey": secret, "Authorization": f"Bearer {secret}"},
            timeout=httpx.Timeout(
                self._settings.timeout_seconds, connect=self._settings.connect_timeout_seconds
            ),
            limits=httpx.Limits(max_connections=self._settings.concurrency),
            follow_redirects=False,
            trust_env=False,
        )


class BucketKeeper:
    """Keeps the JSON of rows in a storage bucket, one object each."""

    def __init__(self, http: SupabaseHttp, bucket: str, concurrency: int) -> None:
        self._http = http
        self._bucket = bucket
        self._concurrency = concurrency

    def put(self, items: Sequence[Item], texts: Sequence[bytes | memoryview]) -> list[str]:
        """Keep the texts; returns their addresses."""

        def upload(item: Item, text: bytes | memoryview) -> str:
            path = f"{self._bucket}/{object_path(item)}"
            answer = self._http.send(
                "POST",
                f"/storage/v1/object/{path}",
                encode_data([item], [text]),
                {"content-type": "application/json", "x-upsert": "true"},
            )
            self._http.judge(answer, "storage")
            return f"{self._http.base}/storage/v1/object/authenticated/{path}"

        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(upload, items, texts))

    def remove(self, items: Sequence[Item]) -> None:
        """Forget the texts of withdrawn rows; what is not there is fine."""
        content = msgspec.json.encode({"prefixes": [object_path(item) for item in items]})
        answer = self._http.send(
            "DELETE",
            f"/storage/v1/object/{self._bucket}",
            content,
            {"content-type": "application/json"},
        )
        self._http.judge(answer, "storage")


def object_path(item: Item) -> str:
    """Where a row's JSON lies in the bucket; storage takes few letters in names."""
    name = item.row_key if _SAFE_NAME.fullmatch(item.row_key) else payload_id(item)
    return f"{VERSION}/{item.table}/{item.user.user_id}/{name}.json"


class DirectSender:
    """Database and bucket together; a context manager."""

    def __init__(self, sender: SqlSender, http: SupabaseHttp | None) -> None:
        self._sender = sender
        self._http = http

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sender.__exit__(kind, error, traceback)
        if self._http is not None:
            self._http.__exit__(kind, error, traceback)

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """As the SQL destination does, and the bucket follows."""
        return self._sender.deliver(batch)

    def deliver_events(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """As the SQL destination does."""
        return self._sender.deliver_events(events)


class RestSender:
    """Upserts rows through the HTTP interface; a context manager."""

    def __init__(self, http: SupabaseHttp, settings: SupabaseSettings) -> None:
        self._http = http
        self._prefix = settings.prefix
        self._schema = settings.database_schema
        self._down: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.__exit__(kind, error, traceback)

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """Upsert the rows, as many a request as fit; refused ones are found by halving."""
        if self._down is not None:
            yield from (untried(item, self._down) for item in batch.items)
            return
        if not batch.items:
            return
        relation = whole_rows_of(batch.table, self._prefix)
        lines = _lines(batch)
        gathered: list[int] = []
        size = 0
        try:
            for index, line in enumerate(lines):
                if gathered and size + len(line) > REQUEST_BYTES:
                    yield from self._write(relation, batch.items, lines, gathered)
                    gathered, size = [], 0
                gathered.append(index)
                size += len(line)
            yield from self._write(relation, batch.items, lines, gathered)
        except TransientError as error:
            self._down = str(error)
            raise

    def deliver_events(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """Upsert the events, one after the other."""
        if self._down is not None:
            yield from (untried(event.item, self._down) for event in events)
            return
        for event in events:
            item = event.item
            line = {
                "event_id": item.row_key,
                "user_id": item.user.user_id,
                "type": item.table,
                "happened_at": datetime.fromtimestamp(item.ordering_timestamp / 1000, UTC),
                "body": event.body,
            }
            try:
                self._put_users([item.user])
                self._upsert(events_of(self._prefix), [msgspec.json.encode(line)])
            except RowsRefusedError as error:
                yield permanent(item, str(error))
            except TransientError as error:
                self._down = str(error)
                raise
            else:
                yield delivered(item)

    def _write(
        self,
        relation: Relation,
        items: Sequence[Item],
        lines: Sequence[bytes],
        picked: Sequence[int],
    ) -> Iterator[Outcome]:
        try:
            self._put_users([items[i].user for i in picked if not items[i].is_deleted])
            self._upsert(relation, [lines[index] for index in picked])
        except RowsRefusedError as error:
            if len(picked) == 1:
                yield permanent(items[picked[0]], str(error))
                return
            middle = len(picked) // 2
            yield from self._write(relation, items, lines, picked[:middle])
            yield from self._write(relation, items, lines, picked[middle:])
            return
        gone = {items[i].user.user_id for i in picked if items[i].is_deleted}
        for user_id in sorted(gone):
            self._drop_user(user_id)
        yield from (delivered(items[index]) for index in picked)

    def _put_users(self, users: Sequence[UserInfo]) -> None:
        known = {user.user_id: user for user in users}
        lines = [
            msgspec.json.encode(
                {
                    "user_id": u.user_id,
                    "provider": u.provider,
                    "reference_id": u.reference_id,
                    "scopes": u.scopes,
                    "created_at": u.created_at,
                    "is_active": u.is_active,
                }
            )
            for _, u in sorted(known.items())
        ]
        if lines:
            self._upsert(users_of(self._prefix), lines)

    def _upsert(self, relation: Relation, lines: Sequence[bytes]) -> None:
        self._request(
            "POST",
            f"/rest/v1/{relation.name}?on_conflict={','.join(relation.key)}",
            b"[" + b",".join(lines) + b"]",
            {"Prefer": "resolution=merge-duplicates,return=minimal"},
        )

    def _drop_user(self, user_id: str) -> None:
        """Forget a user none of whose rows is left."""
        of_user = f"user_id=eq.{quote(user_id)}"
        for table in TABLES.values():
            if table.is_dated:
                left = self._request(
                    "GET",
                    f"/rest/v1/{self._prefix}{table.name}?select=user_id&{of_user}"
                    "&is_deleted=is.false&limit=1",
                )
                if left.json():
                    return
        for relation in (users_of(self._prefix), events_of(self._prefix)):
            self._request("DELETE", f"/rest/v1/{relation.name}?{of_user}")

    def _request(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        more = {"content-type": "application/json", **(headers or {})}
        if self._schema is not None:
            more |= {"Accept-Profile": self._schema, "Content-Profile": self._schema}
        answer = self._http.send(method, path, content, more)
        self._http.judge(answer, "the HTTP interface")
        return answer


def rest_ddl(prefix: str = "wearable_", schema: str = "public") -> str:
    """SQL that makes the tables of `mode = "rest"`, or adds the columns a newer version has.

    To be run by a person in the project's SQL editor: the HTTP interface makes no tables. Another
    schema than `public` has to be among the exposed ones of the project's API settings.
    """
    function = f'"{schema}"."{prefix}keep_newest"'
    lines = [
        f'CREATE SCHEMA IF NOT EXISTS "{schema}";',
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$",
        f"BEGIN IF NEW.{ORDERING} < OLD.{ORDERING} THEN RETURN NULL; END IF; RETURN NEW; END $$;",
    ]
    rows = [whole_rows_of(table, prefix) for table in TABLES.values() if table.is_dated]
    for relation in (*rows, users_of(prefix), events_of(prefix)):
        name = f'"{schema}"."{relation.name}"'
        kinds = {field.name: PostgresStore.types[field.kind] for field in relation.fields}
        must = {*relation.key, *(n for n in _NEVER_NULL if n in kinds)}
        columns = ", ".join(
            f'"{column}" {kind}{" NOT NULL" if column in must else ""}'
            for column, kind in kinds.items()
        )
        key = ", ".join(f'"{column}"' for column in relation.key)
        lines.append(f"CREATE TABLE IF NOT EXISTS {name} ({columns}, PRIMARY KEY ({key}));")
        added = ", ".join(
            f'ADD COLUMN IF NOT EXISTS "{column}" {kind}'
            for column, kind in kinds.items()
            if column not in must
        )
        lines.append(f"ALTER TABLE {name} {added};")
        lines.append(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;")
        if relation in rows:
            lines.append(
                f"CREATE OR REPLACE TRIGGER keep_newest BEFORE UPDATE ON {name}"
                f" FOR EACH ROW EXECUTE FUNCTION {function}();"
            )
    # Of `public` the service key's role has these already.
    lines += [
        "DO $$ BEGIN IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'service_role') THEN",
        f'GRANT USAGE ON SCHEMA "{schema}" TO service_role;',
        f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO service_role;',
        "END IF; END $$;",
        "NOTIFY pgrst, 'reload schema';",
    ]
    return "\n".join(lines) + "\n"


def _lines(batch: Batch) -> list[bytes]:
    """The rows of a batch as JSON objects, made by column."""
    texts = [name for name, dtype in batch.rows.schema.items() if dtype == pl.String]
    rows = batch.rows.with_columns(
        # Postgres keeps no zero characters.
        pl.col(texts).str.replace_all("\0", "\N{REPLACEMENT CHARACTER}", literal=True),
        pl.Series(ORDERING, [item.ordering_timestamp for item in batch.items], dtype=pl.Int64),
        pl.Series("is_deleted", [item.is_deleted for item in batch.items], dtype=pl.Boolean),
    )
    # A withdrawn row is its key alone.
    keys = pl.DataFrame(
        [(item.user.user_id, item.row_key, item.date) for item in batch.items],
        schema={"user_id": pl.String, "row_key": pl.String, "local_date": pl.Date},
        orient="row",
    )
    named = {
        name: keys["local_date" if name == "local_date" else "row_key"]
        for name in batch.table.row_key
        if name != "user_id"
    }
    rows = rows.with_columns(**named)
    return rows.write_ndjson().encode().splitlines()


def _code_of(answer: httpx.Response) -> str:
    """The code an error's body names, when it is a code."""
    try:
        said = json.loads(answer.content)
    except ValueError:
        return ""
    found = said.get("code") or said.get("statusCode") if isinstance(said, dict) else None
    text = str(found or "")
    return text if re.fullmatch(r"[A-Z0-9]{3,8}", text) else ""


def _check_project(settings: SupabaseSettings, name: str) -> str:
    if settings.project_url is None or settings.service_key is None:
        raise UsageError(
            f"{name}: project_url and service_key are needed for mode rest and for a bucket"
        )
    parts = urlsplit(settings.project_url.rstrip("/"))
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username:
        raise UsageError(f"{name}: project_url is not an address like https://project.supabase.co")
    is_local = parts.hostname in LOCAL_NAMES or parts.hostname.startswith("127.")
    if parts.scheme == "http" and not (is_local or settings.allow_plaintext):
        raise UsageError(
            f"{name}: project_url is http, health data would travel in the clear; use https or set"
            " allow_plaintext = true"
        )
    return parts.geturl()


def open_supabase(
    settings: SupabaseSettings, name: str = "supabase"
) -> AbstractContextManager[Sender]:
    """A sender for the project. Raises UsageError when it may not or cannot be used."""
    if settings.mode == "rest":
        for key, value in (("url", settings.url), ("bucket", settings.bucket)):
            if value is not None:
                raise UsageError(f"{name}: {key} is for mode postgres; drop it or the mode")
        if settings.terra_tables:
            raise UsageError(f"{name}: terra_tables is for mode postgres; drop it or the mode")
        return RestSender(SupabaseHttp(settings, name), settings)
    if settings.url is None:
        raise UsageError(
            f"{name}: url is not set: the project's postgresql://…, or set mode = 'rest'"
        )
    access = access_to(settings, settings.url, name, "supabase", guards_rows=True)
    if access.url.get_backend_name() != "postgresql":
        raise UsageError(f"{name}: url is not postgresql://…; use kind sql for other databases")
    http = keeper = None
    if settings.bucket is not None:
        http = SupabaseHttp(settings, name)
        keeper = BucketKeeper(http, settings.bucket, settings.concurrency)
    elif settings.project_url is not None or settings.service_key is not None:
        raise UsageError(
            f"{name}: project_url and service_key do nothing without bucket or mode = 'rest'"
        )
    return DirectSender(SqlSender(make_store(access), settings, keeper), http)


DESTINATION = Destination(
    name="supabase",
    title="Supabase",
    kind="database",
    summary="The SQL tables in a Supabase project, with a storage bucket for the JSON of rows.",
    settings=SupabaseSettings,
    open=open_supabase,
    takes_events=True,
    extra="supabase",
    batch_rows=1_000,
)

"""A Supabase project's double: storage in memory, PostgREST's tables over a real Postgres.

Of PostgREST it speaks upserts (`Prefer: resolution=merge-duplicates`), reads and deletes with the
filters `eq` and `is`, its codes and its one transaction per request. Of storage it speaks uploads,
`x-upsert`, removal by `prefixes`, and that nearly every refusal is an HTTP 400 with the status inside.
"""

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg2

SERVICE_KEY = "service-key-of-the-tests"
_STATUS = {"42501": 403, "42P01": 404, "23503": 409, "23505": 409}
_STORAGE_NAME = re.compile(r"[\w/!\-.*'() &$@=;:+,?]+", re.ASCII)


class _RefusedError(Exception):
    def __init__(self, status: int, code: str, inside: int | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.body = {"code": code, "message": "glucose 123.456 of Example Person"}
        if inside is not None:
            self.body = {"statusCode": str(inside), "error": code, "message": code}


@dataclass
class SupabaseDouble:
    """The project: `objects` by bucket and path, tables in the database of `database_url`."""

    database_url: str
    objects: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"payloads": {}})
    seen: list[tuple[str, str]] = field(default_factory=list)
    # Answers instead of its own, one request each.
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    largest_object: int = 50 * 1024 * 1024
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        class Handler(_Handler):
            project = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    project: SupabaseDouble

    def log_message(self, *_: object) -> None:
        """Nothing: the log would only repeat the tests."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        with self.project.lock:
            self.project.seen.append((self.command, parts.path))
            forced = self.project.answers.pop(0) if self.project.answers else None
        try:
            if forced is not None:
                return self._answer(forced[0], {}, forced[1])
            self._check_key(parts.path)
            if parts.path.startswith("/storage/v1/object/"):
                rest = unquote(parts.path.removeprefix("/storage/v1/object/"))
                return self._answer(200, self._store(rest, body))
            if parts.path.startswith("/rest/v1/"):
                table = parts.path.removeprefix("/rest/v1/")
                return self._answer(*self._query(table, dict(parse_qsl(parts.query)), body))
            raise _RefusedError(404, "not_found")
        except _RefusedError as refused:
            return self._answer(refused.status, refused.body)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def _check_key(self, path: str) -> None:
        key = self.headers.get("Authorization")
        if key != f"Bearer {SERVICE_KEY}" or self.headers.get("apikey") != SERVICE_KEY:
            if path.startswith("/storage"):
                raise _RefusedError(400, "Unauthorized", 403)
            raise _RefusedError(401, "PGRST301")

    def _store(self, rest: str, body: bytes) -> object:
        bucket, _, path = rest.partition("/")
        held = self.project.objects.get(bucket)
        if held is None:
            raise _RefusedError(400, "NoSuchBucket", 404)
        with self.project.lock:
            if self.command == "DELETE":
                return [{"name": n} for n in json.loads(body)["prefixes"] if held.pop(n, None)]
            if not _STORAGE_NAME.fullmatch(path):
                raise _RefusedError(400, "InvalidKey", 400)
            if len(body) > self.project.largest_object:
                raise _RefusedError(400, "Payload too large", 413)
            if path in held and self.headers.get("x-upsert") != "true":
                raise _RefusedError(400, "Duplicate", 409)
            held[path] = body
            return {"Key": rest}

    def _query(self, table: str, query: dict[str, str], body: bytes) -> tuple[int, object]:
        schema = self.headers.get("Content-Profile", "public")
        name = f'"{schema}"."{table}"'
        if not re.fullmatch(r'"\w+"\."\w+"', name):
            raise _RefusedError(404, "PGRST125")
        with psycopg2.connect(self.project.database_url) as connection, connection.cursor() as c:
            c.execute(
                "select column_name from information_schema.columns"
                " where table_schema = %s and table_name = %s",
                [schema, table],
            )
            columns = {line[0] for line in c.fetchall()}
            if not columns:
                raise _RefusedError(404, "PGRST205")
            try:
                return self._run(c, name, columns, query, body)
            except psycopg2.Error as error:
                connection.rollback()
                code = str(error.pgcode)
                raise _RefusedError(_STATUS.get(code, 400), code) from None

    def _run(
        self, cursor: Any, name: str, columns: set[str], query: dict[str, str], body: bytes
    ) -> tuple[int, object]:
        options = {"select", "limit", "on_conflict"}
        wheres, values = ["true"], []
        for column, condition in query.items():
            if column in options:
                continue
            operator, _, value = condition.partition(".")
            if column not in columns:
                raise _RefusedError(400, "42703")
            wheres.append(
                f'"{column}" {"is" if operator == "is" else "="} '
                + (value if operator == "is" else "%s")
            )
            values += [] if operator == "is" else [value]
        where = " and ".join(wheres)
        if self.command == "GET":
            cursor.execute(
                f"select {query['select']} from {name} where {where} limit {int(query['limit'])}",
                values,
            )
            return 200, [list(line) for line in cursor.fetchall()]
        if self.command == "DELETE":
            cursor.execute(f"delete from {name} where {where}", values)
            return 204, None
        lines = json.loads(body)
        keys = list(lines[0])
        if any(list(line) != keys for line in lines):
            raise _RefusedError(400, "PGRST102")
        if set(keys) - columns:
            raise _RefusedError(400, "PGRST204")
        listed = ", ".join(f'"{key}"' for key in keys)
        assert "resolution=merge-duplicates" in self.headers["Prefer"]
        conflict = ", ".join(f'"{key}"' for key in query["on_conflict"].split(","))
        updates = ", ".join(f'"{key}" = excluded."{key}"' for key in keys)
        cursor.execute(
            f"insert into {name} ({listed}) select {listed}"
            f" from jsonb_populate_recordset(null::{name}, %s::jsonb)"
            f" on conflict ({conflict}) do update set {updates}",
            [body.decode()],
        )
        return 201, None

    def _answer(self, status: int, said: object, headers: dict[str, str] | None = None) -> None:
        data = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if status != 204:
            self.wfile.write(data)

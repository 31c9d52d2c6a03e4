"""A Google Cloud Storage stand-in: the XML API as obstore and polars speak it.

Generations, `x-goog-if-generation-match`, ETags, ranges, paged listings, multipart uploads, user
metadata. A bearer token is checked when one is sent. Run as a script: `gcs.py --port 8080`.
Missing buckets are missing; `PUT /bucket` makes one.
"""

import argparse
import hashlib
import itertools
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

TOKEN = "wearable-tests-token"
PAGE = 1000


@dataclass(frozen=True)
class _Blob:
    data: bytes
    generation: int
    modified_at: datetime
    metadata: dict[str, str]

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}"'


@dataclass
class Buckets:
    """What the server holds, in memory."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    blobs: dict[str, dict[str, _Blob]] = field(default_factory=dict)
    uploads: dict[str, tuple[dict[str, str], dict[int, bytes]]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1_700_000_000))


class _RefusedError(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    buckets: Buckets

    def log_message(self, *_: object) -> None:
        """Nothing: the log would only repeat the tests."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        parts = urlsplit(self.path)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        try:
            token = self.headers.get("Authorization")
            if token not in (None, "Bearer", "Bearer ", f"Bearer {TOKEN}"):
                raise _RefusedError(401, "AuthenticationRequired")
            with self.buckets.lock:
                self._route(unquote(bucket), unquote(key), query, body)
        except _RefusedError as refused:
            self._answer(
                refused.status,
                f"<?xml version='1.0'?><Error><Code>{refused.code}</Code></Error>".encode(),
                {"Content-Type": "application/xml"},
            )

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _route(self, bucket: str, key: str, query: dict[str, str], body: bytes) -> None:
        if not key and self.command == "PUT":
            self.buckets.blobs.setdefault(bucket, {})
            return self._answer(200)
        blobs = self.buckets.blobs.get(bucket)
        if blobs is None:
            raise _RefusedError(404, "NoSuchBucket")
        if not key:
            return self._list(blobs, query)
        if self.command == "POST":
            return self._multipart(blobs, key, query, body)
        if self.command == "PUT" and "uploadId" in query:
            _, pieces = self._upload(query)
            pieces[int(query["partNumber"])] = body
            return self._answer(200, headers={"ETag": f'"{hashlib.sha256(body).hexdigest()}"'})
        self._check_generation(blobs.get(key))
        if self.command == "PUT":
            metadata = {k: v for k, v in self.headers.items() if k.startswith("x-goog-meta-")}
            return self._store(blobs, key, body, metadata)
        if self.command == "DELETE" and "uploadId" in query:
            self.buckets.uploads.pop(query["uploadId"], None)
            return self._answer(204)
        if key not in blobs:
            raise _RefusedError(404, "NoSuchKey")
        if self.command == "DELETE":
            del blobs[key]
            return self._answer(204)
        return self._read(blobs[key])

    def _check_generation(self, blob: _Blob | None) -> None:
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (blob.generation if blob else 0):
            raise _RefusedError(412, "PreconditionFailed")

    def _store(
        self, blobs: dict[str, _Blob], key: str, data: bytes, metadata: dict[str, str]
    ) -> None:
        blob = _Blob(data, next(self.buckets.numbers), datetime.now(UTC), metadata)
        blobs[key] = blob
        self._answer(200, headers=_describe(blob))

    def _read(self, blob: _Blob) -> None:
        headers = _describe(blob) | blob.metadata | {"Accept-Ranges": "bytes"}
        wanted = self.headers.get("If-Match")
        if wanted is not None and wanted != blob.etag:
            raise _RefusedError(412, "PreconditionFailed")
        data, total = blob.data, len(blob.data)
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if found is None:
            return self._answer(200, data, headers)
        first, last = found.groups()
        start = int(first) if first else max(0, total - int(last))
        end = min(int(last) + 1, total) if first and last else total
        if start >= total:
            raise _RefusedError(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        return self._answer(206, data[start:end], headers)

    def _list(self, blobs: dict[str, _Blob], query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after") or ""
        limit = min(int(query.get("max-keys", PAGE)), PAGE)
        contents: list[str] = []
        folders: list[str] = []
        shown, more = after, False
        for key in sorted(blobs):
            if not key.startswith(prefix) or key <= after:
                continue
            rest = key[len(prefix) :]
            is_folder = bool(delimiter) and delimiter in rest
            folder = prefix + rest.split(delimiter)[0] + delimiter if is_folder else ""
            if is_folder and (after.startswith(folder) or folder in folders):
                shown = key
                continue
            if len(contents) + len(folders) == limit:
                more = True
                break
            if is_folder:
                folders.append(folder)
            else:
                blob = blobs[key]
                contents.append(
                    f"<Contents><Key>{escape(key)}</Key><Generation>{blob.generation}</Generation>"
                    f"<LastModified>{blob.modified_at:%Y-%m-%dT%H:%M:%S.%f}Z</LastModified>"
                    f"<ETag>{escape(blob.etag)}</ETag><Size>{len(blob.data)}</Size></Contents>"
                )
            shown = key
        folder_xml = "".join(
            f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in folders
        )
        next_xml = f"<NextContinuationToken>{escape(shown)}</NextContinuationToken>" if more else ""
        self._answer(
            200,
            (
                "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>"
                f"<IsTruncated>{str(more).lower()}</IsTruncated>{next_xml}"
                f"{''.join(contents)}{folder_xml}</ListBucketResult>"
            ).encode(),
            {"Content-Type": "application/xml"},
        )

    def _upload(self, query: dict[str, str]) -> tuple[dict[str, str], dict[int, bytes]]:
        try:
            return self.buckets.uploads[query["uploadId"]]
        except KeyError:
            raise _RefusedError(404, "NoSuchUpload") from None

    def _multipart(
        self, blobs: dict[str, _Blob], key: str, query: dict[str, str], body: bytes
    ) -> None:
        if "uploads" in query:
            upload = str(next(self.buckets.numbers))
            metadata = {k: v for k, v in self.headers.items() if k.startswith("x-goog-meta-")}
            self.buckets.uploads[upload] = (metadata, {})
            return self._answer(
                200,
                f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"
                "</InitiateMultipartUploadResult>".encode(),
            )
        metadata, pieces = self._upload(query)
        order = [int(n) for n in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
        if any(number not in pieces for number in order):
            raise _RefusedError(400, "InvalidPart")
        data = b"".join(pieces[number] for number in order)
        blob = _Blob(data, next(self.buckets.numbers), datetime.now(UTC), metadata)
        blobs[key] = blob
        del self.buckets.uploads[query["uploadId"]]
        return self._answer(
            200,
            "<CompleteMultipartUploadResult>"
            f"<Location>/{quote(key)}</Location><ETag>{escape(blob.etag)}</ETag>"
            "</CompleteMultipartUploadResult>".encode(),
            {"x-goog-generation": str(blob.generation)},
        )

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _describe(blob: _Blob) -> dict[str, str]:
    return {
        "ETag": blob.etag,
        "Last-Modified": format_datetime(blob.modified_at, usegmt=True),
        "x-goog-generation": str(blob.generation),
        "Content-Type": "application/octet-stream",
    }


def serve(port: int) -> ThreadingHTTPServer:
    """A server on 127.0.0.1:`port`, not yet running."""
    handler = type("Handler", (_Handler,), {"buckets": Buckets()})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    serve(parser.parse_args().port).serve_forever()

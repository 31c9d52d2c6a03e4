"""A double of Firestore's gRPC service, on the client library's own messages: BatchGetDocuments,
BatchWrite, Commit and ListDocuments, with preconditions, limits and write statuses as documented.

As a script: `firestore.py --port 8080`. Refusals are told by names: projects `locked…` and `denied…`
refuse everybody, a document whose `reference_id` is `unwelcome` or `throttled` has its write refused,
and in projects `racing…` somebody else writes every document between the first read and write of it.
"""

import argparse
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.cloud.firestore_v1.types import (
    BatchGetDocumentsRequest,
    BatchGetDocumentsResponse,
    BatchWriteRequest,
    BatchWriteResponse,
    CommitRequest,
    CommitResponse,
    Document,
    ListDocumentsRequest,
    ListDocumentsResponse,
)

DOCUMENT_BYTES = 1024 * 1024
REQUEST_BYTES = 10 * 1024 * 1024
WRITES = 500
_SERVICE = "google.firestore.v1.Firestore"
_STATUS = grpc.StatusCode
_REFUSALS = {"unwelcome": _STATUS.INVALID_ARGUMENT, "throttled": _STATUS.RESOURCE_EXHAUSTED}

Message = Any


class Database:
    """Documents by name, all projects in one."""

    def __init__(self) -> None:
        self._documents: dict[str, Message] = {}
        self._raced: set[str] = set()
        self._lock = threading.Lock()
        self._last = 0

    def batch_get(self, request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
        _let_in(request.database, context)
        make = BatchGetDocumentsResponse.pb()
        for name in request.documents:
            with self._lock:
                found = self._documents.get(name)
                answer = (
                    make(missing=name) if found is None else make(found=_masked(found, request))
                )
            yield answer

    def batch_write(self, request: Message, context: grpc.ServicerContext) -> Message:
        _let_in(request.database, context)
        _check_limits(request, context)
        answer = BatchWriteResponse.pb()()
        for write in request.writes:
            with self._lock:
                status = self._judge(write)
                if status is _STATUS.OK:
                    self._apply(write)
            answer.write_results.add()
            answer.status.add(code=status.value[0])
        return answer

    def commit(self, request: Message, context: grpc.ServicerContext) -> Message:
        _let_in(request.database, context)
        _check_limits(request, context)
        with self._lock:
            judged = [self._judge(write) for write in request.writes]
            refused = [status for status in judged if status is not _STATUS.OK]
            if not refused:
                for write in request.writes:
                    self._apply(write)
        if refused:
            context.abort(refused[0], f"refused: {request}"[:2000])
        return CommitResponse.pb()()

    def list(self, request: Message, context: grpc.ServicerContext) -> Message:
        _let_in(request.parent, context)
        prefix = f"{request.parent}/{request.collection_id}/"
        with self._lock:
            names = sorted(
                name
                for name in self._documents
                if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
            )
            start = int(request.page_token or 0)
            end = start + (request.page_size or 100)
            page = [self._documents[name] for name in names[start:end]]
        token = str(end) if end < len(names) else ""
        return ListDocumentsResponse.pb()(documents=page, next_page_token=token)

    def _judge(self, write: Message) -> grpc.StatusCode:
        document = write.update
        name = document.name or write.delete
        if "reference_id" in document.fields:  # reading what is not there would make it
            refusal = _REFUSALS.get(document.fields["reference_id"].string_value)
            if refusal is not None:
                return refusal
        condition = write.current_document
        if condition.WhichOneof("condition_type") is None:
            return _STATUS.OK
        if name.startswith("projects/racing") and name not in self._raced:
            self._raced.add(name)
            other = Document.pb()(name=name)
            other.fields["ordering_timestamp"].integer_value = 1
            self._store(other)
        present = self._documents.get(name)
        if condition.HasField("exists") and condition.exists != (present is not None):
            return _STATUS.ALREADY_EXISTS if present is not None else _STATUS.NOT_FOUND
        if condition.HasField("update_time"):
            if present is None:
                return _STATUS.NOT_FOUND
            if present.update_time != condition.update_time:
                return _STATUS.FAILED_PRECONDITION
        return _STATUS.OK

    def _apply(self, write: Message) -> None:
        if write.delete:
            self._documents.pop(write.delete, None)
        else:
            self._store(write.update)

    def _store(self, document: Message) -> None:
        kept = Document.pb()()
        kept.CopyFrom(document)
        # Microseconds, as Firestore keeps them, and never the same one twice.
        self._last = max(self._last + 1, time.time_ns() // 1000)
        kept.update_time.FromMicroseconds(self._last)
        self._documents[document.name] = kept


def _check_limits(request: Message, context: grpc.ServicerContext) -> None:
    names = [write.update.name or write.delete for write in request.writes]
    if len(names) > WRITES or len(set(names)) < len(names):
        context.abort(_STATUS.INVALID_ARGUMENT, "too many writes, or one document twice")
    if request.ByteSize() > REQUEST_BYTES:
        context.abort(_STATUS.INVALID_ARGUMENT, "request too large")
    for write in request.writes:
        if write.update.ByteSize() > DOCUMENT_BYTES:
            context.abort(_STATUS.INVALID_ARGUMENT, f"too large: {write.update}"[:2000])


def _masked(document: Message, request: Message) -> Message:
    if not request.HasField("mask"):
        return document
    shown = Document.pb()(name=document.name, update_time=document.update_time)
    for path in request.mask.field_paths:
        if path in document.fields:
            shown.fields[path].CopyFrom(document.fields[path])
    return shown


def _let_in(path: str, context: grpc.ServicerContext) -> None:
    sent = dict(context.invocation_metadata())
    if path.startswith("projects/locked") or sent.get("authorization") != "Bearer owner":
        context.abort(_STATUS.UNAUTHENTICATED, f"who are you? {sent}")
    if path.startswith("projects/denied"):
        context.abort(_STATUS.PERMISSION_DENIED, f"Missing permissions on {path}")


def serve(port: int) -> None:
    """Serve until the process is ended."""
    database = Database()
    calls = {
        "BatchGetDocuments": grpc.unary_stream_rpc_method_handler(
            database.batch_get,
            BatchGetDocumentsRequest.pb().FromString,
            BatchGetDocumentsResponse.pb().SerializeToString,
        ),
        "BatchWrite": grpc.unary_unary_rpc_method_handler(
            database.batch_write,
            BatchWriteRequest.pb().FromString,
            BatchWriteResponse.pb().SerializeToString,
        ),
        "Commit": grpc.unary_unary_rpc_method_handler(
            database.commit, CommitRequest.pb().FromString, CommitResponse.pb().SerializeToString
        ),
        "ListDocuments": grpc.unary_unary_rpc_method_handler(
            database.list,
            ListDocumentsRequest.pb().FromString,
            ListDocumentsResponse.pb().SerializeToString,
        ),
    }
    server = grpc.server(
        ThreadPoolExecutor(8),
        options=[
            ("grpc.max_receive_message_length", 2 * REQUEST_BYTES),
            ("grpc.max_send_message_length", -1),
        ],
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, calls),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    serve(parser.parse_args().port)

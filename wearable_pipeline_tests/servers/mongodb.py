"""A MongoDB server over the wire protocol (nx-27017, in memory) that also refuses on demand.

As a script: `mongodb.py --port 27017`. What nx-27017 leaves out and a test wants is told by names:
whoever sends a password is refused, databases `readonly…` take no write, a document whose
`reference_id` is `unwelcome` breaks a validation rule and one of `throttled` is too much for now; in
databases `racing…` the first insert of every document loses against another one that is not seen.
"""

import argparse
import asyncio
from typing import Any

from nx_27017.handler import NeoSQLiteHandler
from nx_27017.server import run_server

_WRITES = ("insert", "update", "delete", "createIndexes", "bulkWrite")
_REFUSALS = {"unwelcome": 121, "throttled": 16500}

Message = dict[str, Any]


class RefusingHandler(NeoSQLiteHandler):
    """nx-27017's own handler behind a few refusals."""

    def __init__(self) -> None:
        super().__init__(data_dir="memory")
        self._raced: set[tuple[str, object]] = set()

    def handle_insert(self, msg: Message) -> tuple[int, Message]:
        return self._refusal(msg) or super().handle_insert(msg)

    def handle_command(self, msg: Message) -> tuple[int, Message]:
        refusal = self._refusal(msg)
        if refusal is not None:
            return refusal
        updates = [
            doc["updates"]
            for kind, doc in msg["sections"]
            if kind == "payload" and isinstance(doc, dict) and "updates" in doc
        ]
        if not updates:
            return super().handle_command(msg)
        return self._update(msg, updates[0])

    def _update(self, msg: Message, updates: list[Message]) -> tuple[int, Message]:
        """The updates that are not refused, and the errors of the others beside what came of them."""
        codes = [self._code(_database(msg), update) for update in updates]
        taken = [index for index, code in enumerate(codes) if code is None]
        errors = [
            {"index": index, "code": code, "errmsg": f"refused: {updates[index]['u']}"}
            for index, code in enumerate(codes)
            if code is not None
        ]
        updates[:] = [updates[index] for index in taken]
        request_id, answer = super().handle_command(msg)
        for fault in answer.get("writeErrors", ()):
            fault["index"] = taken[fault["index"]]
        if errors:
            answer["writeErrors"] = [*answer.get("writeErrors", ()), *errors]
        return request_id, answer

    def _code(self, database: str, update: Message) -> int | None:
        code = _REFUSALS.get(update["u"].get("reference_id"))
        key = (database, update["q"].get("_id"))
        if code is None and database.startswith("racing") and key not in self._raced:
            self._raced.add(key)
            return 11000
        return code

    def _refusal(self, msg: Message) -> tuple[int, Message] | None:
        body = next(doc for kind, doc in msg["sections"] if kind == "body")
        if "saslStart" in body:
            return msg["request_id"], {
                "ok": 0,
                "code": 18,
                "codeName": "AuthenticationFailed",
                "errmsg": "Authentication failed.",
            }
        if _database(msg).startswith("readonly") and any(name in body for name in _WRITES):
            return msg["request_id"], {
                "ok": 0,
                "code": 13,
                "codeName": "Unauthorized",
                "errmsg": f"not authorized to execute command {body}",
            }
        return None


def _database(msg: Message) -> str:
    body = next(doc for kind, doc in msg["sections"] if kind == "body")
    return str(body.get("$db", ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(run_server("127.0.0.1", parser.parse_args().port, RefusingHandler()))

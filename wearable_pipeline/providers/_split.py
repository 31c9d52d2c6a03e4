"""Cutting JSON answers into items without touching their bytes."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.providers._contract import Page

T = TypeVar("T")
IsOne = Callable[[Mapping[str, object]], bool]

# Of items read together: in memory they take some ten times the room.
_AT_ONCE = 1 << 20


def decode(body: bytes | msgspec.Raw, shape: type[T], what: str) -> T:
    """`body` read as `shape`, a msgspec type whose `msgspec.Raw` parts keep their exact bytes.

    Raises BadPayloadError naming `what`, never the content.
    """
    try:
        found: T = _decoder(cast(Hashable, shape)).decode(body)
        return found
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        kind = "a web page instead of JSON" if is_web_page(body) else "cut off or of another shape"
        raise BadPayloadError(f"{what}: the answer is {kind}") from None


@cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    # Reading a type anew for each body takes longer than reading a short body.
    return msgspec.json.Decoder(shape)


def is_web_page(body: bytes | msgspec.Raw) -> bool:
    """Whether a body that should be JSON is HTML."""
    return bytes(body)[:64].lstrip().startswith(b"<")


def decode_any(body: bytes) -> object:
    """`body` as JSON of any shape; None when it is none."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def item_fields(item: msgspec.Raw) -> dict[str, object]:
    """Fields of one item; none when it cannot be read or is no object: it is still kept raw."""
    fields = decode_any(bytes(item))
    return fields if isinstance(fields, dict) else {}


def with_fields(items: Iterable[msgspec.Raw]) -> Iterator[tuple[bytes, dict[str, object]]]:
    """The exact bytes of every item, and its fields as `item_fields` gives them, many read at once."""
    bodies: list[bytes] = []
    size = 0
    for item in items:
        body = bytes(item)
        bodies.append(body)
        size += len(body)
        if size >= _AT_ONCE:
            yield from zip(bodies, _fields_of(bodies), strict=True)
            bodies, size = [], 0
    yield from zip(bodies, _fields_of(bodies), strict=True)


def _fields_of(bodies: Sequence[bytes]) -> list[dict[str, object]]:
    read = decode_any(b"[" + b",".join(bodies) + b"]")
    # One that cannot be read spoils it for all of them.
    if not isinstance(read, list):
        read = [decode_any(body) for body in bodies]
    return [fields if isinstance(fields, dict) else {} for fields in read]


def content_id(body: bytes) -> str:
    """Identity of an item that carries none: the same bytes are the same item."""
    return f"sha256:{hashlib.sha256(body).hexdigest()[:32]}"


def items_of(page: Page, key: str, is_one: IsOne, what: str) -> list[msgspec.Raw]:
    """Items under `key` of an answer, of a bare list, or the one the body is, if `is_one` says so."""
    if page.body.lstrip()[:1] == b"[":
        return decode(page.body, list[msgspec.Raw], what)
    answer = decode(page.body, dict[str, msgspec.Raw], what)
    if key in answer:
        return decode(answer[key], list[msgspec.Raw], what)
    if is_one(item_fields(msgspec.Raw(page.body))):
        return [msgspec.Raw(page.body.strip())]
    raise BadPayloadError(f"{what}: the answer is cut off or of another shape")


def holds_items(answer: object, key: str, is_one: IsOne) -> bool:
    """Whether a decoded body is items under `key`, a bare list of them or one alone, and at least one."""
    items = answer.get(key, [answer]) if isinstance(answer, dict) else answer
    if not isinstance(items, list) or not items:
        return False
    return all(isinstance(one, dict) and is_one(one) for one in items)

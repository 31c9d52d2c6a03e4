"""Cutting JSON answers into items without touching their bytes."""

import hashlib
from typing import TypeVar

import msgspec

from wearable_pipeline.errors import BadPayloadError

T = TypeVar("T")


def decode(body: bytes | msgspec.Raw, shape: type[T], what: str) -> T:
    """`body` read as `shape`, a msgspec type whose `msgspec.Raw` parts keep their exact bytes.

    Raises BadPayloadError naming `what`, never the content.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError):
        head = bytes(body)[:64].lstrip().lower()
        kind = (
            "a web page instead of JSON" if head.startswith(b"<") else "cut off or of another shape"
        )
        raise BadPayloadError(f"{what}: the answer is {kind}") from None


def item_fields(item: msgspec.Raw) -> dict[str, object]:
    """Fields of one item; none when it is not an object, so that it can still be kept raw."""
    fields = msgspec.json.decode(item)
    return fields if isinstance(fields, dict) else {}


def content_id(body: bytes) -> str:
    """Identity of an item that carries none: the same bytes are the same item."""
    return f"sha256:{hashlib.sha256(body).hexdigest()[:32]}"

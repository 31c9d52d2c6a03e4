"""JSON Web Tokens (HS256) of the simulated providers, checked against the sandbox's clock."""

import base64
import hashlib
import hmac

import msgspec

_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")


def sign(claims: dict[str, object], key: str) -> str:
    """A token carrying these claims."""
    payload = base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=")
    body = _HEADER + b"." + payload
    return (body + b"." + _signature(body, key)).decode()


def read(token: str, key: str, now: int) -> dict[str, object] | None:
    """The claims of a token that is genuine and not expired at `now`, else None."""
    body, _, signature = token.encode().rpartition(b".")
    if body.count(b".") != 1 or not hmac.compare_digest(signature, _signature(body, key)):
        return None
    payload = body.partition(b".")[2]
    claims = msgspec.json.decode(
        base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)), type=dict[str, object]
    )
    expires = claims.get("exp")
    return claims if isinstance(expires, int) and now < expires else None


def _signature(body: bytes, key: str) -> bytes:
    digest = hmac.digest(key.encode(), body, hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=")

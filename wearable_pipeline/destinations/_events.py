"""The JSON of events about connections and requests, in the words clients of Terra read."""

from collections.abc import Mapping
from datetime import UTC, datetime

from wearable_pipeline.destinations._contract import Json, UserInfo
from wearable_pipeline.registry import StoredEvent

VERSION = "2022-03-16"

_MESSAGES = {
    "auth": "the user is connected",
    "deauth": "the user was disconnected",
    "user_reauth": "the user connected again",
    "access_revoked": "the user revoked access at the provider",
    "connection_error": "the provider refuses the connection; the user has to connect again",
    "permission_change": "the user changed what may be read",
    "large_request_processing": "a large request is being prepared",
    "large_request_sending": "a large request is being sent",
}
_STATUSES = {
    "auth": "success",
    "deauth": "success",
    "user_reauth": "warning",
    "access_revoked": "warning",
    "connection_error": "warning",
    "permission_change": "warning",
    "large_request_processing": "processing",
}
# What the event itself says about the connection; at a later try it may have changed again.
_ACTIVE = {
    "auth": True,
    "user_reauth": True,
    "permission_change": True,
    "deauth": False,
    "access_revoked": False,
    "connection_error": False,
}


def user_object(user: UserInfo, written_at: datetime | None, is_active: bool | None = None) -> Json:
    """The `user` of an event."""
    return {
        "user_id": user.user_id,
        "provider": user.provider,
        "created_at": _instant(user.created_at) if user.created_at else None,
        "last_webhook_update": _instant(written_at) if written_at else None,
        "scopes": user.scopes,
        "reference_id": user.reference_id,
        "active": user.is_active if is_active is None else is_active,
    }


def event_body(event: StoredEvent, user: UserInfo) -> Json:
    """The whole body of an event; it depends on nothing that changes between two tries."""
    detail: Mapping[str, object] = event.detail
    shown = user_object(user, event.at, _ACTIVE.get(event.type))
    body: Json = {"type": event.type}
    if event.type in _STATUSES:
        body["status"] = _STATUSES[event.type]
    body["message"] = _MESSAGES.get(event.type, event.type)
    if event.type == "user_reauth":
        old = {**shown, "user_id": detail.get("old_user_id", user.user_id), "active": False}
        body |= {"old_user": old, "new_user": shown}
    else:
        body["user"] = shown
    if event.type == "auth":
        # Clients demand text where we may have nothing to say.
        body |= {
            "reference_id": user.reference_id or "",
            "widget_session_id": str(detail.get("widget_session_id") or ""),
        }
    if event.type == "permission_change":
        body |= {name: str(detail.get(name) or "") for name in ("scopes_added", "scopes_removed")}
    for name in ("reference", "expected_payloads"):
        if name in detail:
            body[name] = detail[name]
    body["version"] = VERSION
    return body


def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds")

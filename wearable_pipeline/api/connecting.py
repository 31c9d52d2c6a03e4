"""Connecting in the browser: off to the provider, back with a code, a small page at the end."""

import asyncio
import html
import logging
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from wearable_pipeline.connect import begin_connecting, consent_address, finish_connecting
from wearable_pipeline.errors import PipelineError, TransientError, UsageError
from wearable_pipeline.providers import providers
from wearable_pipeline.providers._contract import Provider
from wearable_pipeline.registry import ConnectSession
from wearable_pipeline.workspace import Workspace

router = APIRouter()

_log = logging.getLogger(__name__)

# Codes and states must stay in no cache, no history of another site, no frame.
_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:32em;margin:15vh auto;padding:0 1em}}</style>
</head><body><h1>{title}</h1><p>{text}</p></body></html>
"""


@router.get("/connect/{provider}", response_class=Response)
async def start(
    request: Request,
    provider: str,
    ticket: str | None = None,
    reference_id: str | None = None,
    timezone: str | None = None,
    redirect: str | None = None,
) -> Response:
    """Send the browser to the provider; with `ticket`, for the session `users connect` made."""
    workspace: Workspace = request.app.state.workspace
    chosen = _oauth_provider(provider)
    if chosen is None:
        return _page(404, "Not found", "There is no such provider to connect to.")
    try:
        if ticket is not None:
            found = await asyncio.to_thread(workspace.registry.peek_session, chosen.name, ticket)
            if found is None:
                return _page(410, "Too late", "This link was used before or has expired.")
            session, state = found, ticket
        elif workspace.settings.is_connect_open:
            session, state = await asyncio.to_thread(
                begin_connecting,
                workspace,
                chosen,
                reference_id=reference_id,
                timezone=timezone,
                redirect=redirect,
            )
        else:
            return _page(403, "Not allowed", "A link made for you is needed to connect.")
        address = consent_address(workspace, chosen, session, state)
    except UsageError as error:
        return _page(400, "Not possible", str(error))
    return RedirectResponse(address, 302, _HEADERS)


@router.get("/oauth/{provider}/callback", response_class=Response)
async def callback(request: Request, provider: str) -> Response:
    """Make the code into a connection. The state is good once, whatever comes of it."""
    workspace: Workspace = request.app.state.workspace
    chosen = _oauth_provider(provider)
    if chosen is None or chosen.oauth is None:
        return _page(404, "Not found", "There is no such provider to connect to.")
    asked = request.query_params
    session = await asyncio.to_thread(
        workspace.registry.redeem_session, chosen.name, asked.get("state", "")
    )
    if session is None:
        return _page(
            400, "Start again", "This page was opened before, or too late. Start connecting again."
        )
    code = asked.get(chosen.oauth.code_parameter)
    if not code:
        was_refused = asked.get("error") == "access_denied"
        reason = "the permission was not given" if was_refused else "the provider sent no code"
        await asyncio.to_thread(
            workspace.registry.end_session, session.session_id, error=f"{chosen.name}: {reason}"
        )
        return _end(chosen, session, "error", 400, f"{reason.capitalize()}. Nothing was connected.")
    try:
        user = await finish_connecting(workspace, chosen, session, code)
    except TransientError:
        text = f"{chosen.title} does not answer as it should. Try again in a few minutes."
        return _end(chosen, session, "error", 502, text)
    except PipelineError as error:
        _log.warning("%s: connecting failed: %s", chosen.name, error)
        return _end(
            chosen, session, "error", 400, f"{chosen.title} was not connected. Start again."
        )
    return _end(
        chosen, session, "connected", 200, "You may close this window.", user_id=user.user_id
    )


def _oauth_provider(name: str) -> Provider | None:
    found = providers().get(name)
    return found if found is not None and found.oauth is not None else None


def _end(
    provider: Provider,
    session: ConnectSession,
    outcome: str,
    status: int,
    text: str,
    user_id: str | None = None,
) -> Response:
    """The last page, or the address the session was started with."""
    target = session.values.get("redirect")
    if isinstance(target, str):
        parts = urlsplit(target)
        told = {"status": outcome, "provider": provider.name}
        if user_id is not None:
            told["user_id"] = user_id
            reference_id = session.values.get("reference_id")
            if isinstance(reference_id, str):
                told["reference_id"] = reference_id
        query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *told.items()])
        return RedirectResponse(urlunsplit(parts._replace(query=query)), 302, _HEADERS)
    title = f"{provider.title} is connected" if outcome == "connected" else "Not connected"
    return _page(status, title, text)


def _page(status: int, title: str, text: str) -> Response:
    body = _PAGE.format(title=html.escape(title), text=html.escape(text))
    return HTMLResponse(body, HTTPStatus(status), _HEADERS)

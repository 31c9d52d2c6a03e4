"""The receiver: `/in/<provider>` proves a push, keeps it, and answers; nothing else happens here."""

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from wearable_pipeline.errors import PipelineError, TransientError
from wearable_pipeline.providers import providers
from wearable_pipeline.providers._contract import PushAnswer, PushRequest
from wearable_pipeline.raw.push import Inbox, RefusedError, check_proof, keep
from wearable_pipeline.raw.push_address import push_secrets
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace


async def receive(request: Request) -> Response:
    """Answer a challenge, or keep a proven push; the answer is sent once its bytes are durable."""
    workspace: Workspace = request.app.state.workspace
    inbox: Inbox = request.app.state.inbox
    provider = providers().get(request.path_params["provider"])
    if provider is None or provider.push is None:
        return _refused(404, "no such receiver")
    push = provider.push
    secrets = push_secrets(workspace.settings.provider(provider.name))
    try:
        body = await _read_body(request, workspace.settings)
        asked = PushRequest(request.method, dict(request.headers), dict(request.query_params), body)
        if push.challenge is not None:
            answer = push.challenge(asked, secrets)
            if answer is not None:
                return _answer(answer)
        if request.method == "GET":
            return _refused(405, "a push is posted")
        now = workspace.now()
        mark = check_proof(push, asked, secrets, now)
        await inbox.put(provider.name, keep(push, asked, now), mark)
    except RefusedError as error:
        return _refused(error.status, str(error))
    except ClientDisconnect:
        return _refused(400, "the body was cut off")
    except TransientError as error:
        wait = int(error.retry_after.total_seconds()) if error.retry_after else 5
        return Response(str(error), 503, {"retry-after": str(wait)}, media_type="text/plain")
    except PipelineError as error:
        return _refused(400, str(error))
    return _answer(push.answer)


async def _read_body(request: Request, settings: Settings) -> bytes:
    """The raw bytes. Raises RefusedError when they are too many (413) or too slow (408)."""
    most = settings.push_max_bytes
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > most:
        raise RefusedError(413, f"more than {most} bytes")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.push_body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise RefusedError(413, f"more than {most} bytes")
                chunks.append(chunk)
    except TimeoutError:
        raise RefusedError(408, "the body took too long") from None
    return b"".join(chunks)


def _answer(answer: PushAnswer) -> Response:
    return Response(answer.body, answer.status, media_type=answer.media_type)


def _refused(status: int, reason: str) -> Response:
    # What is left of a refused body is not read.
    return Response(reason, status, {"connection": "close"}, media_type="text/plain")

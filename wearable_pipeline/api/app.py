"""The application `wearable-pipeline serve` runs. Stateless: any number may run beside each other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from wearable_pipeline import __version__
from wearable_pipeline.api.connecting import router as connecting
from wearable_pipeline.api.receiving import receive
from wearable_pipeline.errors import PipelineError
from wearable_pipeline.raw.push import Inbox
from wearable_pipeline.workspace import Workspace

_STATUSES = {
    "usage": 400,
    "not_connected": 403,
    "transient": 503,
    "rate_limited": 503,
    "quota_spent": 503,
}


def create_app(workspace: Workspace) -> FastAPI:
    """The application over an opened workspace, which it does not close."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        inbox = Inbox(workspace.lake.storage, workspace.registry, workspace.now)
        app.state.inbox = inbox
        yield
        await inbox.close()

    app = FastAPI(
        title="wearable_pipeline",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
    )
    app.state.workspace = workspace
    app.include_router(connecting)
    # A plain route: what FastAPI adds per request is not needed here and would cost the most.
    app.add_route(
        "/in/{provider}", receive, methods=["GET", "POST", "PUT"], include_in_schema=False
    )

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    @app.exception_handler(PipelineError)
    async def explain(request: Request, error: PipelineError) -> Response:
        del request
        status = _STATUSES.get(error.error_class, 500)
        return JSONResponse({"error": error.error_class, "message": str(error)}, status)

    return app

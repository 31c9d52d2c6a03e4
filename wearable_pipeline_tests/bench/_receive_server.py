"""The receiver as `serve` runs it, in a process of its own, with a route beside it that stores nothing.

Besides Oura, whose pushes are hints, the tests' own provider posts to it, whose pushes carry data.
"""

import os
import socket
import sys
import threading
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from wearable_pipeline.api.server import make_server
from wearable_pipeline.providers import providers
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.raw.postbox import make_postbox

SECRET = "bench-secret"


def main(home: Path) -> None:
    """Serve until standard input ends; the port is written to standard output."""
    providers()["postbox"] = make_postbox()
    app_of_ours = {"client_id": "bench", "client_secret": SECRET}
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        home=home,
        providers=dict.fromkeys(("oura", "postbox"), app_of_ours),  # type: ignore[arg-type]
    )
    with (
        open_workspace(settings) as workspace,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
    ):
        server = make_server(workspace, *listener.getsockname()[:2])

        async def nothing(request: Request) -> Response:
            await request.body()
            return Response(status_code=200)

        app = server.config.app
        app.add_route("/nothing", nothing, methods=["POST"])  # type: ignore[union-attr]
        threading.Thread(target=_stop_with_parent, args=(server,), daemon=True).start()
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        server.run(sockets=[listener])


def _stop_with_parent(server: uvicorn.Server) -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True


if __name__ == "__main__":
    main(Path(sys.argv[1]))

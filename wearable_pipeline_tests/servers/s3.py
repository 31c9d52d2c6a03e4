"""moto as a server (S3, SQS) whose conditional PUT is one step. As a script: `s3.py --port 5000`.

moto looks for the object and stores the new one in two steps of a threaded server, so now and then
two of sixteen creators win. Real stores do not do that; one PUT at a time mends it. It also counts
all messages of a queue at each new one, a dozen times; here queues do not tell how many wait.
"""

import argparse
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sqs.models import Queue
from werkzeug.serving import run_simple

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def serialize_puts(application: "WSGIApplication") -> "WSGIApplication":
    """The application, serving one PUT at a time."""
    lock = threading.Lock()

    def serve(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return application(environ, start_response)
        with lock:
            return application(environ, start_response)

    return serve


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    Queue.BASE_ATTRIBUTES = [
        name for name in Queue.BASE_ATTRIBUTES if not name.startswith("ApproximateNumberOfMessages")
    ]
    moto = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", parser.parse_args().port, serialize_puts(moto), threaded=True)

"""moto's S3 server, which answers one request at a time.

moto checks `If-Match` and then writes, with nothing in between that keeps other threads out: two writers that saw the same
ETag may both be told that they won. S3 does not do that, and the lock of a bucket rests on it.

Usage: python moto_server.py PORT
"""

import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

application = DomainDispatcherApplication(create_backend_app)
alone = threading.Lock()


def serve_alone(environ, start_response):
    with alone:
        return list(application(environ, start_response))


run_simple("127.0.0.1", int(sys.argv[1]), serve_alone, threaded=True)

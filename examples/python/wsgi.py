"""Serves a greeting at /, and at /health the release that this process runs."""

import json
from importlib.metadata import version

RELEASE = version("shop")


def application(environ, start_response):
    if environ["PATH_INFO"] == "/health":
        kind, text = "application/json", json.dumps({"release": RELEASE})
    else:
        kind, text = "text/plain", f"Hello from release {RELEASE}\n"
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(text)))])
    return [text.encode()]

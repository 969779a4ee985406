"""A small application for tests of the web process itself: it starts in a moment."""

from __future__ import annotations

from flask import Flask, Response, request

LARGE_BYTES = 4 * 1024 * 1024
PIECE_BYTES = 64 * 1024
MAX_REQUEST_BYTES = 100_000

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES


@app.get("/")
def get() -> Response:
    """A page that a client may have already."""
    response = Response("page")
    response.set_etag("page")
    return response.make_conditional(request)


@app.get("/large")
def get_large() -> Response:
    """More than the system keeps for a client that does not read, in pieces."""
    pieces = (b"x" * PIECE_BYTES for _ in range(LARGE_BYTES // PIECE_BYTES))
    return Response(pieces, headers={"Content-Length": str(LARGE_BYTES)})


@app.post("/")
def post() -> str:
    """The size of the body."""
    return str(len(request.get_data()))


@app.errorhandler(413)
def handle_large_request(_: Exception) -> tuple[str, int]:
    """The application's own words."""
    return "too large for this application", 413

"""Limits of the size of request bodies. Endpoints that accept more than a form or JSON text are marked.

The size is checked before the body is read: parsing costs many times as much as receiving.
"""

from __future__ import annotations

from flask import Flask, current_app, request
from werkzeug.exceptions import RequestEntityTooLarge

MAX_BODY_BYTES = 64 * 1024


def init_app(app: Flask) -> None:
    """Check the size of every body. Must come before everything that reads one."""
    app.before_request(check_body_size)


def largest_body_bytes(app: Flask) -> int:
    """Return the largest body that any endpoint of `app` accepts."""
    return max(map(_limit_of, app.view_functions.values()), default=MAX_BODY_BYTES)


def check_body_size() -> None:
    """Check the size of the body before it is read. Raises RequestEntityTooLarge."""
    view = current_app.view_functions.get(request.endpoint or "")
    limit = min(_limit_of(view), current_app.config["MAX_CONTENT_LENGTH"])
    request.max_content_length = limit
    # A server that does not buffer bodies passes on chunks, which werkzeug reads only up to the limit.
    size = len(request.get_data()) + 1 if request.content_length is None else request.content_length
    if size > limit:
        raise RequestEntityTooLarge(f"The body must have at most {limit:,} bytes.")


def _limit_of(view: object) -> int:
    return getattr(view, "max_body_bytes", MAX_BODY_BYTES)

"""Errors to Sentry, if SENTRY_DSN is set: internal errors of requests, and final failures of jobs.

An event has the type of the error, its frames and what identifies the job or the endpoint. It has no message, no local
variables, no arguments, no user and nothing of the request: these may be personal data. The job's page shows them.
"""

from __future__ import annotations

import atexit
import sys
from typing import Any

import structlog
from flask import Flask, current_app, got_request_exception, request

EXTENSION = "sentry"
NO_PACKAGE = "SENTRY_DSN needs the package sentry-sdk, which is not installed: `pip install sentry-sdk`"
FLUSH_SECONDS = 2.0
# Everything else is removed, also what a later version of the package may add.
_FIELDS = frozenset(
    {"event_id", "timestamp", "level", "platform", "release", "environment", "server_name", "tags", "exception", "sdk"}
)
_FIELDS_OF_FRAME = frozenset(
    {"filename", "abs_path", "module", "function", "lineno", "pre_context", "context_line", "post_context", "in_app"}
)

log = structlog.get_logger(__name__)


def init_app(app: Flask) -> None:
    """Report the errors of this process, if SENTRY_DSN is set.

    Raises:
        SystemExit: the package sentry-sdk is not installed.
    """
    if app.config["SENTRY_DSN"] is None:
        return
    try:
        from sentry_sdk.client import Client  # optional
    except ImportError:
        sys.exit(f"belfry: {NO_PACKAGE}")
    # A client of its own, and no integrations: they would add what is not known here.
    client = Client(
        app.config["SENTRY_DSN"],
        release=app.config["RELEASE"],
        environment=app.config["APP_ENV"],
        default_integrations=False,
        auto_enabling_integrations=False,
        auto_session_tracking=False,
        enable_backpressure_handling=False,
        send_client_reports=False,
        include_local_variables=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        before_send=scrub,
    )
    app.extensions[EXTENSION] = client
    atexit.register(client.close, FLUSH_SECONDS)
    got_request_exception.connect(_capture_request, app)


def capture_job(error: BaseException, *, id: str, name: str, attempt: int) -> None:
    """Report the final failure of a job. It is sent in the background."""
    _capture(current_app, error, {"job": name, "job_id": id, "attempt": str(attempt)})


def flush(app: Flask) -> None:
    """Wait until everything is sent, for a moment: before a process ends without its exit handlers."""
    if client := app.extensions.get(EXTENSION):
        client.flush(FLUSH_SECONDS)


def scrub(event: Any, hint: Any) -> Any:
    """Remove from an event everything that may be personal data."""
    kept = {name: value for name, value in event.items() if name in _FIELDS}
    kept["exception"] = {"values": [_scrubbed(each) for each in event.get("exception", {}).get("values", [])]}
    return kept


def _scrubbed(exception: dict[str, Any]) -> dict[str, Any]:
    frames = (exception.get("stacktrace") or {}).get("frames", [])
    shown = [{name: value for name, value in frame.items() if name in _FIELDS_OF_FRAME} for frame in frames]
    mechanism = exception.get("mechanism") or {}
    return {
        "type": exception.get("type"),
        "module": exception.get("module"),
        "mechanism": {name: value for name, value in mechanism.items() if name not in ("data", "meta")},
        "stacktrace": {"frames": shown},
    }


def _capture_request(app: Flask, exception: BaseException, **_: Any) -> None:
    # Not the path, which may have a token in it.
    tags = {"endpoint": request.endpoint or "", "method": request.method}
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    _capture(app, exception, tags | ({"request_id": request_id} if request_id else {}))


def _capture(app: Flask, error: BaseException, tags: dict[str, str]) -> None:
    client = app.extensions.get(EXTENSION)
    if client is None:
        return
    from sentry_sdk.utils import event_from_exception

    try:
        event, hint = event_from_exception(error, client_options=client.options)
        client.capture_event({**event, "tags": tags}, hint=hint)
    except Exception:  # what is reported must not fail in another way
        log.exception("sentry.not_captured")

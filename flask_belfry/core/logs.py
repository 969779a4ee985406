"""Structured log lines: one per event, with the request's and the job's id on every line, no personal data."""

from __future__ import annotations

import logging
import re
import sys
import time
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import structlog
from flask import Flask, Response, g, request, request_started

from flask_belfry.core.secrets import MASK, redact

VERSION = "0.1.0"
# Links in mails have a token in their path. A UUID is not a token.
SECRET_SEGMENT = re.compile(r"/(?![0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:/|$))[A-Za-z0-9_-]{24,}(?=/|$)")

log = structlog.get_logger(__name__)

_SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
# Libraries that log every step at INFO.
_QUIET = ("rq", "rq.worker", "rq_scheduler", "alembic", "mail.log", "werkzeug", "flufl.bounce")


def init_app(app: Flask) -> None:
    """Sends structlog's and the standard library's lines to stderr, as LOG_FORMAT says."""
    level = logging.getLevelNamesMapping()[app.config["LOG_LEVEL"]]
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(app.config["LOG_FORMAT"]))
    root = logging.getLogger()
    if not (app.testing and root.handlers):  # those of the test runner; the processes of tests have none
        root.handlers = [handler]
    root.setLevel(level)
    app.extensions["log_start"] = partial(log_start, app)
    request_started.connect(_begin_request, app)
    app.after_request(_log_request)  # the first of them, which Flask calls last
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def make_formatter(log_format: str) -> logging.Formatter:
    """Return the formatter of the lines of structlog and of the standard library, in a format of LOG_FORMAT."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=list(_SHARED),
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact,
            _renderer(log_format),
        ],
    )


def log_start(app: Flask, role: str, **details: object) -> None:
    """Writes the line with which each process begins: what it is and what it works with, without secrets."""
    log.info(
        "process.started",
        role=role,
        version=VERSION,
        database=without_secrets(app.config["DATABASE_URL"]),
        broker=None if app.config["JOBS_EAGER"] else without_secrets(app.config["REDIS_URL"]),
        **details,
    )


def without_secrets(url: str) -> str:
    """The URL without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _begin_request(_: Flask, **__: object) -> None:
    g.request_began_at = time.monotonic()


def _log_request(response: Response) -> Response:
    """Writes one line per request; its id and user are on every line of the request."""
    milliseconds = (time.monotonic() - g.request_began_at) * 1000
    path = SECRET_SEGMENT.sub(f"/{MASK}", request.path)
    log.info("request", method=request.method, path=path, status=response.status_code, ms=round(milliseconds, 1))
    return response


def _renderer(log_format: str) -> Any:
    if log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)

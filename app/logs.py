"""Structured log lines: one per event, with the request's and the job's id on every line, no personal data."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from flask import Flask

_SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
# Libraries that tell every step at INFO.
_QUIET = ("rq", "rq.worker", "rq_scheduler", "alembic", "mail.log", "werkzeug")


def init_app(app: Flask) -> None:
    """Sends structlog's and the standard library's lines to stderr, as LOG_FORMAT says."""
    level = logging.getLevelNamesMapping()[app.config["LOG_LEVEL"]]
    renderer = _renderer(app.config["LOG_FORMAT"])
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=list(_SHARED),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    if not app.testing:  # there, the test runner listens
        root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _renderer(log_format: str) -> Any:
    if log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)

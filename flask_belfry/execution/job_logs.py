"""The handler that adds what a job logs, with structlog or the standard library, to the job's own log."""

from __future__ import annotations

import logging
from typing import Any

import structlog
from flask import Flask

from flask_belfry.core.clock import utc_now
from flask_belfry.core.secrets import redact
from flask_belfry.db.columns import storable
from flask_belfry.execution import journal
from flask_belfry.execution.context import running_job

MAX_LINE_CHARACTERS = 2_000
MAX_NAME_CHARACTERS = 100
# What the record, its attempts and its timeline show already.
OWN_LOGGERS = "flask_belfry."
_OF_THE_RECORD = ("event", "level", "timestamp", "job", "job_id", "request_id")


class JobLogHandler(logging.Handler):
    """Passes the lines that a running job logs to its journal."""

    def createLock(self) -> None:  # noqa: N802 - named by the standard library
        """Create no lock, as `logging.NullHandler` does: a job's time limit may raise while one is held."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Add the line to the job that runs here."""
        job = running_job()
        if job is not None and not record.name.startswith(OWN_LOGGERS):
            job.add_line(line_of(record))


def init_app(app: Flask) -> None:
    """Create the journal of `app`, and keep the lines from LOG_LEVEL up that its jobs log."""
    journal.init_app(app)
    root = logging.getLogger()
    handler = next((known for known in root.handlers if isinstance(known, JobLogHandler)), None)
    if handler is None:
        root.addHandler(handler := JobLogHandler())
    handler.setLevel(app.config["LOG_LEVEL"])


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return a log record as it is stored: its time, level, event, and values as text, without secrets."""
    event: dict[str, Any]
    if isinstance(record.msg, dict):  # structlog's
        event = dict(record.msg)
    else:
        event = {"event": _message(record), "exc_info": record.exc_info}
    line = redact(None, "", structlog.processors.format_exc_info(None, "", event))
    text, left = _cut(line.get("event", ""), MAX_LINE_CHARACTERS)
    values: dict[str, str] = {}
    for name, value in line.items():
        if name not in _OF_THE_RECORD and left > 0:
            values[_cut(name, MAX_NAME_CHARACTERS)[0]], left = _cut(value, left)
    time = utc_now().isoformat(timespec="milliseconds")
    return {"time": time, "level": record.levelname.lower(), "event": text, "values": values}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # its arguments do not fit its message, which must not fail the job
        return str(record.msg)


def _cut(value: object, characters: int) -> tuple[str, int]:
    """Return a value as storable text of at most so many characters, and how many are left."""
    try:
        text = storable(value if isinstance(value, str) else str(value))
    except Exception as error:  # a value may raise anything here
        text = f"<{type(value).__name__} cannot be shown: {type(error).__name__}>"
    if len(text) > characters:
        text = f"{text[: characters - 1]}…"
    return text, characters - len(text)

"""Adds what a job logs, with structlog or the standard library, to the job's own log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import structlog
from flask import Flask

from flask_belfry.core.clock import utc_now
from flask_belfry.core.secrets import redact, shown_text
from flask_belfry.db.columns import storable
from flask_belfry.execution import journal
from flask_belfry.execution.context import running_job

MAX_LINE_CHARACTERS = 2_000
MAX_NAME_CHARACTERS = 100
# What the record, its attempts and its timeline show already.
OWN_LOGGERS = "flask_belfry."
_OF_THE_RECORD = ("event", "level", "timestamp", "job", "job_id", "request_id")


class JobLogFactory:
    """A factory of log records that also adds what a running job logs to the job's journal.

    Not a handler: with one on the root logger, an application that configures no logging would lose its warnings, since
    both Flask and `logging` only write them while no handler exists.

    Args:
        make_record: the factory that makes the records.
    """

    def __init__(self, make_record: Callable[..., logging.LogRecord]) -> None:
        self._make_record = make_record

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Return the record, and add its line to the job that runs here."""
        record = self._make_record(*args, **kwargs)
        # `logging.makeLogRecord`, with which formatters copy records, calls this without a name.
        if not record.name or record.name.startswith(OWN_LOGGERS):
            return record
        if (job := running_job()) is not None and record.levelno >= journal.journal().level:
            job.add_line(line_of(record))
        return record


def init_app(app: Flask) -> None:
    """Create the journal of `app`, and keep the lines from LOG_LEVEL up that its jobs log."""
    journal.init_app(app)
    make_record = logging.getLogRecordFactory()
    if not isinstance(make_record, JobLogFactory):
        logging.setLogRecordFactory(JobLogFactory(make_record))


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
        if name in _OF_THE_RECORD:
            continue
        shown, _ = _cut(name, MAX_NAME_CHARACTERS)
        if (left := left - len(shown)) <= 0:
            break
        values[shown], left = _cut(value, left)
    time = utc_now().isoformat(timespec="milliseconds")
    return {"time": time, "level": record.levelname.lower(), "event": text, "values": values}


def _message(record: logging.LogRecord) -> object:
    try:
        return record.getMessage()
    except Exception:  # its arguments do not fit its message, which must not fail the job
        return record.msg


def _cut(value: object, characters: int) -> tuple[str, int]:
    """Return a value as storable text of at most so many characters, and how many are left."""
    text = storable(value if isinstance(value, str) else shown_text(value))
    if len(text) > characters:
        text = f"{text[: characters - 1]}…"
    return text, characters - len(text)

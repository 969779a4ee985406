"""The log lines of jobs leave the application's logging as it is."""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask

from flask_belfry.core.secrets import secrets_hidden
from flask_belfry.execution import job_logs, journal
from flask_belfry.execution.journal import ClaimLog, LogLines


def test_an_application_without_logging_of_its_own_keeps_what_flask_and_python_write(app: Flask) -> None:
    job_logs.init_app(app)
    ours = [each for each in logging.getLogger().handlers if type(each).__module__.startswith("flask_belfry")]
    assert ours == []


def test_several_applications_of_a_process_have_one_factory(app: Flask) -> None:
    factory = logging.getLogRecordFactory()
    assert isinstance(factory, job_logs.JobLogFactory)
    job_logs.init_app(app)
    assert logging.getLogRecordFactory() is factory


class Broken:
    """A value without a text."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("no text")


def line_of(msg: Any, *args: Any, exc_info: Any = None) -> dict[str, Any]:
    """Return the line of a record with this message."""
    with secrets_hidden(re.compile("s3cr3t")):
        return job_logs.line_of(logging.LogRecord("library", logging.INFO, "a.py", 1, msg, args, exc_info))


def test_no_value_fails_the_job_that_logs_it() -> None:
    broken = "<Broken cannot be shown: RuntimeError>"
    assert line_of(Broken())["event"] == broken
    assert line_of("%d rows", "no")["event"] == "%d rows"
    line = line_of({1: "one", "value": Broken(), "event": "\ud800\0", "nested": {Broken: [1]}})
    assert line["event"] == "\ufffd\ufffd"
    assert (line["values"]["1"], line["values"]["value"]) == ("one", broken)
    error = ValueError("\ud800")
    line = line_of({"event": "failed", "exc_info": error})
    assert line["values"]["exception"] == "ValueError: \ufffd"
    assert line_of("failed", exc_info=(None, None, None))["values"] == {}


def test_a_line_has_at_most_2000_characters_also_of_names() -> None:
    values = line_of({"event": "many", **{f"{number:099}": "" for number in range(1_000)}})["values"]
    assert sum(len(name) for name in values) == 20 * 99
    (name,) = line_of({"event": "", "n" * 5_000: "é" * 5_000})["values"].items()
    assert [len(part) for part in name] == [100, 1_900]


def test_the_kept_lines_are_in_order_also_when_a_long_one_fills_their_first_half() -> None:
    lines = LogLines()
    for size in (20_000, 20_000, *[10] * 300):
        lines.add({"event": "x" * size})
    numbers = [line["number"] for line in json.loads(lines.as_json())]
    assert numbers == [1, *range(203, 303)]
    assert lines.dropped == 302 - len(numbers)


def test_an_answer_to_the_question_for_cancellation_is_used_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ClaimLog(Mock(), Mock())
    assert own.is_cancel_requested() is None
    own.answer(is_cancel_requested=True)
    assert own.is_cancel_requested() is True
    monkeypatch.setattr(journal, "ANSWER_SECONDS", 0.0)
    assert own.is_cancel_requested() is None

"""The log lines of jobs leave the application's logging as it is."""

from __future__ import annotations

import logging

from flask import Flask

from flask_belfry.execution import job_logs


def test_an_application_without_logging_of_its_own_keeps_what_flask_and_python_write(app: Flask) -> None:
    job_logs.init_app(app)
    ours = [each for each in logging.getLogger().handlers if type(each).__module__.startswith("flask_belfry")]
    assert ours == []


def test_several_applications_of_a_process_have_one_factory(app: Flask) -> None:
    factory = logging.getLogRecordFactory()
    assert isinstance(factory, job_logs.JobLogFactory)
    job_logs.init_app(app)
    assert logging.getLogRecordFactory() is factory

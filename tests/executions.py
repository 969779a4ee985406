"""Jobs that tests execute in this process, and errors that they raise."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import OperationalError

from flask_belfry.db import db
from flask_belfry.execution import claim, executor
from flask_belfry.execution.time_limits import no_limit


def run(app, *items: claim.Claim) -> executor.Transitions:
    db.session.rollback()
    return executor.run(app, items, no_limit)


class Panic(BaseException):
    """Like pyo3's, which is not an Exception."""


def database_locked() -> OperationalError:
    cause = sqlite3.OperationalError("database is locked")
    cause.sqlite_errorcode = sqlite3.SQLITE_BUSY
    error = OperationalError("UPDATE", {}, cause)
    error.__cause__ = cause
    return error

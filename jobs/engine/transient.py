"""Errors of the database that pass: it was away, or another transaction was in the way."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import OperationalError

from app.extensions import is_database_away, sqlstate


def is_transient(error: BaseException) -> bool:
    """Whether the same may succeed another time, by no doing of the job."""
    return is_database_away(error) or _is_lock_conflict(error)


def _is_lock_conflict(error: BaseException) -> bool:
    """Whether another transaction was in the way: worth another try, but not for ever, since the job may cause it."""
    if not isinstance(error, OperationalError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return "locked" in str(error.orig)
    return sqlstate(error).startswith("40")

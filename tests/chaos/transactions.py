"""One transaction of the load on a session of the application, as a command or a job makes it, for one school."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flask_belfry.changes import for_school
from flask_belfry.core.errors import AppError
from flask_belfry.db import db
from flask_belfry.db.tenancy import Scope, use_scope
from tests.chaos.book import Fate


@dataclass(frozen=True)
class OfSchool:
    """A school of the load.

    Args:
        id: its number.
        people: the numbers of its users.
        token: an access token of its staff.
    """

    id: int
    people: list[int]
    token: str


def transact(app: Flask, school_id: int, fill: Callable[[Session], bool]) -> Fate:
    """Make one transaction: `fill` writes, and returns whether it is to be committed."""
    with app.app_context(), use_scope(Scope(school_id)), for_school(school_id):
        session = db.session()
        try:
            is_meant = fill(session)
            session.flush()
        except (SQLAlchemyError, AppError):
            session.rollback()
            return Fate.ROLLED_BACK
        if not is_meant:
            session.rollback()
            return Fate.ROLLED_BACK
        try:
            session.commit()
        except SQLAlchemyError:
            return Fate.UNSURE
        return Fate.COMMITTED


def school_of_key(key: str) -> int:
    """Return the number of the school for which a transaction was made."""
    return int(key.partition(".")[0].removeprefix("s"))

"""The part of the load that begins, stops and undoes bulk operations."""

from __future__ import annotations

import random
from collections.abc import Callable

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.operations import BulkKind, BulkOperation, BulkState, bulk
from tests.chaos.book import Fate
from tests.chaos.domain import BROKEN, AuditEvent
from tests.chaos.transactions import OfSchool, transact

SHARES = {"retry": 60, "stop": 15, "undo": 25}


# The jobs that are retried. Only of the first nothing else retries any, so that retries can be counted.
NAMES = {BROKEN: 60, "mail.deliver": 15, "notifications.push": 15, "*": 10}


class Operator:
    """Transactions about bulk operations of one school: retries of the jobs that have failed."""

    def __init__(self, app: Flask, school: OfSchool, dice: random.Random) -> None:
        self._app = app
        self._school = school
        self._dice = dice

    def __call__(self, key: str) -> Fate:
        """Make one transaction; it commits or is rolled back on purpose, or fails."""
        acts: dict[str, Callable[[Session], None]] = {"retry": self._retry, "stop": self._stop, "undo": self._undo}
        name = self._dice.choices(list(SHARES), list(SHARES.values()))[0]
        is_meant = self._dice.random() < 0.85

        def fill(session: Session) -> bool:
            session.add(AuditEvent(key=key, effects=[]))
            acts[name](session)
            return is_meant

        return transact(self._app, self._school.id, fill)

    def _retry(self, session: Session) -> None:
        canary = self._dice.choice([None, None, 1, 3])
        name = self._dice.choices(list(NAMES), list(NAMES.values()))[0]
        bulk.begin(BulkKind.RETRY, f"name:{name}", canary=canary, per_second=self._dice.choice([None, 0.5, 2.0, 20.0]))

    def _stop(self, session: Session) -> None:
        if id := self._newest(session, BulkOperation.state == BulkState.RUNNING):
            bulk.cancel(id)

    def _undo(self, session: Session) -> None:
        if id := self._newest(session, BulkOperation.state != BulkState.RUNNING):
            bulk.undo(id)

    def _newest(self, session: Session, condition: sa.ColumnElement[bool]) -> str | None:
        query = sa.select(BulkOperation.id).where(condition).order_by(BulkOperation.id.desc()).limit(3)
        found = session.scalars(query).all()
        return self._dice.choice(found) if found else None

"""Two transactions in every order in which one of them waits: a deadlock between them is found without luck."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from flask_belfry.db import db

Operation = Callable[[], object]

# What PostgreSQL waits for until it looks for a deadlock. Only superusers may set it, as the tests' user is.
DEADLOCK_OPTIONS = "&options=-c%20deadlock_timeout%3D20"


@dataclass
class _Side:
    """One transaction, on a thread of its own; it is rolled back, so that the next ones find the same rows."""

    app: Flask
    operation: Operation
    # After this many statements that lock rows it waits for `go_on`.
    pause_after: int | None = None
    statements: list[str] = field(default_factory=list)
    error: BaseException | None = None
    pauses_or_ends: threading.Event = field(default_factory=threading.Event)
    ends: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run).start()

    def _run(self) -> None:
        _sides[threading.get_ident()] = self
        try:
            with self.app.app_context():
                try:
                    self.operation()
                    session = db.session()
                    session.flush()
                    session.dispatch.before_commit(session)  # a commit releases jobs, and then it cannot be undone
                finally:
                    db.session.rollback()
        except BaseException as error:
            self.error = error
        finally:
            del _sides[threading.get_ident()]
            self.ends.set()
            self.pauses_or_ends.set()

    def see(self, statement: str) -> None:
        if not statement.startswith(("UPDATE", "DELETE")) and " FOR " not in statement:
            return
        self.statements.append(statement)
        if len(self.statements) == self.pause_after:
            self.pauses_or_ends.set()
            self.go_on.wait(30)


_sides: dict[int, _Side] = {}


def _see(connection: object, cursor: object, statement: str, *_: Any) -> None:
    if (side := _sides.get(threading.get_ident())) is not None:
        side.see(statement)


@contextmanager
def _watching() -> Iterator[sa.Connection]:
    event.listen(db.engine, "after_cursor_execute", _see)
    try:
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
            yield watcher
    finally:
        event.remove(db.engine, "after_cursor_execute", _see)


def deadlocks(app: Flask, *pairs: tuple[Operation, Operation]) -> list[str]:
    """Return how the operations of each pair deadlock.

    The first one is held after each of its statements that locks rows, until the other one ends or waits for a lock;
    then both go on. Of every two locks that they take in different orders, it has one then.

    Args:
        app: the application.
        pairs: functions that use the session, and do not commit. Other errors than deadlocks are raised.
    """
    db.session.rollback()
    found: list[str] = []
    with _watching() as watcher:
        for first, second in pairs:
            alone = _Side(app, first)
            _run_together(watcher, alone)
            # After the last one it waits for nothing.
            for count in range(1, len(alone.statements)):
                sides = _Side(app, first, count), _Side(app, second)
                _run_together(watcher, *sides)
                if any(_is_deadlock(side) for side in sides):
                    held = alone.statements[count - 1].split("\n")[0][:60]
                    found.append(f"{first.__name__} | {second.__name__}: after {held}")
    return found


def _run_together(watcher: sa.Connection, first: _Side, second: _Side | None = None) -> None:
    first.start()
    assert first.pauses_or_ends.wait(30)
    if second is not None:
        second.start()
        while not second.ends.wait(0.002) and not _is_waiting(watcher):
            pass
        first.go_on.set()
        assert second.ends.wait(30)
    assert first.ends.wait(30)
    if second is None and first.error is not None:
        raise first.error


def _is_waiting(watcher: sa.Connection) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return watcher.execute(sa.text(query)).first() is not None


def _is_deadlock(side: _Side) -> bool:
    if side.error is None:
        return False
    if isinstance(side.error, OperationalError) and getattr(side.error.orig, "sqlstate", None) == "40P01":
        return True
    raise side.error

"""The guard against commits in job functions: the engine commits a job's changes together with its completion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import event, orm

from flask_belfry.db import BelfrySession, db
from flask_belfry.execution.errors import CommitInJobError

# What ends a transaction in SQL; `ROLLBACK TO` a savepoint does not. psycopg runs several statements in one text.
_ENDS_TRANSACTION = re.compile(
    r"""(?: \s | ; | --[^\n]*\n | /\*.*?\*/ )*
    (?: COMMIT | END | ABORT | PREPARE\s+TRANSACTION | ROLLBACK (?! (?:\s+(?:WORK|TRANSACTION))? \s+TO\b ) ) \b""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_COMMITS_LATER = re.compile(r";\s*COMMIT\b", re.IGNORECASE)


@dataclass
class _Refusals:
    url: sa.URL
    first: CommitInJobError | None = None

    def concern(self, connection: sa.Connection) -> bool:
        """Return whether it is a connection to the application's database; commits in other databases are allowed."""
        return connection.engine.url == self.url

    def refuse(self) -> CommitInJobError:
        """Return the error to raise."""
        error = CommitInJobError("a job function must not commit: the engine commits its changes with its completion")
        self.first = self.first or error
        return error


_refusals: ContextVar[_Refusals | None] = ContextVar("refused_commits", default=None)


@contextmanager
def commits_forbidden() -> Iterator[None]:
    """Raise CommitInJobError at every commit in the block on the application's database, by any session or connection,
    and at the end of the block when the code in it caught that error."""
    token = _refusals.set(refusals := _Refusals(db.engine.url))
    try:
        yield
    finally:
        _refusals.reset(token)
    if refusals.first is not None:
        raise refusals.first


@contextmanager
def commit_allowed() -> Iterator[None]:
    """Allow commits in a block within `commits_forbidden`, unless the code before it caught a CommitInJobError."""
    refusals = _refusals.get()
    if refusals is not None and refusals.first is not None:
        raise refusals.first
    token = _refusals.set(None)
    try:
        yield
    finally:
        _refusals.reset(token)


@event.listens_for(BelfrySession, "before_commit")
def _refuse_session(session: orm.Session) -> None:
    refusals = _refusals.get()
    # The event also fires for savepoints, which a job may release.
    if refusals is not None and not session.in_nested_transaction():
        raise refusals.refuse()


@event.listens_for(sa.Engine, "commit")
@event.listens_for(sa.Engine, "commit_twophase")
def _refuse_connection(connection: sa.Connection, *_: object) -> None:
    refusals = _refusals.get()
    if refusals is not None and refusals.concern(connection):
        # SQLAlchemy considers a transaction whose commit has raised as ended, and would keep it open in the pool.
        connection.connection.rollback()
        raise refusals.refuse()


@event.listens_for(sa.Engine, "before_cursor_execute")
def _refuse_statement(connection: sa.Connection, cursor: object, statement: str, *_: object) -> None:
    refusals = _refusals.get()
    if refusals is None:
        return
    is_autocommit = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
    is_end = is_autocommit or _ENDS_TRANSACTION.match(statement) or _COMMITS_LATER.search(statement)
    if is_end and refusals.concern(connection):
        raise refusals.refuse()

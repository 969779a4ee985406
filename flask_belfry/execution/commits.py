"""A job function does not commit: whichever way it tries, on the application's database, it is refused."""

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
        """Whether it is one to the application's database; what a job does in others is its own affair."""
        return connection.engine.url == self.url

    def refuse(self) -> CommitInJobError:
        """The error to raise."""
        error = CommitInJobError("a job function does not commit: the engine commits its changes with its completion")
        self.first = self.first or error
        return error


_refusals: ContextVar[_Refusals | None] = ContextVar("refused_commits", default=None)


@contextmanager
def commits_forbidden() -> Iterator[None]:
    """For a block in which every commit on the application's database raises CommitInJobError, whatever session or
    connection makes it; so does the block's end when the code in it went on regardless."""
    token = _refusals.set(refusals := _Refusals(db.engine.url))
    try:
        yield
    finally:
        _refusals.reset(token)
    if refusals.first is not None:
        raise refusals.first


@event.listens_for(BelfrySession, "before_commit")
def _refuse_session(session: orm.Session) -> None:
    refusals = _refusals.get()
    # Savepoints come by here too; they are a job's own affair.
    if refusals is not None and not session.in_nested_transaction():
        raise refusals.refuse()


@event.listens_for(sa.Engine, "commit")
@event.listens_for(sa.Engine, "commit_twophase")
def _refuse_connection(connection: sa.Connection, *_: object) -> None:
    refusals = _refusals.get()
    if refusals is not None and refusals.concern(connection):
        # SQLAlchemy takes a transaction whose commit has raised for ended, and would keep it open in the pool.
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

"""The session, and the Flask-SQLAlchemy extension that creates it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session
from sqlalchemy import orm
from sqlalchemy.exc import DBAPIError

from flask_belfry.db import tenancy
from flask_belfry.db.base import Base

HELD = "commits_held"


class BelfrySession(Session):
    """The session class. The scope, change tracking and the outbox listen on it, so that every session keeps its scope
    and its commits publish their jobs."""

    def commit(self) -> None:
        """Commit; within `commits_held` only flush, for the caller of that block commits."""
        if HELD in self.info:
            self.flush()
        else:
            super().commit()

    def rollback(self) -> None:
        """Roll back. The transaction of a lost connection has ended already, so its error is not raised."""
        try:
            super().rollback()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise

    def get_bind(self, *args: Any, **kwargs: Any) -> sa.Engine | sa.Connection:
        """Return the engine of the model, unless the session was created with an engine of its own."""
        return self.bind or super().get_bind(*args, **kwargs)

    def _identity_lookup(self, *args: Any, **kwargs: Any) -> Any:
        """Return what `get` and many-to-one loads find without a query, except rows that the scope hides."""
        return tenancy.visible(super()._identity_lookup(*args, **kwargs))

    def bulk_save_objects(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused, like the two methods below: SQLAlchemy's legacy bulk methods bypass all hooks."""
        raise TypeError("bulk_save_objects fires no hooks: use session.execute(insert(…)) or update(…)")

    def bulk_insert_mappings(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise TypeError("bulk_insert_mappings fires no hooks: use session.execute(insert(Model), rows)")

    def bulk_update_mappings(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise TypeError("bulk_update_mappings fires no hooks: use session.execute(update(Model), rows)")


# Before the listeners of change tracking, which must see statements as they will run.
tenancy.listen(BelfrySession)

db = SQLAlchemy(model_class=Base, session_options={"class_": BelfrySession}, disable_autonaming=True)


def commit_and_keep() -> None:
    """Commit without expiring loaded rows: a response that is built from them needs no more queries."""
    session = db.session()
    expires, session.expire_on_commit = session.expire_on_commit, False
    try:
        session.commit()
    finally:
        session.expire_on_commit = expires


@contextmanager
def commits_held(session: orm.Session) -> Iterator[None]:
    """Turn the commits of a block into flushes: the caller adds its own writes and commits them together."""
    session.info[HELD] = True
    try:
        yield
    finally:
        del session.info[HELD]

"""The session, and the Flask-SQLAlchemy extension that makes it."""

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
    """The one session class: the scope, change tracking and the outbox listen on it, so every session keeps to its
    scope, and its commits publish their jobs."""

    def commit(self) -> None:
        """Commits; within `commits_held`, only writes: whoever holds the commits makes them one."""
        if HELD in self.info:
            self.flush()
        else:
            super().commit()

    def rollback(self) -> None:
        """Rolls back. A connection that is lost took its transaction along: then nothing is left to do."""
        try:
            super().rollback()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise

    def get_bind(self, *args: Any, **kwargs: Any) -> sa.Engine | sa.Connection:
        """The engine of the model, unless the session was made with one of its own."""
        return self.bind or super().get_bind(*args, **kwargs)

    def _identity_lookup(self, *args: Any, **kwargs: Any) -> Any:
        """What `get` and many-to-one loads find without a query; rows that the scope hides are not found."""
        return tenancy.visible(super()._identity_lookup(*args, **kwargs))

    def bulk_save_objects(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused, like the two below: SQLAlchemy's legacy bulk methods pass every hook by."""
        raise TypeError("bulk_save_objects fires no hooks: use session.execute(insert(…)) or update(…)")

    def bulk_insert_mappings(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise TypeError("bulk_insert_mappings fires no hooks: use session.execute(insert(Model), rows)")

    def bulk_update_mappings(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise TypeError("bulk_update_mappings fires no hooks: use session.execute(update(Model), rows)")


# Before the outbox, which is to see statements as they will run.
tenancy.listen(BelfrySession)

db = SQLAlchemy(model_class=Base, session_options={"class_": BelfrySession}, disable_autonaming=True)


def commit_and_keep() -> None:
    """Commits, and leaves what is loaded as it was written: the answer that is built from it needs no more queries."""
    session = db.session()
    expires, session.expire_on_commit = session.expire_on_commit, False
    try:
        session.commit()
    finally:
        session.expire_on_commit = expires


@contextmanager
def commits_held(session: orm.Session) -> Iterator[None]:
    """For a block whose commits wait for what its caller adds to them, and commits with them."""
    session.info[HELD] = True
    try:
        yield
    finally:
        del session.info[HELD]

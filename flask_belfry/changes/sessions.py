"""The session whose transaction writes rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy.orm import Session

from flask_belfry.db import db

_flushing: ContextVar[Session | None] = ContextVar("flushing_session", default=None)


def current_session() -> Session:
    """Return the session whose transaction writes rows: in a hook the one that flushes, otherwise `db.session`."""
    return _flushing.get() or db.session()


@contextmanager
def writing_to(session: Session) -> Iterator[None]:
    """Make `session` the current one for a block."""
    token = _flushing.set(session)
    try:
        yield
    finally:
        _flushing.reset(token)

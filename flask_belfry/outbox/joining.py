"""Which batch the jobs join that are enqueued here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session, SessionTransaction

from flask_belfry.db import table_of
from flask_belfry.outbox.errors import BatchStateError
from flask_belfry.outbox.models import JobBatch

_BATCHES = table_of(JobBatch)
_LOCK = (
    sa.select(_BATCHES.c.finished_at, _BATCHES.c.cancelled_at)
    .where(_BATCHES.c.id == sa.bindparam("of"))
    .with_for_update(read=True)
)


@dataclass
class OpenBatch:
    """A batch to which jobs are added. Its row stays locked until they are committed, so that it is not finished."""

    id: str
    _locked_in: SessionTransaction | None = field(default=None, repr=False)

    def note_locked(self, session: Session) -> None:
        """Note that the current transaction or savepoint of the session has locked or written the row."""
        self._locked_in = session.get_nested_transaction() or session.get_transaction()

    def lock(self, session: Session) -> None:
        """Lock the row, once in each transaction. Raises BatchStateError when the batch is finished or cancelled."""
        current = session.get_nested_transaction() or session.get_transaction()
        if current is not None and current is self._locked_in:
            return
        row = session.connection().execute(_LOCK, {"of": self.id}).first()
        if row is None or row.finished_at or row.cancelled_at:
            ended = "does not exist" if row is None else "is finished" if row.finished_at else "is cancelled"
            raise BatchStateError(f"batch {self.id} {ended}: no job can be added to it")
        self.note_locked(session)


_current: ContextVar[tuple[Session, OpenBatch] | None] = ContextVar("open_batch", default=None)


@contextmanager
def joining(session: Session, batch: OpenBatch | None) -> Iterator[None]:
    """Add the jobs to `batch` that the block enqueues in this session; with None, to no batch."""
    token = _current.set((session, batch) if batch else None)
    try:
        yield
    finally:
        _current.reset(token)


def open_batch(session: Session) -> OpenBatch | None:
    """Return the batch that jobs join which are enqueued here in this session."""
    current = _current.get()
    return current[1] if current is not None and current[0] is session else None

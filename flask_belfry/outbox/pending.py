"""What a session's open transaction has asked for and nobody may hear of before it has committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flask import current_app
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction


@dataclass(frozen=True)
class PendingMessage:
    """All that the publisher needs of a record: its id, where it goes, when, and whether before those that wait."""

    id: str
    name: str
    queue: str
    timeout_seconds: int
    scheduled_at: datetime | None = None
    goes_first: bool = False


# What one commit publishes by itself. Beyond it the relay does, so that a statement over a million rows neither keeps a
# million ids in memory nor has its caller wait for a million pushes.
MAX_RECORDS = 10_000


@dataclass
class Buffer:
    """The records written by each open transaction and savepoint of one session."""

    by_transaction: dict[SessionTransaction, list[PendingMessage]] = field(default_factory=dict)
    committed: bool = False

    @property
    def size(self) -> int:
        """How many records there are."""
        return sum(map(len, self.by_transaction.values()))


Publish = Callable[[Sequence[PendingMessage]], None]


def publish_on_commit(session: Session, records: Sequence[PendingMessage]) -> None:
    """Keeps `records` until the transaction that wrote them ends; of very many, the first `MAX_RECORDS`."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    assert transaction is not None, "records are written on the session's connection, which begins one"
    # After the commit, which publishes, no statement may run.
    current_app.extensions["outbox"].publisher.ownership.learn(session)
    buffer = session.info.setdefault("outbox", Buffer())
    if not current_app.config["JOBS_EAGER"]:  # there is no relay then that comes for the rest
        records = records[: max(0, MAX_RECORDS - buffer.size)]
    buffer.by_transaction.setdefault(transaction, []).extend(records)


def listen(session_class: type[Session], publish: Publish) -> None:
    """Hands what a transaction wrote to `publish` once it has committed, and forgets it when it has not."""

    @event.listens_for(session_class, "after_commit")
    def remember_commit(session: Session) -> None:
        # Also called for savepoints; the end of the transaction, which follows at once, tells which it was.
        if buffer := session.info.get("outbox"):
            buffer.committed = True

    @event.listens_for(session_class, "after_transaction_end")
    def settle(session: Session, transaction: SessionTransaction) -> None:
        buffer: Buffer | None = session.info.get("outbox")
        if buffer is None or not (transaction.nested or transaction.parent is None):
            return
        records = buffer.by_transaction.pop(transaction, [])
        committed, buffer.committed = buffer.committed, False
        if not committed or not records:
            return
        if transaction.parent is not None:
            buffer.by_transaction.setdefault(transaction.parent, []).extend(records)
        else:
            publish(records)

"""Messages that a session's open transaction has written and that are published only after its commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flask import current_app
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction


@dataclass(frozen=True)
class PendingMessage:
    """What the publisher needs to know of a record. `goes_first` puts it in front of the jobs that wait."""

    id: str
    name: str
    queue: str
    timeout_seconds: int
    scheduled_at: datetime | None = None
    goes_first: bool = False


# The most that one commit publishes. The relay publishes the rest: a statement over a million rows then neither keeps a
# million ids in memory nor makes its caller wait for a million pushes.
MAX_RECORDS = 10_000


@dataclass
class Buffer:
    """The records written by each open transaction and savepoint of one session."""

    by_transaction: dict[SessionTransaction, list[PendingMessage]] = field(default_factory=dict)
    committed: bool = False

    @property
    def size(self) -> int:
        """The number of records."""
        return sum(map(len, self.by_transaction.values()))


Publish = Callable[[Sequence[PendingMessage]], None]


def publish_on_commit(session: Session, records: Sequence[PendingMessage]) -> None:
    """Publish `records` when the transaction that wrote them commits; at most the first `MAX_RECORDS` of them."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    assert transaction is not None, "records are written on the session's connection, which begins one"
    # The publisher needs the deployment's id after the commit, when no statement may run.
    current_app.extensions["outbox"].publisher.ownership.learn(session)
    buffer = session.info.setdefault("outbox", Buffer())
    if not current_app.config["JOBS_EAGER"]:  # with it, no relay would publish the rest
        records = records[: max(0, MAX_RECORDS - buffer.size)]
    buffer.by_transaction.setdefault(transaction, []).extend(records)


def listen(session_class: type[Session], publish: Publish) -> None:
    """Call `publish` with the messages of each committed transaction; those of a rollback are discarded."""

    @event.listens_for(session_class, "after_commit")
    def remember_commit(session: Session) -> None:
        # Also fires for savepoints; the transaction's end, which follows immediately, shows which one it was.
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

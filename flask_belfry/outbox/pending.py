"""Messages that a session's open transaction has written and that are published only after its commit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
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


# The most delayed jobs that one commit publishes: the scheduler adds the others when they are due soon.
MAX_DELAYED = 10_000
_DELAYED = "delayed"


@dataclass
class Written:
    """What one open transaction or savepoint has written.

    A statement over a million rows keeps no million ids in memory: of each queue as many as it can hold, and the names
    of the queues that have more.
    """

    messages: list[PendingMessage] = field(default_factory=list)
    backlog: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)  # of the messages, by queue

    def add(self, other: Written) -> None:
        """Add what a savepoint in it has written."""
        self.messages += other.messages
        self.backlog |= other.backlog
        self.counts += other.counts


@dataclass
class Buffer:
    """What each open transaction and savepoint of one session has written."""

    by_transaction: dict[SessionTransaction, Written] = field(default_factory=dict)
    committed: bool = False

    def add(
        self, transaction: SessionTransaction, messages: Sequence[PendingMessage], bound_of: Callable[[str], float]
    ) -> None:
        """Add messages of a transaction, of each queue at most as many as its bound."""
        written = self.by_transaction.setdefault(transaction, Written())
        counts = sum((each.counts for each in self.by_transaction.values()), Counter[str]())
        for message in messages:
            queue = _DELAYED if message.scheduled_at else message.queue
            if message.goes_first or counts[queue] < (MAX_DELAYED if message.scheduled_at else bound_of(queue)):
                counts[queue] += 1
                written.counts[queue] += 1
                written.messages.append(message)
            elif not message.scheduled_at:
                written.backlog.add(queue)


Publish = Callable[[Sequence[PendingMessage], Collection[str]], None]


def publish_on_commit(session: Session, records: Sequence[PendingMessage]) -> None:
    """Publish `records` when the transaction that wrote them commits: as many of each queue as it can hold."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    assert transaction is not None, "records are written on the session's connection, which begins one"
    publisher = current_app.extensions["outbox"].publisher
    # The publisher needs the deployment's id after the commit, when no statement may run.
    publisher.ownership.learn(session)
    # Nothing else would run the rest with JOBS_EAGER.
    bound_of = (lambda _: math.inf) if current_app.config["JOBS_EAGER"] else publisher.queues.bound_of
    session.info.setdefault("outbox", Buffer()).add(transaction, records, bound_of)


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
        written = buffer.by_transaction.pop(transaction, None)
        committed, buffer.committed = buffer.committed, False
        if not committed or written is None:
            return
        if transaction.parent is not None:
            buffer.by_transaction.setdefault(transaction.parent, Written()).add(written)
        elif written.messages:
            publish(written.messages, written.backlog)

"""How a worker gets jobs of the backlogs of its queues: see `flask_belfry.outbox.backlog`."""

from __future__ import annotations

from dataclasses import dataclass, field

import redis
from sqlalchemy.orm import Session

from flask_belfry.outbox.backlog import BACKLOG_KEY, Choice, FairChoice
from flask_belfry.workers.registration import redis_optional


@dataclass
class Fetched:
    """What one fetch brought. It is kept while the claim fails: the ids are in no queue any more.

    Args:
        ids: the ids of jobs from RQ's queues.
        backlog: a queue with a backlog that brought fewer ids than wanted.
        missing: how many it did not bring.
        is_unmarked: whether the fetch has removed the queue from BACKLOG_KEY.
    """

    ids: list[str] = field(default_factory=list)
    backlog: str | None = None
    missing: int = 0
    is_unmarked: bool = False

    def __bool__(self) -> bool:
        return bool(self.ids or self.backlog)


class Backlogs:
    """Chooses jobs from the backlogs of a worker's queues, and finds their ends.

    Args:
        connection: the worker's client.
        with_quarantined: whether the worker claims quarantined jobs too.
    """

    def __init__(self, connection: redis.Redis, *, with_quarantined: bool) -> None:
        self._connection = connection
        self._with_quarantined = with_quarantined
        self._choice = FairChoice()
        self._ending: set[str] = set()  # queues of whose backlog the last choice found everything

    def fetch(self, fetched: Fetched, queue: str, missing: int, has_backlog: bool) -> None:
        """Add to what was fetched that the jobs which a queue did not bring are to be chosen from its backlog."""
        if not has_backlog:
            self._ending.discard(queue)
        elif missing:
            fetched.backlog, fetched.missing = queue, missing
            if queue in self._ending:  # before its jobs are looked for once more
                self._connection.srem(BACKLOG_KEY, queue)
                fetched.is_unmarked = True

    def choose(self, session: Session, fetched: Fetched) -> Choice:
        """Choose jobs, and lock them until the open transaction ends."""
        if fetched.backlog is None:
            return Choice([], has_more=False)
        return self._choice.choose(session, fetched.backlog, fetched.missing, with_quarantined=self._with_quarantined)

    def note(self, fetched: Fetched, choice: Choice) -> None:
        """Note whether the backlog has ended, after the chosen jobs are claimed."""
        if fetched.backlog is None:
            return
        if fetched.is_unmarked or choice.has_more:
            self._ending.discard(fetched.backlog)
        else:
            self._ending.add(fetched.backlog)
        if fetched.is_unmarked and choice.ids:
            with redis_optional():  # the relay marks it too
                self._connection.sadd(BACKLOG_KEY, fetched.backlog)

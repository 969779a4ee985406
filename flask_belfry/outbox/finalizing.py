"""Functions that are called when jobs are finalized, in the same transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from flask_belfry.outbox.states import JobState


class FinalizedJob(NamedTuple):
    """A job that the open transaction has just finalized."""

    id: str
    name: str
    batch_id: str | None
    has_successors: bool


Finalized = Callable[[Session, Sequence[str], JobState], None]
_listeners: dict[tuple[str, JobState], list[Finalized]] = {}


def on_finalized(name: str, *states: JobState) -> Callable[[Finalized], Finalized]:
    """Call the function when jobs of this name are finalized, with the session, their ids and the state.

    It runs in the transaction that finalizes them: after their own function, a cancellation, a time limit, or the
    rescue after a crash of their worker. It gets the ids of all jobs that one statement finalizes in one call. A chunk
    function's `before_commit` is called later in the same transaction.

    Args:
        name: the job's name.
        states: completed, failed, cancelled, or several of them.
    """

    def register(function: Finalized) -> Finalized:
        for state in states:
            _listeners.setdefault((name, state), []).append(function)
        return function

    return register


def announce_finalized(session: Session, jobs: Iterable[FinalizedJob], state: JobState) -> None:
    """Call the functions that are registered for jobs which the open transaction has just finalized.

    Args:
        session: the session of that transaction.
        jobs: what it has finalized.
        state: the new state of all of them.
    """
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for job in jobs:
        if (job.name, state) in _listeners:
            ids[job.name].append(job.id)
    for name, of_name in ids.items():
        for function in _listeners[name, state]:
            function(session, of_name, state)

"""Learning of the ends of jobs: functions that are called where records are finalized, in the same transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy.orm import Session

from flask_belfry.outbox.states import JobState

Finalized = Callable[[Session, Sequence[str], JobState], None]
_listeners: dict[tuple[str, JobState], list[Finalized]] = {}


def on_finalized(name: str, *states: JobState) -> Callable[[Finalized], Finalized]:
    """Calls the function when jobs of this name are finalized, with the session, their ids and the state.

    It runs in the transaction that finalizes them, whatever ends them: their own function, a person who cancels them,
    the worker's watch over their time, the rescue after a worker's death. Of those that one statement finalizes it gets
    all ids in one call. A chunk function's `before_commit` is called later in the same transaction.

    Args:
        name: the job's name.
        states: those of completed, failed and cancelled that it is called for.
    """

    def register(function: Finalized) -> Finalized:
        for state in states:
            _listeners.setdefault((name, state), []).append(function)
        return function

    return register


def announce_finalized(session: Session, records: Iterable[tuple[str, str]], state: JobState) -> None:
    """Calls what is registered for records that the open transaction has just finalized.

    Args:
        session: whose transaction.
        records: ids and job names.
        state: which all of them have got.
    """
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for id, name in records:
        if (name, state) in _listeners:
            ids[name].append(id)
    for name, of_name in ids.items():
        for function in _listeners[name, state]:
            function(session, of_name, state)

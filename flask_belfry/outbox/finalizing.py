"""What follows when jobs are finalized, in the same transaction: listeners, successors and batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from sqlalchemy.orm import Session

from flask_belfry.outbox import successors
from flask_belfry.outbox.states import JobState
from flask_belfry.outbox.successors import FinalizedJob, Predecessor

Finalized = Callable[[Session, Sequence[str], JobState], None]
FinishBatches = Callable[[Session, Collection[str]], list[Predecessor]]
_listeners: dict[tuple[str | None, JobState], list[Finalized]] = {}
# What finishes batches enqueues a job, and what enqueues a job calls this module: it registers itself here.
_finishers: list[FinishBatches] = []


def on_finalized(name: str | None, *states: JobState) -> Callable[[Finalized], Finalized]:
    """Call the function when jobs of this name are finalized, with the session, their ids and the state.

    It runs in the transaction that finalizes them: after their own function, a cancellation, a time limit, or the
    rescue after a crash of their worker. It gets the ids of all jobs that one statement finalizes in one call. A chunk
    function's `before_commit` is called later in the same transaction.

    Args:
        name: the job's name; None for the jobs of all names.
        states: completed, failed, cancelled, or several of them.
    """

    def register(function: Finalized) -> Finalized:
        for state in states:
            _listeners.setdefault((name, state), []).append(function)
        return function

    return register


def on_batches_ended(function: FinishBatches) -> FinishBatches:
    """Call the function with the ids of batches whose jobs were finalized; it returns those that have successors and
    that it finished."""
    _finishers.append(function)
    return function


def announce_finalized(session: Session, jobs: Iterable[FinalizedJob], state: JobState) -> None:
    """Do what follows when the open transaction has finalized jobs: call the functions that are registered for them,
    enqueue or cancel their successors, and finish their batches.

    Args:
        session: the session of that transaction.
        jobs: what it has finalized.
        state: the new state of all of them.
    """
    _follow(session, list(jobs), state)


def settle_successors(session: Session, ended: Iterable[Predecessor]) -> None:
    """Enqueue or cancel the successors of jobs and batches that ended before."""
    _follow(session, ended=list(ended))


def finish_batches(session: Session, ids: Iterable[str]) -> None:
    """Finish those of the batches that have no live job."""
    _follow(session, batch_ids=set(ids))


def _follow(
    session: Session,
    finalized: Sequence[FinalizedJob] = (),
    state: JobState = JobState.CANCELLED,
    ended: Sequence[Predecessor] = (),
    batch_ids: Collection[str] = (),
) -> None:
    # A loop, not a recursion: a chain may be longer than the stack. The successors come first, so that each batch is
    # checked once for all of them.
    batches = set(batch_ids)
    while True:
        _call_listeners(session, finalized, state)
        batches.update(job.batch_id for job in finalized if job.batch_id is not None)
        ended = [*ended, *(successors.predecessor_of(job, state) for job in finalized if job.has_successors)]
        if not ended and batches:
            ended = [each for finish in _finishers for each in finish(session, batches)]
            batches = set[str]()
        if not ended:
            return
        finalized, state, ended = successors.settle(session, ended), JobState.CANCELLED, []


def _call_listeners(session: Session, jobs: Sequence[FinalizedJob], state: JobState) -> None:
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for job in jobs:
        if (job.name, state) in _listeners:
            ids[job.name].append(job.id)
    for name, of_name in ids.items():
        for function in _listeners[name, state]:
            function(session, of_name, state)
    for function in _listeners.get((None, state), ()) if jobs else ():
        function(session, [job.id for job in jobs], state)

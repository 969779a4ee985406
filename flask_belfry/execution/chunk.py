"""A chunk: many records of one job, answered one by one and committed together at intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from flask_belfry.core.database_errors import is_transient
from flask_belfry.execution import attempts
from flask_belfry.execution import claim as claims
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.context import current_job
from flask_belfry.execution.errors import Snooze
from flask_belfry.execution.results import result_text
from flask_belfry.outbox import JobState, JobTimeoutError, RetryPolicy

log = structlog.get_logger(__name__)

# The shortest time between two commits of one chunk, so that the database does not slow down a fast server.
COMMIT_SECONDS = 0.25
# Built once, as in `claim`.
_LOCK_HELD = sa.select(claims.RECORDS.c.id).where(claims.IS_HELD).order_by(claims.RECORDS.c.id).with_for_update()


@dataclass(frozen=True)
class Answer:
    """The outcome of one record of a chunk: its result or its error, and the state that it goes to."""

    item: Claim
    result: Any
    error: BaseException | None
    state: JobState


@dataclass(frozen=True)
class _Uncommitted:
    item: Claim
    result: Any
    stored_result: str | None
    error: BaseException | None
    is_released: bool = False
    is_interrupted: bool = False
    delay_seconds: float = 0.0

    @property
    def is_completed(self) -> bool:
        return self.error is None and not self.is_released


Save = Callable[[Session, Sequence[Answer]], None]


class Chunk:
    """The records that one call of a chunk function receives.

    Iterate for the items (`id`, `args`, `attempt`); call `answer`, `fail`, `snooze`, `release` or `interrupt` once for
    each.
    Commits happen in these calls, and never while the function does anything slow: a transaction is opened, filled and
    committed in one step.
    """

    def __init__(
        self, session: Session, items: Sequence[Claim], policy: RetryPolicy, should_stop: Callable[[], bool]
    ) -> None:
        self.session = session
        self._items = list(items)
        self._policy = policy
        self._should_stop = should_stop
        self._unanswered = {item.id: item for item in items}
        self._uncommitted: list[_Uncommitted] = []
        self._savers: list[Save] = []
        self._committed_at = time.monotonic()
        self.transitions: list[tuple[str, JobState]] = []
        self.errors: list[BaseException] = []

    def __iter__(self) -> Iterator[Claim]:
        job = current_job()
        try:
            for job.item in self._items:  # log lines belong to it
                yield job.item
        finally:
            job.item = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def unanswered(self) -> list[Claim]:
        """The items that have neither an answer nor a failure."""
        return list(self._unanswered.values())

    def is_unanswered(self, item: Claim) -> bool:
        """Return whether the item has neither an answer nor a failure."""
        return item.id in self._unanswered

    @property
    def should_stop(self) -> bool:
        """Whether the process is about to end: release what is not begun."""
        return self._should_stop()

    def before_commit(self, save: Save) -> None:
        """Call `save(session, answers)` in every transaction that answers items, with the items it answers."""
        self._savers.append(save)

    def held(self, items: Sequence[Claim]) -> set[str]:
        """Lock the items that no other worker has claimed since, until the transaction ends; return their ids.

        This is the fence for what a function commits before it does something that cannot be undone.
        """
        return set(self.session.connection().execute(_LOCK_HELD, claims.held_values(items)).scalars())

    def answer(self, item: Claim, result: Any = None) -> None:
        """Complete the item, or snooze it when `result` is a Snooze. Raise JobResultError when it is not small JSON."""
        if isinstance(result, Snooze):
            self.fail(item, result)
        else:
            self._add(_Uncommitted(item, result, result_text(result), None))

    def fail(self, item: Claim, error: BaseException) -> None:
        """Fail the attempt; the job's retry policy decides what follows."""
        self._add(_Uncommitted(item, None, None, error))

    def snooze(self, item: Claim, seconds: float, reason: str = "") -> None:
        """Schedule an item again that cannot be done yet, without using an attempt: see `Snooze`."""
        self.fail(item, Snooze(seconds, reason))

    def release(self, item: Claim, delay_seconds: float = 0.0) -> None:
        """Return an item that was not begun to its queue, optionally after a delay, without using an attempt."""
        self._add(_Uncommitted(item, None, None, None, is_released=True, delay_seconds=delay_seconds))

    def interrupt(self, item: Claim, error: BaseException) -> None:
        """Return an item to its queue that failed through no fault of its own; the third time in a row it fails."""
        self._add(_Uncommitted(item, None, None, error, is_interrupted=True))

    def commit(self) -> None:
        """Commit all items answered so far. When this raises, they are kept for the next call."""
        if self._uncommitted:
            self._commit_halving(self._uncommitted)
            self._committed_at = time.monotonic()

    def _commit_halving(self, uncommitted: list[_Uncommitted]) -> None:
        """Commit these, the first of those that wait. One that cannot be written is found by halving, and fails."""
        try:
            self._commit(uncommitted, self._savers)
        except (JobTimeoutError, KeyboardInterrupt):
            raise  # they concern the function, which is committing
        except BaseException as error:
            if is_transient(error):
                raise
            if len(uncommitted) > 1:
                half = len(uncommitted) // 2
                self._commit_halving(uncommitted[:half])
                self._commit_halving(uncommitted[half:])
            else:
                item = uncommitted[0].item
                log.exception("chunk.answer_not_written", job=item.name, job_id=item.id)
                self._commit([_Uncommitted(item, None, None, error)], [])

    def _commit(self, uncommitted: Sequence[_Uncommitted], savers: Sequence[Save]) -> None:
        self.session.rollback()  # ends a transaction that the function has read in, and releases its locks
        answers = self._write(uncommitted)
        for save in savers:
            save(self.session, answers)
        self.session.commit()
        self._uncommitted = self._uncommitted[len(uncommitted) :]
        self.transitions += [(answer.item.id, answer.state) for answer in answers]
        self.errors += [
            answer.error for answer in answers if answer.error is not None and answer.state is not JobState.SCHEDULED
        ]

    def _add(self, added: _Uncommitted) -> None:
        if self._unanswered.pop(added.item.id, None) is None:
            raise ValueError(f"job {added.item.id} is not in this chunk, or is already answered")
        self._uncommitted.append(added)
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self.commit()

    def _write(self, uncommitted: Sequence[_Uncommitted]) -> list[Answer]:
        if len(uncommitted) > 1:
            # In one order: a transaction that cancels their batch locks them too.
            self.held([one.item for one in uncommitted])
        completions = [(one.item, one.stored_result) for one in uncommitted if one.is_completed]
        states: dict[str, JobState] = dict.fromkeys(claims.complete(self.session, completions), JobState.COMPLETED)
        for one in uncommitted:
            if not one.is_completed and (state := self._write_uncompleted(one)) is not None:
                states[one.item.id] = state
        if len(states) < len(uncommitted):
            log.warning("claim.lost", job=uncommitted[0].item.name, records=len(uncommitted) - len(states))
        return [
            Answer(one.item, one.result, one.error, states[one.item.id]) for one in uncommitted if one.item.id in states
        ]

    def _write_uncompleted(self, one: _Uncommitted) -> JobState | None:
        if one.error is None:
            return attempts.release(self.session, one.item, one.delay_seconds)
        if one.is_interrupted:
            return attempts.interrupt(self.session, one.item, attempts.cause_of(one.error))
        return attempts.fail(self.session, one.item, one.error, self._policy)

"""A chunk: many records of one job, answered one by one and committed together, as often as there is something to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.orm import Session

from flask_belfry.core.database_errors import is_transient
from flask_belfry.execution import claim as claims
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.results import result_text
from flask_belfry.outbox import JobState, JobTimeoutError, RetryPolicy

log = structlog.get_logger(__name__)

# Two commits of one chunk lie at least this far apart, so that a fast server is not slowed by the database.
COMMIT_SECONDS = 0.1


@dataclass(frozen=True)
class Answer:
    """What became of one record of a chunk: its result or its error, and the state that it goes to."""

    item: Claim
    result: Any
    error: BaseException | None
    state: JobState


@dataclass(frozen=True)
class _Ended:
    item: Claim
    result: Any
    stored_result: str | None
    error: BaseException | None
    is_released: bool = False
    is_interrupted: bool = False
    delay_seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        return self.error is None and not self.is_released


Save = Callable[[Session, Sequence[Answer]], None]


class Chunk:
    """The records that one call of a chunk function gets.

    Iterate for the items (`id`, `args`, `attempt`); call `answer` or `fail` once for each. Commits happen in between,
    and never while the function does anything slow: a transaction is opened, filled and committed in one go.
    """

    def __init__(
        self, session: Session, items: Sequence[Claim], policy: RetryPolicy, should_stop: Callable[[], bool]
    ) -> None:
        self.session = session
        self._items = list(items)
        self._policy = policy
        self._should_stop = should_stop
        self._unanswered = {item.id: item for item in items}
        self._waiting: list[_Ended] = []
        self._savers: list[Save] = []
        self._committed_at = time.monotonic()
        self.ends: list[tuple[str, JobState]] = []
        self.errors: list[BaseException] = []

    def __iter__(self) -> Iterator[Claim]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def unanswered(self) -> list[Claim]:
        """The items that have neither an answer nor a failure."""
        return list(self._unanswered.values())

    def is_unanswered(self, item: Claim) -> bool:
        """Whether the item has neither an answer nor a failure."""
        return item.id in self._unanswered

    @property
    def should_stop(self) -> bool:
        """Whether the process is about to end: release what is not begun."""
        return self._should_stop()

    def before_commit(self, save: Save) -> None:
        """Has `save(session, answers)` called in every transaction that ends items, with those it ends."""
        self._savers.append(save)

    def held(self, items: Sequence[Claim]) -> set[str]:
        """The ids of those items that nobody else has claimed since, nor can until the transaction ends: the fence of
        what a function commits before it does something that cannot be taken back."""
        return claims.held(self.session, items)

    def answer(self, item: Claim, result: Any = None) -> None:
        """The item is done. Raises JobResultError when `result` is not small JSON."""
        self._take(_Ended(item, result, result_text(result), None))

    def fail(self, item: Claim, error: BaseException) -> None:
        """The item failed; the job's retry policy says what follows."""
        self._take(_Ended(item, None, None, error))

    def release(self, item: Claim, delay_seconds: float = 0.0) -> None:
        """The item was not begun: it goes back to the queue, maybe after a delay, and uses up no attempt."""
        self._take(_Ended(item, None, None, None, is_released=True, delay_seconds=delay_seconds))

    def interrupt(self, item: Claim, error: BaseException) -> None:
        """The item was disturbed by no fault of its own: it goes back, and the third time in a row it fails."""
        self._take(_Ended(item, None, None, error, is_interrupted=True))

    def settle(self) -> None:
        """Ends and commits all items answered so far. When it raises, they are kept for the next call."""
        if self._waiting:
            self._settle(self._waiting)
            self._committed_at = time.monotonic()

    def _settle(self, waiting: list[_Ended]) -> None:
        """Commits the first of those that wait. One whose end cannot be written is found by halving, and fails."""
        try:
            self._commit(waiting, self._savers)
        except (JobTimeoutError, KeyboardInterrupt):
            raise  # about the function, which is ending them
        except BaseException as error:
            if is_transient(error):
                raise
            if len(waiting) > 1:
                half = len(waiting) // 2
                self._settle(waiting[:half])
                self._settle(waiting[half:])
            else:
                log.exception("chunk.end_not_written", job=waiting[0].item.name, job_id=waiting[0].item.id)
                self._commit([_Ended(waiting[0].item, None, None, error)], [])

    def _commit(self, waiting: Sequence[_Ended], savers: Sequence[Save]) -> None:
        self.session.rollback()  # ends a transaction that the function has read in, and releases its locks
        answers = self._end(waiting)
        for save in savers:
            save(self.session, answers)
        self.session.commit()
        self._waiting = self._waiting[len(waiting) :]
        self.ends += [(answer.item.id, answer.state) for answer in answers]
        self.errors += [answer.error for answer in answers if answer.error is not None]

    def _take(self, ended: _Ended) -> None:
        if self._unanswered.pop(ended.item.id, None) is None:
            raise ValueError(f"job {ended.item.id} is not in this chunk, or has its answer already")
        self._waiting.append(ended)
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self.settle()

    def _end(self, waiting: Sequence[_Ended]) -> list[Answer]:
        done = [(ended.item, ended.stored_result) for ended in waiting if ended.is_done]
        states: dict[str, JobState] = dict.fromkeys(claims.complete(self.session, done), JobState.COMPLETED)
        for ended in waiting:
            if not ended.is_done and (state := self._end_other(ended)) is not None:
                states[ended.item.id] = state
        if len(states) < len(waiting):
            log.warning("claim.lost", job=waiting[0].item.name, records=len(waiting) - len(states))
        return [
            Answer(ended.item, ended.result, ended.error, states[ended.item.id])
            for ended in waiting
            if ended.item.id in states
        ]

    def _end_other(self, ended: _Ended) -> JobState | None:
        if ended.error is None:
            return claims.give_back_one(self.session, ended.item, ended.delay_seconds)
        if ended.is_interrupted:
            return claims.interrupt(self.session, ended.item, claims.cause_of(ended.error))
        return claims.fail(self.session, ended.item, ended.error, self._policy)

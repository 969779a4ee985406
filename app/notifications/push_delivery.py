"""Delivery of a chunk of push messages: to each device of each person, and the end of each job.

No transaction is open while FCM is used. The state of a delivery is committed together with the end of its job. A crash
between the answer of FCM and that commit repeats the message: FCM accepts no key that would prevent it, so the message
has a collapse key, by which the device shows it once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from app import push
from app.notifications.audiences import RESTRICTED, no_longer_contacted
from app.notifications.models import (
    DeliveryState,
    Notification,
    NotificationChannel,
    NotificationDelivery,
    NotificationState,
)
from app.notifications.push_channel import NO_DEVICE, PUSH
from app.notifications.reasons import CANCELLED, EXPIRED, SCHOOL_DISABLED
from app.push import (
    DeviceGoneError,
    PayloadRefusedError,
    PushCredentialsError,
    PushError,
    PushMessage,
    PushUnavailableError,
    Target,
    ThrottledError,
)
from app.schools import School
from flask_belfry.changes import Actor, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import UtcDateTime, error_text
from flask_belfry.db.lists import among
from flask_belfry.execution import Answer, Chunk, JobTimeoutError, RetryPolicy, Snooze
from flask_belfry.execution.claim import Claim
from flask_belfry.outbox import JobRecord, JobState, PauseKind, active_pauses, on_finalized, pause

log = structlog.get_logger(__name__)

# Errors that a later attempt may not meet: retried, by the job and by the sweep of failed deliveries.
OF_A_DEVICE = (PushUnavailableError, PushCredentialsError)
PASSING = (*OF_A_DEVICE, JobTimeoutError)


def asked_delay(error: BaseException) -> float | None:
    """Return how long FCM asks to wait before the next attempt."""
    return error.retry_after_seconds if isinstance(error, PushUnavailableError) else None


RETRY = RetryPolicy(delays_seconds=(10, 30, 90, 270, 810), jitter=0.5, retry_on=PASSING, delay_from=asked_delay)
FORGOTTEN = "FCM does not deliver to the devices any more"
# The claims of the jobs are checked again after this time: the process may have been frozen meanwhile.
HELD_SECONDS = 2.0
# After this many failures of FCM in a row the rest of the chunk fails without being tried: each may take as long.
MAX_FAILURES = 3
ERROR_CHARACTERS = 2_000
STATES_AFTER = {
    JobState.RETRYABLE: DeliveryState.DEFERRED,
    JobState.FAILED: DeliveryState.FAILED,
    JobState.CANCELLED: DeliveryState.CANCELLED,
    JobState.SCHEDULED: DeliveryState.QUEUED,
}
# Without a delivery nothing is known of the others: a job that was retried by hand sends what had failed.
ENDED = (DeliveryState.DELIVERED, DeliveryState.SKIPPED, DeliveryState.BOUNCED)
OPEN = (DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.DEFERRED)

_LOAD = (
    sa.select(
        NotificationDelivery.id,
        NotificationDelivery.job_id,
        NotificationDelivery.user_id,
        NotificationDelivery.state,
        NotificationDelivery.notification_id,
        NotificationDelivery.remaining_devices,
        Notification.title,
        Notification.body,
        Notification.type,
        Notification.data,
        Notification.expires_at,
        Notification.push_error,
        Notification.state.label("notification_state"),
        School.disabled_at,
    )
    .join(NotificationDelivery.notification)
    .join(School, School.id == Notification.school_id)
    .where(among(NotificationDelivery.job_id, "job_ids"))
    .order_by(NotificationDelivery.id)
)
_DELIVERIES = table_of(NotificationDelivery)
_columns = _DELIVERIES.c
# When the first device got it.
_DELIVERED_AT = sa.func.coalesce(_columns.delivered_at, sa.bindparam("now", type_=UtcDateTime))
_WRITE_DELIVERED = (
    sa.update(_DELIVERIES)
    .where(among(_columns.id, "ids"), among(_columns.job_id, "job_ids"))
    .values(
        state=DeliveryState.DELIVERED,
        reason=None,
        is_passing=False,
        attempts=_columns.attempts + 1,
        remaining_devices=None,
        delivered_at=_DELIVERED_AT,
    )
)
_WRITE_OTHERS = (
    sa.update(_DELIVERIES)
    .where(_columns.id == sa.bindparam("delivery_id"), _columns.job_id == sa.bindparam("by_job_id"))
    .values(
        state=sa.bindparam("new_state"),
        reason=sa.bindparam("new_reason"),
        is_passing=sa.bindparam("passes"),
        attempts=_columns.attempts + sa.bindparam("more_attempts", type_=sa.Integer),
        remaining_devices=sa.bindparam("remaining"),
        delivered_at=sa.case(
            (sa.bindparam("is_delivered", type_=sa.Boolean), _DELIVERED_AT), else_=_columns.delivered_at
        ),
    )
)
_LOCK_REFUSED = (
    sa.select(Notification.id)
    .where(Notification.id == sa.bindparam("refused_id"))
    .with_for_update(key_share=True, skip_locked=True)
)
# Rows that another transaction has locked are left: it writes the outcome of an attempt.
_OPEN_OF_NOTIFICATION = (
    sa.select(_columns.id)
    .where(
        _columns.notification_id == sa.bindparam("refused_id"),
        _columns.channel == NotificationChannel.PUSH,
        _columns.state.in_(OPEN),
    )
    .with_for_update(skip_locked=True)
)
_FAIL_REST = (
    sa.update(_DELIVERIES)
    .where(_columns.id.in_(_OPEN_OF_NOTIFICATION))
    .values(state=DeliveryState.FAILED, reason=sa.bindparam("new_reason"), held_until=None)
)


@dataclass(frozen=True)
class _Outcome:
    """What an attempt makes of a delivery. `attempts` is how many it counts as, `remaining` the ids of the devices that
    the next attempt tries."""

    state: DeliveryState
    reason: str | None = None
    attempts: int = 0
    remaining: Sequence[int] | None = None


DELIVERED = _Outcome(DeliveryState.DELIVERED, attempts=1)


@dataclass
class _Push:
    """A job in one attempt: its deliveries, with their notifications, and the devices of the person.

    Args:
        item: the job.
        rows: one delivery, or those of a daily digest.
        targets: the devices.
        left: the outcomes of the rows that are not sent.
        outcome: of the others.
        remaining: the devices that have not got the message, after another one has.
    """

    item: Claim
    rows: list[Any] = field(default_factory=list)
    targets: Sequence[Target] = ()
    left: dict[str, _Outcome] = field(default_factory=dict)
    outcome: _Outcome | None = None
    remaining: Sequence[Target] | None = None

    @property
    def sent(self) -> list[Any]:
        """The rows that the message is about."""
        return [row for row in self.rows if row.id not in self.left]


def deliver(chunk: Chunk) -> None:
    """Deliver a chunk of `notifications.push` jobs. A delivery names its job; the daily digest has one for several."""
    _Chunk(chunk).run()


@on_finalized(PUSH, JobState.FAILED, JobState.CANCELLED)
def end_with_jobs(session: Session, job_ids: Sequence[str], state: JobState) -> None:
    """End the deliveries whose jobs failed or were cancelled outside of an attempt: expired, or after crashes."""
    error = sa.select(JobRecord.error_message).where(JobRecord.id == _columns.job_id).scalar_subquery()
    is_expired = sa.select(JobRecord.error_type == "JobExpiredError").where(JobRecord.id == _columns.job_id)
    reason = error if state is JobState.FAILED else sa.case((is_expired.scalar_subquery(), EXPIRED), else_=CANCELLED)
    ended = (
        sa.update(_DELIVERIES)
        .where(among(_columns.job_id, "job_ids"), _columns.state.in_(OPEN))
        .values(state=STATES_AFTER[state], reason=reason, held_until=None)
    )
    session.connection().execute(ended, {"job_ids": list(job_ids)})


@dataclass
class _Chunk:
    """One attempt of a chunk."""

    chunk: Chunk
    pushes: dict[str, _Push] = field(default_factory=dict)
    _left_out: set[tuple[str, int]] = field(default_factory=set)
    _gone: set[str] = field(default_factory=set)
    _refused: dict[str, str] = field(default_factory=dict)
    _throttled: tuple[str, datetime] | None = None
    _failures: int = 0
    _held_at: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Complete, fail, snooze or release every job of the chunk."""
        self.chunk.before_commit(self._write)
        self._load()
        for item in self.chunk:
            if not self.chunk.is_unanswered(item):
                continue
            if self.chunk.should_stop or not self._is_held(item):
                self.chunk.release(item)
            elif self._throttled is not None:
                self._snooze(item)
            else:
                self._deliver(item)

    def _load(self) -> None:
        session, items = self.chunk.session, {item.id: item for item in self.chunk}
        for row in session.execute(_LOAD, {"job_ids": list(items)}):
            if row.state not in ENDED or row.remaining_devices is not None:
                self.pushes.setdefault(row.job_id, _Push(items[row.job_id])).rows.append(row)
        user_ids = {each.rows[0].user_id for each in self.pushes.values()}
        targets = push.targets_of(session, user_ids)
        notification_ids = {row.notification_id for each in self.pushes.values() for row in each.rows}
        self._left_out = no_longer_contacted(session, notification_ids, user_ids)
        for each in self.pushes.values():
            each.targets = targets.get(each.rows[0].user_id, ())
            remaining = [row.remaining_devices for row in each.rows if row.remaining_devices is not None]
            if remaining:
                each.targets = [target for target in each.targets if target.device_id in remaining[0]]
                each.remaining = each.targets
        session.rollback()

    def _is_held(self, item: Claim) -> bool:
        """Return whether this worker still holds the job: another claim may have sent the message."""
        if time.monotonic() - self._held_at < HELD_SECONDS:
            return True
        unanswered = self.chunk.unanswered
        held = self.chunk.held(unanswered)
        self.chunk.session.rollback()
        if len(held) == len(unanswered):
            self._held_at = time.monotonic()
        return item.id in held

    def _deliver(self, item: Claim) -> None:
        found = self.pushes.get(item.id)
        if found is None:  # another job delivers it, or it has ended
            return self.chunk.answer(item, {"state": None})
        outcomes = {row.id: self._without_sending(row, found.targets) for row in found.rows}
        found.left = {id: outcome for id, outcome in outcomes.items() if outcome is not None}
        if not found.sent:
            return self._end(found, found.left[found.rows[-1].id])
        try:
            outcome = self._send(found)
            self._failures = 0
            return self._end(found, outcome)
        except ThrottledError as error:
            self._throttled = str(error), utc_now() + timedelta(seconds=error.retry_after_seconds)
            return self._snooze(item)
        except PayloadRefusedError as error:
            if (notification_id := _only_notification(found)) is not None:
                self._refused[notification_id] = str(error)
            return self.chunk.fail(item, error)
        except PushUnavailableError as error:
            self._failures += 1
            return self._fail_rest(error) if self._failures >= MAX_FAILURES else self.chunk.fail(item, error)
        except PushError as error:
            self._failures = 0
            return self.chunk.fail(item, error)

    def _fail_rest(self, error: PushError) -> None:
        for item in self.chunk.unanswered:
            self.chunk.fail(item, error)

    def _without_sending(self, row: Any, targets: Sequence[Target]) -> _Outcome | None:
        """Return the outcome of a delivery that is not sent; None if it is."""
        outcome = self._outcome_without_sending(row, targets)
        is_delivered = outcome is not None and row.remaining_devices is not None
        return _Outcome(DeliveryState.DELIVERED) if is_delivered else outcome

    def _outcome_without_sending(self, row: Any, targets: Sequence[Target]) -> _Outcome | None:
        if not push.is_configured():
            return _Outcome(DeliveryState.SKIPPED, push.NOT_CONFIGURED)
        if row.disabled_at is not None:
            return _Outcome(DeliveryState.SKIPPED, SCHOOL_DISABLED)
        if (row.notification_id, row.user_id) in self._left_out:
            return _Outcome(DeliveryState.SKIPPED, RESTRICTED)
        if row.notification_state is NotificationState.CANCELLED:
            return _Outcome(DeliveryState.CANCELLED, CANCELLED)
        if row.expires_at is not None and row.expires_at <= utc_now():
            return _Outcome(DeliveryState.CANCELLED, EXPIRED)
        if (refusal := self._refused.get(row.notification_id) or row.push_error) is not None:
            return _Outcome(DeliveryState.FAILED, refusal)
        return None if targets else _Outcome(DeliveryState.SKIPPED, NO_DEVICE)

    def _send(self, found: _Push) -> _Outcome:
        """Send the message to all devices of a person; it is delivered if one of them gets it.

        Raises:
            PushError: devices do not get it, and a later attempt may reach them, or no device gets it.
        """
        message, client = _message(found.sent), push.push_client()
        is_accepted, failure = found.remaining is not None, None
        remaining: list[Target] = []
        for index, target in enumerate(found.targets):
            if target.token in self._gone:
                continue
            try:
                client.send(message, target.kind, target.token)
                is_accepted, self._failures = True, 0
            except DeviceGoneError as error:
                self._gone.add(target.token)
                log.info("push.device_forgotten", device=target.device_id, reason=str(error))
            except (ThrottledError, PayloadRefusedError) as error:
                failure = error
                remaining += found.targets[index:]
                break
            except OF_A_DEVICE as error:
                # More than one that does not pass: a later attempt reaches this device.
                failure = error
                remaining.append(target)
            except PushError as error:
                failure = failure or error
        if is_accepted and not isinstance(failure, (*OF_A_DEVICE, ThrottledError)):
            return DELIVERED
        if failure is None:
            return _Outcome(DeliveryState.SKIPPED, FORGOTTEN, attempts=1)
        found.remaining = remaining if is_accepted else None
        raise failure

    def _end(self, found: _Push, outcome: _Outcome) -> None:
        found.outcome = outcome
        self.chunk.answer(found.item, {"state": outcome.state.value})

    def _snooze(self, item: Claim) -> None:
        assert self._throttled is not None, "FCM has asked to wait"
        _, until = self._throttled
        self.chunk.snooze(item, max(0.1, (until - utc_now()).total_seconds()), "FCM asked to wait")

    def _write(self, session: Session, answers: Sequence[Answer]) -> None:
        """Write what the attempt has made of the deliveries, in the transaction that ends their jobs."""
        self._write_refusals(session)
        delivered: list[Any] = []
        others: list[dict[str, Any]] = []
        for answer in answers:
            for row, outcome in _outcomes_of(answer, self.pushes.get(answer.item.id)):
                if outcome == DELIVERED:
                    delivered.append(row)
                else:
                    others.append(_parameters(row, outcome, answer))
        connection = session.connection()
        if delivered:
            ids, job_ids = [row.id for row in delivered], [row.job_id for row in delivered]
            connection.execute(_WRITE_DELIVERED, {"ids": ids, "job_ids": job_ids, "now": utc_now()})
        if others:
            connection.execute(_WRITE_OTHERS, others)
        push.forget(session, self._gone)
        if self._throttled is not None:
            _pause(session, *self._throttled)

    def _write_refusals(self, session: Session) -> None:
        for id in sorted(self._refused):
            # One that is being cancelled or retried is left: that transaction waits for the jobs of this one. The next
            # commit records it, and after the last one the next chunk, whose first message is refused again.
            if session.execute(_LOCK_REFUSED, {"refused_id": id}).first() is None:
                continue
            reason = self._refused[id][:ERROR_CHARACTERS]
            session.execute(sa.update(Notification).where(Notification.id == id).values(push_error=reason))
            session.connection().execute(_FAIL_REST, {"refused_id": id, "new_reason": reason})


def _message(rows: Sequence[Any]) -> PushMessage:
    newest = rows[-1]
    if len(rows) == 1:
        data = {"notification_id": newest.notification_id, "type": newest.type.value}
        return PushMessage(
            newest.notification_id, newest.title, newest.body, {**newest.data, **data}, newest.expires_at
        )
    titles = "\n".join(row.title for row in reversed(rows))
    data = {"type": "digest", "count": str(len(rows))}
    return PushMessage(newest.notification_id, f"{len(rows)} notifications", titles, data)


def _only_notification(found: _Push) -> str | None:
    """Return the notification whose content was sent; None for a digest, whose content is of several."""
    return found.sent[0].notification_id if len(found.sent) == 1 else None


def _outcomes_of(answer: Answer, found: _Push | None) -> Iterator[tuple[Any, _Outcome]]:
    """Yield the deliveries of a job that has ended, each with what becomes of it."""
    if found is None or (common := _outcome_of(answer, found)) is None:
        return
    for row in found.rows:
        yield row, found.left.get(row.id, common)


def _outcome_of(answer: Answer, found: _Push) -> _Outcome | None:
    """Return what the end of a job makes of its delivery; None if the job runs again as if it had not run."""
    if answer.error is None:
        return found.outcome if answer.state is JobState.COMPLETED else None
    if answer.state is JobState.PENDING:
        return None
    if found.remaining is not None:
        ids = [target.device_id for target in found.remaining]
        return _Outcome(DeliveryState.DELIVERED, attempts=0 if answer.state is JobState.SCHEDULED else 1, remaining=ids)
    outcome = _Outcome(STATES_AFTER[answer.state], error_text(answer.error)[:ERROR_CHARACTERS])
    return outcome if answer.state is JobState.SCHEDULED else replace(outcome, attempts=1)


def _parameters(row: Any, outcome: _Outcome, answer: Answer) -> dict[str, Any]:
    return {
        "delivery_id": row.id,
        "by_job_id": row.job_id,
        "new_state": outcome.state,
        "new_reason": outcome.reason,
        "passes": outcome.state is DeliveryState.FAILED and isinstance(answer.error, (*PASSING, Snooze)),
        "more_attempts": outcome.attempts,
        "remaining": outcome.remaining,
        "is_delivered": outcome.state is DeliveryState.DELIVERED,
        "now": utc_now(),
    }


def _pause(session: Session, reason: str, until: datetime) -> None:
    """Pause all push messages of the project, unless they are paused for longer already."""
    paused = [each for each in active_pauses(session) if (each.kind, each.name) == (PauseKind.JOB, PUSH)]
    if until > utc_now() and all(each.ends_at is not None and each.ends_at < until for each in paused):
        with use_actor(Actor()):
            pause(session, PauseKind.JOB, PUSH, reason=reason[:200], ends_at=until)

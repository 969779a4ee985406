"""Delivery of a chunk of push messages: to each device of each person, and the end of each job.

No transaction is open while FCM is used. The state of a delivery is committed together with the end of its job. A crash
between the answer of FCM and that commit repeats the message: FCM accepts no key that would prevent it, so the message
has a collapse key, by which the device shows it once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session, aliased

from app import push
from app.notifications.models import (
    DeliveryState,
    Notification,
    NotificationChannel,
    NotificationDelivery,
    NotificationState,
)
from app.notifications.push_channel import NO_DEVICE, PUSH
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
PASSING = (PushUnavailableError, PushCredentialsError, JobTimeoutError)


def asked_delay(error: BaseException) -> float | None:
    """Return how long FCM asks to wait before the next attempt."""
    return error.retry_after_seconds if isinstance(error, PushUnavailableError) else None


RETRY = RetryPolicy(delays_seconds=(10, 30, 90, 270, 810), jitter=0.5, retry_on=PASSING, delay_from=asked_delay)
CANCELLED = "the notification was cancelled"
EXPIRED = "it had expired before it was sent"
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

_in_digest = aliased(NotificationDelivery)
_LOAD = (
    sa.select(
        NotificationDelivery.id,
        NotificationDelivery.job_id,
        NotificationDelivery.user_id,
        NotificationDelivery.state,
        NotificationDelivery.notification_id,
        Notification.title,
        Notification.body,
        Notification.type,
        Notification.data,
        Notification.expires_at,
        Notification.push_error,
        Notification.state.label("notification_state"),
        # More than one in a digest, which is one message for all of them.
        sa.select(sa.func.count())
        .where(_in_digest.job_id == NotificationDelivery.job_id)
        .correlate(NotificationDelivery)
        .scalar_subquery()
        .label("number"),
    )
    .join(NotificationDelivery.notification)
    .where(among(NotificationDelivery.id, "ids"))
)
_DELIVERIES = table_of(NotificationDelivery)
_columns = _DELIVERIES.c
_NOW = sa.bindparam("now", type_=UtcDateTime)
_WRITE_DELIVERED = (
    sa.update(_DELIVERIES)
    .where(among(_columns.job_id, "job_ids"))
    .values(
        state=DeliveryState.DELIVERED,
        reason=None,
        is_passing=False,
        attempts=_columns.attempts + 1,
        delivered_at=_NOW,
    )
)
_WRITE_OTHERS = (
    sa.update(_DELIVERIES)
    .where(_columns.job_id == sa.bindparam("by_job_id"))
    .values(
        state=sa.bindparam("new_state"),
        reason=sa.bindparam("new_reason"),
        is_passing=sa.bindparam("passes"),
        attempts=_columns.attempts + sa.bindparam("more_attempts", type_=sa.Integer),
    )
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
    """What an attempt makes of a delivery. `attempts` is how many it counts as."""

    state: DeliveryState
    reason: str | None = None
    attempts: int = 0


@dataclass
class _Push:
    """A delivery in one attempt: its job, its row with that of the notification, and the devices of the person."""

    item: Claim
    row: Any
    targets: Sequence[Target] = ()
    outcome: _Outcome | None = None


def deliver(chunk: Chunk) -> None:
    """Deliver a chunk of `notifications.push` jobs, whose argument `delivery_id` names the delivery."""
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
        session, items = self.chunk.session, {str(item.args["delivery_id"]): item for item in self.chunk}
        for row in session.execute(_LOAD, {"ids": list(items)}):
            item = items[row.id]
            if row.job_id == item.id:  # otherwise another job delivers it
                self.pushes[item.id] = _Push(item, row)
        targets = push.targets_of(session, {each.row.user_id for each in self.pushes.values()})
        for each in self.pushes.values():
            each.targets = targets.get(each.row.user_id, ())
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
        if found is None:
            return self.chunk.answer(item, {"state": None})
        if (state := found.row.state) in ENDED:
            return self.chunk.answer(item, {"state": state.value})
        if (outcome := self._without_sending(found)) is not None:
            return self._end(found, outcome)
        try:
            outcome = self._send(found)
            self._failures = 0
            return self._end(found, outcome)
        except ThrottledError as error:
            self._throttled = str(error), utc_now() + timedelta(seconds=error.retry_after_seconds)
            return self._snooze(item)
        except PayloadRefusedError as error:
            self._refused[found.row.notification_id] = str(error)
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

    def _without_sending(self, found: _Push) -> _Outcome | None:
        """Return the outcome of a delivery that is not sent; None if it is."""
        row = found.row
        if not push.is_configured():
            return _Outcome(DeliveryState.SKIPPED, push.NOT_CONFIGURED)
        if row.notification_state is NotificationState.CANCELLED:
            return _Outcome(DeliveryState.CANCELLED, CANCELLED)
        if row.number == 1 and row.expires_at is not None and row.expires_at <= utc_now():
            return _Outcome(DeliveryState.CANCELLED, EXPIRED)
        if (refusal := self._refused.get(row.notification_id) or row.push_error) is not None:
            return _Outcome(DeliveryState.FAILED, refusal)
        return None if found.targets else _Outcome(DeliveryState.SKIPPED, NO_DEVICE)

    def _send(self, found: _Push) -> _Outcome:
        """Send the message to all devices of a person; it is delivered if one of them gets it.

        Raises:
            PushError: no device gets it, and this error may pass, or is about more than the devices.
        """
        message, client = _message(found.row), push.push_client()
        is_accepted, failure = False, None
        for target in found.targets:
            if target.token in self._gone:
                continue
            try:
                client.send(message, target.kind, target.token)
                is_accepted = True
            except DeviceGoneError as error:
                self._gone.add(target.token)
                log.info("push.device_forgotten", device=target.device_id, reason=str(error))
            except (ThrottledError, PayloadRefusedError) as error:
                failure = error
                break
            except PushError as error:
                # One that may pass is more than one that does not: a later attempt reaches this device.
                failure = failure if isinstance(failure, PASSING) else error
        if is_accepted:
            return _Outcome(DeliveryState.DELIVERED, attempts=1)
        if failure is not None:
            raise failure
        return _Outcome(DeliveryState.SKIPPED, FORGOTTEN, attempts=1)

    def _end(self, found: _Push, outcome: _Outcome) -> None:
        found.outcome = outcome
        self.chunk.answer(found.item, {"state": outcome.state.value})

    def _snooze(self, item: Claim) -> None:
        assert self._throttled is not None, "FCM has asked to wait"
        _, until = self._throttled
        self.chunk.snooze(item, max(0.1, (until - utc_now()).total_seconds()), "FCM asked to wait")

    def _write(self, session: Session, answers: Sequence[Answer]) -> None:
        """Write what the attempt has made of the deliveries, in the transaction that ends their jobs."""
        self._write_refusals(session, answers)
        delivered: list[_Push] = []
        others: list[dict[str, Any]] = []
        for answer in answers:
            found = self.pushes.get(answer.item.id)
            outcome = None if found is None else _outcome_of(answer, found)
            if found is None or outcome is None:
                continue
            if outcome.state is DeliveryState.DELIVERED:
                delivered.append(found)
            else:
                others.append(_parameters(found, outcome, answer))
        connection = session.connection()
        if delivered:
            connection.execute(_WRITE_DELIVERED, {"job_ids": [each.item.id for each in delivered], "now": utc_now()})
        if others:
            connection.execute(_WRITE_OTHERS, others)
        push.forget(session, self._gone)
        if self._throttled is not None:
            _pause(session, *self._throttled)

    def _write_refusals(self, session: Session, answers: Sequence[Answer]) -> None:
        # First, so that two transactions about one notification wait for each other before they lock deliveries.
        refused = {answer.item.id for answer in answers if isinstance(answer.error, PayloadRefusedError)}
        for id in sorted(self.pushes[item_id].row.notification_id for item_id in refused):
            reason = self._refused[id][:ERROR_CHARACTERS]
            session.execute(sa.update(Notification).where(Notification.id == id).values(push_error=reason))
            session.connection().execute(_FAIL_REST, {"refused_id": id, "new_reason": reason})


def _message(row: Any) -> PushMessage:
    if row.number > 1:
        data = {"type": "digest", "count": str(row.number)}
        return PushMessage(row.notification_id, f"{row.number} notifications", "Open the inbox to read them.", data)
    data = {**row.data, "notification_id": row.notification_id, "type": row.type.value}
    return PushMessage(row.notification_id, row.title, row.body, data, row.expires_at)


def _outcome_of(answer: Answer, found: _Push) -> _Outcome | None:
    """Return what the end of a job makes of its delivery; None if the job runs again as if it had not run."""
    if answer.error is None:
        return found.outcome if answer.state is JobState.COMPLETED else None
    if answer.state is JobState.PENDING:
        return None
    outcome = _Outcome(STATES_AFTER[answer.state], error_text(answer.error)[:ERROR_CHARACTERS])
    return outcome if answer.state is JobState.SCHEDULED else replace(outcome, attempts=1)


def _parameters(found: _Push, outcome: _Outcome, answer: Answer) -> dict[str, Any]:
    return {
        "by_job_id": found.item.id,
        "new_state": outcome.state,
        "new_reason": outcome.reason,
        "passes": outcome.state is DeliveryState.FAILED and isinstance(answer.error, (*PASSING, Snooze)),
        "more_attempts": outcome.attempts,
    }


def _pause(session: Session, reason: str, until: datetime) -> None:
    """Pause all push messages of the project, unless they are paused for longer already."""
    paused = [each for each in active_pauses(session) if (each.kind, each.name) == (PauseKind.JOB, PUSH)]
    if until > utc_now() and all(each.ends_at is not None and each.ends_at < until for each in paused):
        with use_actor(Actor()):
            pause(session, PauseKind.JOB, PUSH, reason=reason[:200], ends_at=until)

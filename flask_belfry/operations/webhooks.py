"""Outgoing webhooks: events of jobs and of groups of failures, sent by a job to the URLs of WEBHOOK_URLS.

The job is enqueued in the transaction of the event, so each event is sent if and only if it happened. The body is made
then: it has ids, names of jobs and the type of the error, and no arguments, messages or personal data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.orm import Session

from flask_belfry.changes.actor import SYSTEM, Subject, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.db import table_of
from flask_belfry.db.columns import new_id
from flask_belfry.db.lists import among
from flask_belfry.execution import JobTimeoutError, Limit, RetryPolicy, job
from flask_belfry.outbox import JobRecord, JobRequest, JobState, on_finalized
from flask_belfry.outbox.retry_policy import retry_after_seconds
from flask_belfry.statistics import FailureGroup, FailureState, on_failure_groups

NAME = "operations.deliver_webhook"
JOB_FAILED = "job.failed"
# By the state that the group has got.
EVENTS_OF_GROUPS = {FailureState.NEW: "failures.new", FailureState.REGRESSED: "failures.regressed"}
# In all about a day; a random part of each is added to it.
DELAYS_SECONDS = (5, 30, 120, 600, 1800, 7200, 18000, 36000)
# A slow receiver must not occupy all threads of a worker.
RUNNING_PER_RECEIVER = 4
# In the names of receivers.
MAX_HOST_CHARACTERS = 60

_JOBS = table_of(JobRecord)


class Event(NamedTuple):
    """What happened, and the row that it is about."""

    name: str
    subject: Subject
    data: Mapping[str, Any]


class WebhookError(Exception):
    """The receiver could not be reached or did not accept the event; the next attempt may succeed."""

    def __init__(self, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentWebhookError(WebhookError):
    """No further attempt can succeed."""


def _asked_delay(error: BaseException) -> float | None:
    return retry_after_seconds(error.retry_after, utc_now()) if isinstance(error, WebhookError) else None


@job(
    NAME,
    retry=RetryPolicy(
        delays_seconds=DELAYS_SECONDS,
        jitter=0.2,
        retry_on=(WebhookError, JobTimeoutError),
        give_up_on=(PermanentWebhookError,),
        delay_from=_asked_delay,
    ),
    timeout_seconds=60,
    limit=Limit(lambda args: f"webhook/{args['receiver']}", running=RUNNING_PER_RECEIVER),
)
def deliver_webhook(session: Session, receiver: str, event_id: str, body: str) -> None:
    """Send an event to a receiver; retried for about a day, with the same id."""
    settings = current_app.config
    url = receivers().get(receiver)
    if url is None:
        raise PermanentWebhookError(f"WEBHOOK_URLS no longer contains the receiver {receiver}")
    from flask_belfry.operations.webhook_client import send  # with urllib3: most processes send nothing

    send(
        url,
        event_id,
        body.encode(),
        settings["WEBHOOK_SECRET"],
        allows_private=settings["WEBHOOK_ALLOW_PRIVATE"],
    )


def receivers() -> dict[str, str]:
    """Return the URLs of the receivers by their names. The name is shown, and the URL, which may contain a secret, is
    not."""
    return {_name_of(url): url for url in current_app.config["WEBHOOK_URLS"] or ()}


def _name_of(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return f"{host[:MAX_HOST_CHARACTERS]}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


@on_finalized(None, JobState.FAILED)
def announce_failed_jobs(session: Session, ids: Sequence[str], state: JobState) -> None:
    """Send `job.failed` for jobs that failed finally."""
    if not _is_sent(JOB_FAILED):
        return
    # A webhook about a failed webhook would never end.
    query = sa.select(_JOBS).where(among(_JOBS.c.id, "ids"), _JOBS.c.name != NAME)
    rows = session.connection().execute(query, {"ids": list(ids)})
    announce(session, [_event_of_job(row) for row in rows])


@on_failure_groups
def announce_groups(session: Session, groups: Sequence[FailureGroup]) -> None:
    """Send `failures.new` or `failures.regressed` for groups of failures that have become new or regressed."""
    announce(session, [_event_of_group(group) for group in groups if group.job_name != NAME])


def announce(session: Session, events: Iterable[Event]) -> None:
    """Enqueue the webhooks of events in the open transaction, to each receiver, if WEBHOOK_EVENTS has them."""
    requests: list[JobRequest] = []
    for event in events:
        if not _is_sent(event.name):
            continue
        event_id = f"evt_{new_id()}"
        body = json.dumps(
            {"type": event.name, "timestamp": utc_now().isoformat(), "data": event.data}, separators=(",", ":")
        )
        requests += [
            JobRequest({"receiver": name, "event_id": event_id, "body": body}, subject=event.subject)
            for name in receivers()
        ]
    if requests:
        # The system's: the receivers are those of all schools.
        with use_actor(SYSTEM):
            deliver_webhook.enqueue_many(requests, session=session)


def _is_sent(event: str) -> bool:
    settings = current_app.config
    return bool(settings["WEBHOOK_URLS"]) and event in settings["WEBHOOK_EVENTS"]


def _event_of_job(row: sa.Row[Any]) -> Event:
    data = {
        "id": row.id,
        "name": _ascii(row.name),
        "queue": row.queue,
        "school_id": row.school_id,
        "attempt": row.attempt,
        "max_attempts": row.max_attempts,
        "error_type": _ascii(row.error_type),
        "fingerprint": row.fingerprint,
        "failed_at": _iso(row.finished_at),
        "url": _url(f"jobs/{row.id}"),
    }
    return Event(JOB_FAILED, Subject("job", row.id), data)


def _event_of_group(group: FailureGroup) -> Event:
    data = {
        "id": group.id,
        "fingerprint": group.fingerprint,
        "job_name": _ascii(group.job_name),
        "school_id": group.school_id or None,
        "error_type": _ascii(group.error_type),
        "frame": _ascii(group.frame),
        "failures": group.failures,
        "first_seen_at": _iso(group.first_seen_at),
        "last_seen_at": _iso(group.last_seen_at),
        "first_release": _ascii(group.first_release),
        "last_release": _ascii(group.last_release),
        "last_job_id": group.job_id,
        "url": _url(f"jobs/failures/{group.id}"),
    }
    return Event(EVENTS_OF_GROUPS[group.state], Subject("job", group.job_id), data)


def _ascii(text: str | None) -> str | None:
    # So that the arguments of the job fit, whatever names the code has.
    return text and text.encode("ascii", "replace").decode()


def _url(path: str) -> str:
    # A worker has no request with a host.
    return f"{current_app.config['PUBLIC_URL']}/{path}"


def _iso(moment: datetime | None) -> str | None:
    return moment and moment.isoformat()

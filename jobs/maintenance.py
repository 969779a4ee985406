"""The maintenance job, which deletes old rows of every slice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from flask import current_app
from sqlalchemy.orm import Session

from app.accounts import (
    forget_deleted,
    prune_codes,
    prune_login_addresses,
    prune_sessions,
    prune_tokens,
    prune_unconfirmed,
)
from app.api import prune_idempotency_records
from app.audit import prune_audit
from flask_belfry.core.clock import utc_now
from flask_belfry.execution import current_job, job
from flask_belfry.mail import prune_mails
from flask_belfry.operations import prune_operations
from flask_belfry.outbox import prune_pages
from flask_belfry.scheduler import ScheduleEntry
from flask_belfry.scheduler.schedule import prune_ticks
from flask_belfry.statistics import prune_statistics_pages

SCHEDULE = [
    ScheduleEntry("maintenance.prune", job="maintenance.prune", cron="17 3 * * *"),
    ScheduleEntry("maintenance.prune_jobs", job="maintenance.prune_jobs", cron="47 * * * *"),
]
# The most pages that one job deletes: it ends before that when nothing old is left.
MAX_PAGES = 1_000


@job("maintenance.prune_jobs", queue="bulk", timeout_seconds=600, is_singleton=True)
def prune_jobs(session: Session) -> dict[str, Any]:
    """Deletes finished jobs after the number of days in the settings, and old statistics, page by page."""
    return _prune_jobs(session)


@job("maintenance.prune", queue="bulk", timeout_seconds=600, is_singleton=True)
def prune(session: Session) -> dict[str, Any]:
    """Deletes old data: finished jobs, bulk operations, statistics, past run times, sent mails and audit events after
    the number of days in the settings; expired tokens, codes, sessions and idempotency records, old IP addresses of
    logins, and users who never confirmed their email address. Removes the email addresses of deleted accounts from
    their last mails."""
    settings = current_app.config
    deleted = _prune_jobs(session)
    operations = prune_operations(session, timedelta(days=settings["JOBS_KEEP_FAILED_DAYS"]))
    ticks = prune_ticks(session, utc_now() - timedelta(days=settings["JOBS_KEEP_DAYS"]))
    mails = _delete("mails", prune_mails(session, timedelta(days=settings["MAILS_KEEP_DAYS"])))
    audit = prune_audit(session, timedelta(days=settings["AUDIT_KEEP_DAYS"]))
    tokens, codes, answers = prune_tokens(session), prune_codes(session), prune_idempotency_records(session)
    return {
        **deleted,
        "operations": operations,
        "ticks": ticks,
        "mails": mails,
        "audit": audit,
        "tokens": tokens,
        "codes": codes,
        "sessions": prune_sessions(session),
        "addresses": prune_login_addresses(session),
        "unconfirmed": prune_unconfirmed(session),
        "answers": answers,
        "forgotten": forget_deleted(session),
    }


def _prune_jobs(session: Session) -> dict[str, int]:
    settings = current_app.config
    pages = prune_pages(
        session,
        older_than=timedelta(days=settings["JOBS_KEEP_DAYS"]),
        failed_older_than=timedelta(days=settings["JOBS_KEEP_FAILED_DAYS"]),
    )
    return {"jobs": _delete("jobs", pages), "statistics": _delete("statistics", prune_statistics_pages(session))}


def _delete(name: str, pages: Iterator[int]) -> int:
    """Delete pages until none is left, each in a step that commits it; return the number of rows."""
    deleted = 0
    for _ in current_job().steps(range(MAX_PAGES), 1, name=name):
        count = next(pages, None)
        if count is None:
            break
        deleted += count
    return deleted

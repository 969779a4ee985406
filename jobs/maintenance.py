"""The maintenance job, which deletes old rows of every slice."""

from __future__ import annotations

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
from flask_belfry.execution import job
from flask_belfry.mail import prune_mails
from flask_belfry.outbox import prune_records
from flask_belfry.scheduler import ScheduleEntry
from flask_belfry.scheduler.schedule import prune_ticks

SCHEDULE = [ScheduleEntry("maintenance.prune", job="maintenance.prune", cron="17 3 * * *")]


@job("maintenance.prune", queue="bulk", timeout_seconds=600, is_singleton=True)
def prune(session: Session) -> dict[str, Any]:
    """Deletes old data: finished jobs, past run times, sent mails and audit events after the number of days in the
    settings; expired tokens, codes, sessions and idempotency records, old IP addresses of logins, and users who never
    confirmed their email address. Removes the email addresses of deleted accounts from their last mails."""
    settings = current_app.config
    deleted = prune_records(
        session,
        older_than=timedelta(days=settings["JOBS_KEEP_DAYS"]),
        failed_older_than=timedelta(days=settings["JOBS_KEEP_FAILED_DAYS"]),
    )
    ticks = prune_ticks(session, utc_now() - timedelta(days=settings["JOBS_KEEP_DAYS"]))
    mails = prune_mails(session, timedelta(days=settings["MAILS_KEEP_DAYS"]))
    audit = prune_audit(session, timedelta(days=settings["AUDIT_KEEP_DAYS"]))
    tokens, codes, answers = prune_tokens(session), prune_codes(session), prune_idempotency_records(session)
    return {
        "jobs": deleted,
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

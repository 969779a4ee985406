"""The figures of accounts with their targets: how the mails of registrations and passwords are delivered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from app.accounts import emails
from flask_belfry.changes.host import Figure
from flask_belfry.core.presentation import duration
from flask_belfry.db import db
from flask_belfry.db.columns import new_id
from flask_belfry.mail import EmailMessage, MailFigures, mail_figures

KINDS = frozenset(
    (
        emails.CONFIRMATION, emails.ALREADY_REGISTERED, emails.WELCOME, emails.PASSWORD_RESET, emails.PASSWORD_CHANGED,
        emails.ACCOUNT_DELETED, emails.NEW_IP_ADDRESS, emails.TOKEN_CREATED, emails.SECOND_FACTOR, emails.ADMIN_ADDED,
    )
)  # fmt: skip
MIN_DELIVERED, MAX_RETRIED, MAX_FAILED = 0.95, 0.10, 0.01
MAX_REGISTRATION_SECONDS = 60.0
# The percentile is that of the latest mails.
MAX_MAILS = 1_000


def account_figures(since: datetime) -> list[Figure]:
    """Return the figures since then, in the current scope."""
    rows = [row for row in mail_figures(since) if row.kind in KINDS]
    return [_registration(since), *_rates(rows)]


def _rates(rows: Sequence[MailFigures]) -> list[Figure]:
    sent, failed, bounced, deferred = (
        sum(getattr(row, name) for row in rows) for name in ("sent", "failed", "bounced", "deferred")
    )
    ended, attempts = sent + failed, sent + failed + deferred
    delivered = max(0, sent - bounced) / ended if ended else None
    retried = deferred / attempts if attempts else None
    lost = failed + bounced
    is_near_zero = lost / ended <= MAX_FAILED if ended else None
    return [
        Figure(
            "Delivery rate",
            _percent(delivered),
            "over 95 %",
            None if delivered is None else delivered > MIN_DELIVERED,
            "account mails that were accepted and did not bounce",
        ),
        Figure(
            "Retry rate",
            _percent(retried),
            "under 10 %",
            None if retried is None else retried < MAX_RETRIED,
            "attempts to send that are tried again",
        ),
        Figure(
            "Failed",
            f"{lost:,} ({_percent(lost / ended)})" if ended else None,
            "near 0: 1 % at most",
            is_near_zero,
            "account mails that failed or bounced",
        ),
    ]


def _registration(since: datetime) -> Figure:
    """Return how long users wait for the code of their registration: until the mail server has accepted it."""
    query = sa.select(EmailMessage.created_at, EmailMessage.sent_at).where(
        EmailMessage.kind == emails.CONFIRMATION, EmailMessage.id >= new_id(since), EmailMessage.sent_at.is_not(None)
    )
    rows = db.session.execute(query.order_by(EmailMessage.id.desc()).limit(MAX_MAILS))
    waits = sorted((row.sent_at - row.created_at).total_seconds() for row in rows)
    p95 = waits[math.ceil(len(waits) * 0.95) - 1] if waits else None
    return Figure(
        "Registration time",
        None if p95 is None else duration(p95),
        "under 1 min",
        None if p95 is None else p95 < MAX_REGISTRATION_SECONDS,
        "from the registration until its mail is sent, p95",
    )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"

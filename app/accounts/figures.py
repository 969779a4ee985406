"""The figures of accounts with their targets: how the mails of registrations and passwords are delivered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime

import sqlalchemy as sa

from app.accounts import emails
from flask_belfry.changes.host import Figure
from flask_belfry.core.presentation import duration
from flask_belfry.db import db
from flask_belfry.db.columns import lowest_id
from flask_belfry.mail import EmailMessage, MailFigures, mail_figures

KINDS = frozenset(
    (
        emails.CONFIRMATION, emails.ALREADY_REGISTERED, emails.WELCOME, emails.PASSWORD_RESET, emails.PASSWORD_CHANGED,
        emails.ACCOUNT_DELETED, emails.NEW_IP_ADDRESS, emails.TOKEN_CREATED, emails.SECOND_FACTOR, emails.ADMIN_ADDED,
    )
)  # fmt: skip
MIN_DELIVERED, MAX_RETRIED, MAX_FAILED = 0.95, 0.10, 0.01
MAX_REGISTRATION_SECONDS = 60.0
# The most mails whose times are read: the latest ones.
MAX_MAILS = 1_000


def account_figures(since: datetime) -> list[Figure]:
    """Return the figures since then, in the current scope."""
    rows = [row for row in mail_figures(since) if row.kind in KINDS]
    return [_registration(since), *_rates(rows)]


def _rates(rows: Sequence[MailFigures]) -> list[Figure]:
    sent, failed, bounced, deferred = (
        sum(getattr(row, name) for row in rows) for name in ("sent", "failed", "bounced", "deferred")
    )
    ended, lost = sent + failed, failed + bounced
    return [
        _share(
            "Delivery rate",
            max(0, sent - bounced),
            ended,
            "over 95 %",
            lambda share: share > MIN_DELIVERED,
            "account mails that were accepted and did not bounce",
        ),
        _share(
            "Retry rate",
            deferred,
            ended + deferred,
            "under 10 %",
            lambda share: share < MAX_RETRIED,
            "attempts to send that are tried again",
        ),
        _share(
            "Failed",
            lost,
            ended,
            "near 0: 1 % at most",
            lambda share: share <= MAX_FAILED,
            "account mails that failed or bounced",
            value=f"{lost:,} ({{}})",
        ),
    ]


def _share(
    name: str, part: int, whole: int, target: str, meets: Callable[[float], bool], hint: str, value: str = "{}"
) -> Figure:
    if not whole:
        return Figure(name, None, target, None, hint)
    share = part / whole
    return Figure(name, value.format(f"{100 * share:.1f} %"), target, meets(share), hint)


def _registration(since: datetime) -> Figure:
    """Return how long users wait for the code of their registration: until the mail server has accepted it."""
    query = sa.select(EmailMessage.created_at, EmailMessage.sent_at).where(
        EmailMessage.kind == emails.CONFIRMATION, EmailMessage.id >= lowest_id(since), EmailMessage.sent_at.is_not(None)
    )
    rows = db.session.execute(query.order_by(EmailMessage.id.desc()).limit(MAX_MAILS))
    waits = sorted((row.sent_at - row.created_at).total_seconds() for row in rows)
    name, target = "Registration time", "under 1 min"
    hint = "from the registration until its mail is sent, p95"
    if not waits:
        return Figure(name, None, target, None, hint)
    p95 = waits[math.ceil(len(waits) * 0.95) - 1]
    return Figure(name, duration(p95), target, p95 < MAX_REGISTRATION_SECONDS, hint)

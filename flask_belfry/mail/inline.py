"""Sending a mail from the process that enqueued it, for mails that a user waits for while the broker is unavailable.

It runs the mail's own job, claimed and finalized as a worker does: the relay, a worker and this process cannot send it
twice, and workers retry what fails here.
"""

from __future__ import annotations

import threading
from typing import TypeVar

import sqlalchemy as sa
import structlog
from flask import Flask, current_app
from sqlalchemy.orm import InstrumentedAttribute

from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope
from flask_belfry.mail.models import EmailMessage, MailState
from flask_belfry.outbox import publisher

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Limits the threads that wait when the mail server is unavailable too.
_slots = threading.BoundedSemaphore(8)


@use_scope(ALL_TENANTS)  # the user may not be logged in yet
def send_inline(mail_id: str, within_seconds: float) -> bool:
    """Send a mail now, without the broker. Call it after the commit; it ends the session's transaction.

    Args:
        mail_id: the ledger id from `send_mail`.
        within_seconds: how long to wait. Sending continues after that.

    Returns:
        whether the server accepted the mail within that time.
    """
    job_id = _read(EmailMessage.job_id, mail_id)
    if job_id is None or not _slots.acquire(blocking=False):
        return False
    app = current_app._get_current_object()  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=_send, args=(app, job_id), name="inline-mail", daemon=True)
    thread.start()
    thread.join(within_seconds)
    return _read(EmailMessage.state, mail_id) is MailState.SENT


def _send(app: Flask, job_id: str) -> None:
    try:
        publisher(app).run_job_inline(job_id)
    except Exception:
        log.exception("mail.inline_failed", job_id=job_id)  # the relay or the rescuer enqueues it again
    finally:
        _slots.release()


def _read(column: InstrumentedAttribute[T], mail_id: str) -> T | None:
    value = db.session.scalar(sa.select(column).where(EmailMessage.id == mail_id))
    # The request waits for the thread between the two reads, and must not keep a transaction open.
    db.session.rollback()
    return value

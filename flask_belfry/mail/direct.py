"""Sending a mail from the process that asked for it, for when the broker is away and somebody waits for the mail.

It is the mail's own job that is run, claimed and ended as a worker does it: so the relay, a worker and this process
cannot send it twice, and what fails here is tried again by them.
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

# A mail server that hangs as well must not fill the process with threads that wait for it.
_slots = threading.BoundedSemaphore(8)


@use_scope(ALL_TENANTS)  # whoever asked for the mail may be nobody yet
def send_directly(mail_id: str, within_seconds: float) -> bool:
    """Sends a mail now, past the broker. Call it after the commit; it ends the session's transaction.

    Args:
        mail_id: the mail, as `send_mail` has it.
        within_seconds: how long the caller waits for it. What takes longer goes on by itself.

    Returns:
        whether the server has taken it for sure.
    """
    job_id = _read(EmailMessage.job_id, mail_id)
    if job_id is None or not _slots.acquire(blocking=False):
        return False
    app = current_app._get_current_object()  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=_send, args=(app, job_id), name="direct-mail", daemon=True)
    thread.start()
    thread.join(within_seconds)
    return _read(EmailMessage.state, mail_id) is MailState.SENT


def _send(app: Flask, job_id: str) -> None:
    try:
        publisher(app).run_directly(job_id)
    except Exception:
        log.exception("mail.direct_failed", job_id=job_id)  # the relay or the rescue takes it from here
    finally:
        _slots.release()


def _read(column: InstrumentedAttribute[T], mail_id: str) -> T | None:
    value = db.session.scalar(sa.select(column).where(EmailMessage.id == mail_id))
    # The request waits for the thread above between these reads: not with a transaction open.
    db.session.rollback()
    return value

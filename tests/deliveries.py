"""Mails of tests: sent, claimed and delivered in this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.execution import attempts, executor
from flask_belfry.execution import claim as claims
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.mail import MailRequest, MailState, get_mail, send_mails
from flask_belfry.mail.outcomes import Outcomes
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.states import WAITING
from tests.forks import exit_status, fork

KIND = "test-message"
CONTEXT = {"server": "mail.example.org"}


def ask(session: Session, *names: str, context: Mapping[str, Any] | None = None) -> list[str]:
    """Send a mail to each of these people of example.org, and commit."""
    requests = [MailRequest([f"{name}@example.org"], f"test/{name}", context or CONTEXT) for name in names]
    ids = send_mails(KIND, requests)
    session.commit()
    return ids


def claim_due(session: Session) -> list[Claim]:
    """Claim all mail jobs, also those that wait for a retry."""
    retryable = sa.update(JobRecord).where(JobRecord.state == JobState.RETRYABLE)
    session.execute(retryable.values(scheduled_at=utc_now() - timedelta(seconds=1)))
    ids = list(session.scalars(sa.select(JobRecord.id).where(JobRecord.state.in_(WAITING)).order_by(JobRecord.id)))
    session.commit()
    return claims.claim(session, ids, "test")


def work(app: Flask, session: Session) -> None:
    """Run one attempt of all mail jobs, as one chunk."""
    if items := claim_due(session):
        executor.run(app, items, no_limit)
    session.expire_all()


def state_of(mail_id: str) -> MailState:
    return get_mail(mail_id).state


def job_of(session: Session, mail_id: str) -> JobRecord:
    return session.get_one(JobRecord, get_mail(mail_id).job_id)


def jobs(session: Session) -> int:
    return session.scalar(sa.select(sa.func.count()).select_from(JobRecord)) or 0


def die_after_handing_over(
    app: Flask, session: Session, monkeypatch: pytest.MonkeyPatch, instead_of: str = "end"
) -> None:
    """Run an attempt whose process is killed between the server's answer and the commit, and interrupt it."""

    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    items = claim_due(session)
    with monkeypatch.context() as patch:
        patch.setattr(Outcomes, instead_of, die)
        assert exit_status(fork(lambda: executor.run(app, items, no_limit))) == -signal.SIGKILL
    for item in items:
        attempts.interrupt(session, item, "killed")
    session.commit()
    session.expire_all()


def state_and_count(mail_id: str) -> tuple[MailState, int]:
    mail = get_mail(mail_id)
    return mail.state, mail.uncertain_count

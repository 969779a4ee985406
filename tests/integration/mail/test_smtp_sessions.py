"""A delivery and its SMTP sessions: servers that limit or end them, and connections that are all in use."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.mail import EmailMessage, MailState, delivery, get_mail, pool, transport
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.smtp_session import Receipt
from flask_belfry.outbox import JobRecord, JobState
from tests.deliveries import ask, job_of, state_of, work
from tests.smtp import CUT, SmtpServer


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}


@pytest.mark.parametrize(
    ("at", "answer"),
    [
        ("mail", "452 4.5.3 too many"),
        ("mail", "421 4.7.0 closing"),
        ("rcpt", "450 4.7.1 too many"),
        ("rcpt", "421 4.7.0 closing"),
        ("data", "451 4.7.1 too many"),
        ("data", "421 4.7.0 closing"),
        ("content", "454 4.7.1 too many"),
        ("content", "421 4.7.0 closing"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_server_that_takes_few_mails_in_one_session_gets_the_others_in_new_ones(app, session, smtp, at, answer):
    smtp.mails_in_session, smtp.session_at, smtp.session_answer = 2, at, answer
    ids = ask(session, *(f"p{number}" for number in range(5)))
    work(app, session)
    assert {state_of(id) for id in ids} == {MailState.SENT}
    assert {job_of(session, id).attempt for id in ids} == {1}
    assert (len(smtp.received), smtp.connections) == (5, 3)


def test_what_a_new_session_refuses_too_uses_an_attempt_of_that_mail_only(app, session, smtp):
    smtp.fail("rcpt", "450 4.2.0 greylisted", recipient="bob@example.org")
    ids = ask(session, "ada")
    work(app, session)
    ids += ask(session, "bob", "eve")
    work(app, session)
    assert [state_of(id) for id in ids] == [MailState.SENT, MailState.DEFERRED, MailState.SENT]
    assert [command for command in smtp.commands if "bob" in command.lower()] == ["rcpt TO:<bob@example.org>"] * 2


@pytest.mark.parametrize(
    ("step", "answer"),
    [
        *((step, "421 4.3.2 later") for step in ("connect", "ehlo", "mail", "rcpt", "data", "content")),
        ("auth", "454 4.7.0 temporary authentication failure"),
        ("auth", "432 4.7.12 a password transition is needed"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_server_that_ends_a_session_is_asked_for_a_new_one_at_once(app, session, smtp, step, answer):
    if step == "auth":
        smtp.login = ("desk", "secret")
        transport.smtp_settings().username, transport.smtp_settings().password = smtp.login
    smtp.fail(step, answer, times=1)
    (mail_id,) = ask(session, "ada")
    work(app, session)
    assert (state_of(mail_id), job_of(session, mail_id).attempt) == (MailState.SENT, 1)


def released(session: Session, mail_id: str) -> bool:
    job, mail = job_of(session, mail_id), get_mail(mail_id)
    return (job.state, job.attempt, mail.state) == (JobState.PENDING, 0, MailState.QUEUED)


def test_mails_without_a_connection_are_released_while_other_threads_have_one(app, session, smtp, monkeypatch):
    monkeypatch.setattr(pool, "WAIT_SECONDS", 0.1)
    smtp.admits = 1
    ids = ask(session, "ada", "bob")
    has_one, is_over = threading.Event(), threading.Event()

    def publish_on_commit() -> None:
        with app.app_context(), transport.lend_connection():
            has_one.set()
            is_over.wait(10)

    holder = threading.Thread(target=publish_on_commit)
    holder.start()
    has_one.wait(10)
    work(app, session)
    assert all(released(session, id) for id in ids)
    is_over.set()
    holder.join()
    work(app, session)
    assert {state_of(id) for id in ids} == {MailState.SENT}
    assert {job_of(session, id).attempt for id in ids} == {1}


def test_a_connection_that_is_lost_to_other_threads_releases_the_mails_that_are_left(app, session, smtp, monkeypatch):
    monkeypatch.setattr(delivery, "is_server_working", lambda: True)
    smtp.mails_in_session = 1
    ids = ask(session, "ada", "bob", "eve")
    sends = delivery.deliver_message

    def admit_no_more(message: OutgoingMessage) -> Receipt:
        receipt = sends(message)
        smtp.admits = 0
        return receipt

    monkeypatch.setattr(delivery, "deliver_message", admit_no_more)
    work(app, session)
    assert sorted(state_of(id) for id in ids) == [MailState.QUEUED, MailState.QUEUED, MailState.SENT]
    assert sum(released(session, id) for id in ids) == 2


@pytest.mark.parametrize(("sent_seconds_ago", "is_released"), [(1, True), (60, False)])
def test_mails_without_a_connection_are_released_while_another_process_is_sending(
    app, session, smtp, monkeypatch, sent_seconds_ago, is_released
):
    monkeypatch.setattr(delivery, "RELEASE_SECONDS", 0.0)
    smtp.admits = 0
    ada, bob = ask(session, "ada", "bob")
    session.execute(sa.update(JobRecord).where(JobRecord.id == get_mail(bob).job_id).values(state=JobState.RUNNING))
    sending = sa.update(EmailMessage).where(EmailMessage.id == bob).values(state=MailState.SENDING)
    session.execute(sending.values(sending_at=utc_now() - timedelta(seconds=sent_seconds_ago)))
    session.commit()
    work(app, session)
    assert released(session, ada) is is_released
    assert is_released or state_of(ada) is MailState.DEFERRED


def test_mails_of_one_thread_share_a_connection(app: Flask, session: Session, smtp: SmtpServer) -> None:
    for number in range(3):
        ask(session, *(f"p{number}-{person}" for person in range(10)))
        work(app, session)
    assert len(smtp.received) == 30
    assert smtp.connections == 1


@pytest.mark.parametrize("fault", [CUT, "421 4.3.2 closing"])
def test_a_kept_connection_that_the_server_has_ended_is_replaced_unnoticed(
    app: Flask, session: Session, smtp: SmtpServer, fault: str
) -> None:
    ask(session, "ada")
    work(app, session)
    smtp.fail("mail", fault, times=1)
    (mail_id,) = ask(session, "bob")
    work(app, session)
    assert (state_of(mail_id), get_mail(mail_id).attempts) == (MailState.SENT, 1)
    assert smtp.connections == 2

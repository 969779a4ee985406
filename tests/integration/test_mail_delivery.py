"""From the ledger to a real SMTP server: what was asked for is sent once, and every failure is on record."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.changes import Actor, Subject, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.db.columns import new_id
from flask_belfry.execution import attempts, executor
from flask_belfry.execution import claim as claims
from flask_belfry.execution.chunk import Chunk
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.mail import (
    EmailMessage,
    MailEntry,
    MailNotFoundError,
    MailRequest,
    MailState,
    MailStateError,
    UnknownMailError,
    delivery,
    get_mail,
    ledger,
    pool,
    resend,
    send_mail,
    send_mails,
    transport,
)
from flask_belfry.mail.delivery import Delivery
from flask_belfry.mail.ledger import Outcome
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.queries import find_mails
from flask_belfry.mail.registry import MailKind, _kinds
from flask_belfry.mail.smtp_session import Receipt
from flask_belfry.outbox import JobRecord, JobState, JobTimeoutError, cancel
from flask_belfry.outbox.registry import _definitions
from flask_belfry.outbox.states import WAITING
from tests.forks import exit_status, fork
from tests.smtp import CUT, HANG, Fault, SmtpServer

KIND = "test-message"
CONTEXT = {"server": "mail.example.org"}


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}


def ask(session: Session, *names: str, context: Mapping[str, Any] | None = None) -> list[str]:
    """Asks for a mail to each of these people of example.org, and commits."""
    requests = [MailRequest([f"{name}@example.org"], f"test/{name}", context or CONTEXT) for name in names]
    ids = send_mails(KIND, requests)
    session.commit()
    return ids


def claim_due(session: Session) -> list[Claim]:
    """Claims all mail jobs, those too that wait for a retry: their time has come."""
    retryable = sa.update(JobRecord).where(JobRecord.state == JobState.RETRYABLE)
    session.execute(retryable.values(scheduled_at=utc_now() - timedelta(seconds=1)))
    ids = list(session.scalars(sa.select(JobRecord.id).where(JobRecord.state.in_(WAITING)).order_by(JobRecord.id)))
    session.commit()
    return claims.claim(session, ids, "test")


def work(app: Flask, session: Session) -> None:
    """Runs one attempt of all mail jobs, as one chunk."""
    if items := claim_due(session):
        executor.run(app, items, no_limit)
    session.expire_all()


def state_of(mail_id: str) -> MailState:
    return get_mail(mail_id).state


def job_of(session: Session, mail_id: str) -> JobRecord:
    return session.get_one(JobRecord, get_mail(mail_id).job_id)


def jobs(session: Session) -> int:
    return session.scalar(sa.select(sa.func.count()).select_from(JobRecord)) or 0


# ── Asking ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mail_that_was_asked_for_arrives(app: Flask, session: Session, smtp: SmtpServer) -> None:
    (mail_id,) = ask(session, "ada")
    work(app, session)
    (received,) = smtp.received
    mail = get_mail(mail_id)
    assert received.recipients == ("ada@example.org",)
    assert received.message["Message-ID"] == mail.message_id == f"<{mail.id}@belfry.example>"
    assert received.message["Subject"] == "A test message from Belfry"
    assert "mail.example.org" in received.body("plain")
    assert "style=" in received.body("html")
    assert mail.state is MailState.SENT
    assert mail.attempts == 1
    assert mail.sent_at is not None
    assert job_of(session, mail_id).state is JobState.COMPLETED


def test_a_rolled_back_transaction_asks_for_nothing(app: Flask, session: Session, smtp: SmtpServer) -> None:
    send_mail(KIND, "ada@example.org", "test/1", context=CONTEXT)
    session.rollback()
    work(app, session)
    assert smtp.received == []
    assert jobs(session) == 0
    assert session.scalar(sa.select(sa.func.count()).select_from(EmailMessage)) == 0


def test_the_same_key_asks_for_one_mail_only(app: Flask, session: Session, smtp: SmtpServer) -> None:
    first = ask(session, "ada")
    assert ask(session, "ada", "ada") == []
    work(app, session)
    assert len(first) == len(smtp.received) == jobs(session) == 1


def test_each_person_gets_a_mail_of_their_own(app: Flask, session: Session, smtp: SmtpServer) -> None:
    request = MailRequest(["ada@example.org", "bob@example.org", "ADA@example.org"], "test/1", CONTEXT)
    assert len(send_mails(KIND, [request])) == 2
    assert send_mails(KIND, [MailRequest(list(reversed(request.to)), request.key, CONTEXT)]) == []
    session.commit()
    work(app, session)
    assert sorted(mail.recipients for mail in smtp.received) == [("ada@example.org",), ("bob@example.org",)]
    assert sorted(mail.message["To"] for mail in smtp.received) == ["ada@example.org", "bob@example.org"]


def test_who_has_no_valid_address_is_skipped_with_the_reason(app: Flask, session: Session, smtp: SmtpServer) -> None:
    requests = [MailRequest([to], f"test/{to}", CONTEXT) for to in ("nonsense", None)]
    nonsense, missing, empty = send_mails(KIND, [*requests, MailRequest([], "test/empty", CONTEXT)])
    session.commit()
    assert {state_of(id) for id in (nonsense, missing, empty)} == {MailState.SKIPPED}
    assert "not a valid address" in (get_mail(nonsense).last_error or "")
    assert get_mail(missing).last_error == get_mail(empty).last_error == "no address"
    assert jobs(session) == 0


def test_a_mail_knows_what_it_is_about_and_who_caused_it(session: Session) -> None:
    with use_actor(Actor(user_id=7)):
        id = send_mail(KIND, "ada@example.org", "k", context=CONTEXT, subject=Subject("reservation", "42"))
    session.commit()
    mail = get_mail(id)
    job = job_of(session, mail.id)
    assert (mail.subject_type, mail.subject_id, mail.user_id) == ("reservation", "42", 7)
    assert (job.subject_type, job.subject_id, job.user_id) == ("reservation", "42", 7)
    assert job.args == {"email_id": mail.id}


def test_an_unknown_kind_is_refused_when_it_is_asked_for(app: Flask) -> None:
    with pytest.raises(UnknownMailError):
        send_mail("nonsense", "ada@example.org", "test/1")


def test_switched_off_mail_is_recorded_as_suppressed(app: Flask, session: Session, smtp: SmtpServer) -> None:
    app.config["MAIL_ENABLED"] = False
    (mail_id,) = ask(session, "ada")
    assert state_of(mail_id) is MailState.SUPPRESSED
    assert jobs(session) == 0
    with pytest.raises(MailStateError, match="MAIL_ENABLED is false"):
        resend(mail_id)
    app.config["MAIL_ENABLED"] = True
    resend(mail_id)
    session.commit()
    work(app, session)
    assert state_of(mail_id) is MailState.SENT


def test_mail_that_is_switched_off_after_it_was_asked_for_is_not_sent(
    app: Flask, session: Session, smtp: SmtpServer
) -> None:
    (mail_id,) = ask(session, "ada")
    app.config["MAIL_ENABLED"] = False
    work(app, session)
    assert state_of(mail_id) is MailState.SUPPRESSED
    assert smtp.received == []


# ── What may pass, and what will not ─────────────────────────────────────────────────────────────────────────────


def test_a_server_that_is_down_defers_the_mail_until_it_is_back(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.stop()
    ada, bob = ask(session, "ada", "bob")
    work(app, session)
    assert state_of(ada) is state_of(bob) is MailState.DEFERRED
    assert "cannot use 127.0.0.1" in (get_mail(bob).last_error or "")
    job = job_of(session, ada)
    assert job.state is JobState.RETRYABLE
    assert job.scheduled_at is not None
    assert 50 < (job.scheduled_at - utc_now()).total_seconds() <= 60
    smtp.start()
    work(app, session)
    assert state_of(ada) is state_of(bob) is MailState.SENT
    assert get_mail(ada).last_error is None


@pytest.mark.parametrize("step", ["connect", "ehlo", "mail", "rcpt", "data", "content"])
def test_a_temporary_refusal_at_any_step_defers_the_mail(
    app: Flask, session: Session, smtp: SmtpServer, step: str
) -> None:
    smtp.fail(step, "451 4.7.1 greylisted", times=2 if step == "ehlo" else 1)
    (mail_id,) = ask(session, "ada")
    work(app, session)
    assert state_of(mail_id) is MailState.DEFERRED
    assert "451" in (get_mail(mail_id).last_error or "")
    work(app, session)
    assert state_of(mail_id) is MailState.SENT
    assert len(smtp.received) == 1


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "content"])
def test_a_permanent_refusal_at_any_step_fails_the_mail_at_once(
    app: Flask, session: Session, smtp: SmtpServer, step: str
) -> None:
    smtp.fail(step, "550 5.1.1 no", times=1)
    ids = ask(session, "ada", "bob")
    work(app, session)
    # The order of the recipients is not defined.
    refused, taken = sorted(ids, key=lambda id: state_of(id) is not MailState.FAILED)
    assert state_of(refused) is MailState.FAILED
    assert job_of(session, refused).state is JobState.FAILED
    assert job_of(session, refused).attempt == 1
    assert state_of(taken) is MailState.SENT
    assert smtp.connections == 1


@pytest.mark.parametrize("step", ["connect", "ehlo", "mail", "rcpt", "data", "content"])
@pytest.mark.parametrize("fault", [CUT, HANG])
def test_a_connection_that_breaks_or_times_out_before_the_end_defers_the_mail(
    app: Flask, session: Session, smtp: SmtpServer, step: str, fault: str
) -> None:
    smtp.fail(step, fault, times=1)
    (mail_id,) = ask(session, "ada")
    work(app, session)
    if step == "content":  # the mail was sent completely, so only the server knows
        assert state_of(mail_id) is MailState.UNCERTAIN
    else:
        assert state_of(mail_id) is MailState.DEFERRED
        assert get_mail(mail_id).uncertain_count == 0
    work(app, session)
    assert state_of(mail_id) is MailState.SENT
    assert len(smtp.received) == 1


def test_a_mail_fails_when_its_attempts_are_exhausted(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", "450 4.2.1 later")
    (mail_id,) = ask(session, "ada")
    for _ in range(5):
        work(app, session)
        assert state_of(mail_id) is MailState.DEFERRED
    work(app, session)
    assert state_of(mail_id) is MailState.FAILED
    assert get_mail(mail_id).attempts == 6
    assert job_of(session, mail_id).state is JobState.FAILED


def test_one_refused_recipient_does_not_touch_the_others(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", "550 5.1.1 <bob@example.org>: unknown", recipient="bob@example.org")
    ada, bob, eve = ask(session, "ada", "bob", "eve")
    work(app, session)
    assert (state_of(ada), state_of(bob), state_of(eve)) == (MailState.SENT, MailState.FAILED, MailState.SENT)
    assert smtp.connections == 1


def test_the_ledger_has_the_refused_address_and_the_job_does_not(
    app: Flask, session: Session, smtp: SmtpServer, capfd: pytest.CaptureFixture[str]
) -> None:
    smtp.fail("rcpt", "550 5.1.1 <bob@example.org>: unknown")
    (bob,) = ask(session, "bob")
    work(app, session)
    job = job_of(session, bob)
    assert "bob@example.org" in (get_mail(bob).last_error or "")
    assert "550 5.1.1" in (job.error_message or "")
    assert "bob" not in (job.error_message or "")
    assert "bob@example.org" not in "".join(capfd.readouterr())


def test_a_mail_that_cannot_be_rendered_fails_alone(app: Flask, session: Session, smtp: SmtpServer) -> None:
    (bad,) = ask(session, "bad", context={"nothing": "of use"})
    (good,) = ask(session, "good")
    work(app, session)
    assert (state_of(bad), state_of(good)) == (MailState.FAILED, MailState.SENT)
    assert "'server' is undefined" in (get_mail(bad).last_error or "")


def test_an_entry_that_breaks_its_kinds_function_fails_alone(
    app: Flask, session: Session, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contexts(entries: Any) -> dict[str, Any]:
        if any("boom" in entry.context for entry in entries):
            raise KeyError("boom")
        return {entry.id: entry.context for entry in entries}

    monkeypatch.setitem(_kinds, KIND, MailKind(KIND, contexts, dict, "it is a test"))
    (bad,) = ask(session, "bad", context={"boom": True})
    good = ask(session, "ada", "bob", "eve")
    work(app, session)
    assert state_of(bad) is MailState.FAILED
    assert {state_of(id) for id in good} == {MailState.SENT}


def test_a_mail_whose_subject_is_gone_is_skipped(
    app: Flask, session: Session, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contexts(entries: list[MailEntry]) -> dict[str, Any]:
        return {entry.id: None if entry.recipients == ["gone@example.org"] else entry.context for entry in entries}

    monkeypatch.setitem(_kinds, KIND, MailKind(KIND, contexts, dict, "it is a test"))
    gone, here = ask(session, "gone", "here")
    work(app, session)
    assert (state_of(gone), state_of(here)) == (MailState.SKIPPED, MailState.SENT)
    assert get_mail(gone).last_error == "its subject no longer exists"
    assert job_of(session, gone).state is JobState.COMPLETED


def test_a_kind_that_the_code_no_longer_knows_fails_its_mails(
    app: Flask, session: Session, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mail_id,) = ask(session, "ada")
    monkeypatch.delitem(_kinds, KIND)
    work(app, session)
    assert state_of(mail_id) is MailState.FAILED
    assert "there is no mail named 'test-message'" in (get_mail(mail_id).last_error or "")


def test_server_timeouts_do_not_delay_a_whole_chunk(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("data", HANG)
    ids = ask(session, *(f"p{number}" for number in range(20)))
    work(app, session)
    assert {state_of(id) for id in ids} == {MailState.DEFERRED}
    assert len([command for command in smtp.commands if command == "DATA"]) == 3


# ── A server that takes mails, if not all in one session ─────────────────────────────────────────────────────────────


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


def test_a_failed_attempt_is_logged_without_the_mailbox(app, session, smtp):
    smtp.fail("rcpt", "550 5.1.1 <Ada@example.org>: ada is unknown, adam is known")
    (mail_id,) = ask(session, "ada")
    with structlog.testing.capture_logs() as lines:
        work(app, session)
    (line,) = [line for line in lines if line["event"] == "mail.attempt_failed"]
    assert line == {
        "event": "mail.attempt_failed",
        "log_level": "warning",
        "mail": mail_id,
        "kind": KIND,
        "domain": "example.org",
        "state": "failed",
        "error": "PermanentMailError",
        "reply": "the server refused the recipient: 550 5.1.1 <…@…>: … is unknown, adam is known",
    }


def test_what_a_template_fails_over_is_not_logged(app, session, smtp):
    ask(session, "ada", context={"nothing": "of use"})
    with structlog.testing.capture_logs() as lines:
        work(app, session)
    (line,) = [line for line in lines if line["event"] == "mail.attempt_failed"]
    assert (line["error"], "reply" in line) == ("MailTemplateError", False)


# ── Once ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mail_that_is_out_for_all_we_know_is_sent_again_with_the_same_message_id(
    app: Flask, session: Session, smtp: SmtpServer
) -> None:
    smtp.fail("accepted", CUT, times=1)
    (mail_id,) = ask(session, "ada")
    work(app, session)
    mail = get_mail(mail_id)
    assert (mail.state, mail.uncertain_count) == (MailState.UNCERTAIN, 1)
    work(app, session)
    assert (mail.state, mail.uncertain_count) == (MailState.SENT, 1)
    first, second = smtp.received
    assert first.message["Message-ID"] == second.message["Message-ID"] == mail.message_id


def test_an_uncertain_mail_is_held_for_a_person_when_the_setting_says_so(
    app: Flask, session: Session, smtp: SmtpServer
) -> None:
    app.config["MAIL_UNCERTAIN"] = "hold"
    smtp.fail("accepted", CUT, times=1)
    (mail_id,) = ask(session, "ada")
    work(app, session)
    assert (state_of(mail_id), get_mail(mail_id).uncertain_count) == (MailState.UNCERTAIN, 1)
    assert job_of(session, mail_id).result == {"state": "uncertain", "held": True}
    work(app, session)
    assert len(smtp.received) == 1
    resend(mail_id)
    session.commit()
    work(app, session)
    assert state_of(mail_id) is MailState.SENT
    assert len({mail.message["Message-ID"] for mail in smtp.received}) == 1


def die_after_handing_over(
    app: Flask, session: Session, monkeypatch: pytest.MonkeyPatch, instead_of: str = "_end"
) -> None:
    """Runs an attempt that dies between the server's answer and the commit, and lets the rescue find it."""

    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    items = claim_due(session)
    with monkeypatch.context() as patch:
        patch.setattr(Delivery, instead_of, die)
        assert exit_status(fork(lambda: executor.run(app, items, no_limit))) == -signal.SIGKILL
    for item in items:
        attempts.interrupt(session, item, "killed")
    session.commit()
    session.expire_all()


@pytest.mark.parametrize("instead_of", ["_end", "_save"])  # before the job's end is written, and within that
def test_a_death_between_answer_and_commit_is_counted_and_sent_again_with_the_same_message_id(
    app: Flask, session: Session, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch, instead_of: str
) -> None:
    (mail_id,) = ask(session, "ada")
    die_after_handing_over(app, session, monkeypatch, instead_of)
    mail = get_mail(mail_id)
    assert (mail.state, len(smtp.received)) == (MailState.SENDING, 1)
    work(app, session)
    assert (mail.state, mail.uncertain_count, len(smtp.received)) == (MailState.SENT, 1, 2)
    assert len({received.message["Message-ID"] for received in smtp.received}) == 1


def test_a_death_between_answer_and_commit_is_held_when_the_setting_says_so(
    app: Flask, session: Session, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config["MAIL_UNCERTAIN"] = "hold"
    (mail_id,) = ask(session, "ada")
    die_after_handing_over(app, session, monkeypatch)
    work(app, session)
    mail = get_mail(mail_id)
    assert (mail.state, mail.uncertain_count, len(smtp.received)) == (MailState.UNCERTAIN, 1, 1)


def test_a_death_leaves_few_mails_of_a_chunk_uncertain(
    app: Flask, session: Session, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ask(session, *(f"p{number}" for number in range(30)))
    die_after_handing_over(app, session, monkeypatch)
    assert sum(state_of(id) is MailState.SENDING for id in ids) <= 4
    work(app, session)
    assert {state_of(id) for id in ids} == {MailState.SENT}
    assert len(smtp.received) == 31


def test_a_connection_cut_after_the_answer_loses_nothing(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("answered", CUT)
    ids = ask(session, "ada", "bob", "eve")
    work(app, session)
    assert {state_of(id) for id in ids} == {MailState.SENT}
    assert {get_mail(id).attempts for id in ids} == {1}
    assert len(smtp.received) == 3


def test_a_chunk_that_runs_out_of_time_says_of_each_mail_whether_it_may_have_left(
    app: Flask, session: Session, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def run_out_of_time(message: OutgoingMessage) -> Receipt:
        calls.append(message)
        receipt = transport.deliver_message(message)
        if len(calls) == 2:
            raise JobTimeoutError("took longer than its 300 s")
        return receipt

    monkeypatch.setattr(delivery, "deliver_message", run_out_of_time)
    ids = ask(session, "ada", "bob", "eve", "joe", "sue", "tom")
    work(app, session)
    assert sorted(state_of(id).value for id in ids) == ["deferred"] * 4 + ["sent", "uncertain"]
    work(app, session)
    assert {state_of(id) for id in ids} == {MailState.SENT}
    assert len(smtp.received) == 7


def test_a_job_that_a_later_one_has_superseded_sends_nothing(app: Flask, session: Session, smtp: SmtpServer) -> None:
    (mail_id,) = ask(session, "ada")
    first = job_of(session, mail_id)
    session.execute(sa.update(JobRecord).values(state=JobState.FAILED))
    session.commit()
    resend(mail_id)
    session.commit()
    session.execute(sa.update(JobRecord).values(state=JobState.PENDING))
    session.commit()
    work(app, session)
    assert len(smtp.received) == 1
    session.refresh(first)
    assert first.result == {"superseded": True}


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


# ── Again ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sent_mail_is_sent_again_with_a_new_message_id(app: Flask, session: Session, smtp: SmtpServer) -> None:
    (mail_id,) = ask(session, "ada")
    work(app, session)
    with use_actor(Actor(user_id=3)):
        job_id = resend(mail_id)
    session.commit()
    assert session.get_one(JobRecord, job_id).user_id == 3
    work(app, session)
    assert len({mail.message["Message-ID"] for mail in smtp.received}) == 2
    assert state_of(mail_id) is MailState.SENT


def test_a_failed_mail_is_sent_again_with_the_same_message_id(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", "550 5.1.1 unknown", times=1)
    (mail_id,) = ask(session, "ada")
    work(app, session)
    message_id = get_mail(mail_id).message_id
    resend(mail_id)
    session.commit()
    work(app, session)
    assert [mail.message["Message-ID"] for mail in smtp.received] == [message_id]


def test_a_mail_on_its_way_is_not_sent_again(app: Flask, session: Session) -> None:
    (mail_id,) = ask(session, "ada")
    with pytest.raises(MailStateError, match="in progress"):
        resend(mail_id)


def test_a_mail_without_a_recipient_is_not_sent_again(app: Flask, session: Session) -> None:
    mail_id = send_mail(KIND, "nonsense", "test/1", context=CONTEXT)
    assert mail_id is not None
    with pytest.raises(MailStateError, match="not a valid address"):
        resend(mail_id)


@pytest.mark.parametrize("mail_id", ["nonsense", "00000000-0000-7000-8000-000000000000"])
def test_a_mail_that_is_not_there_is_not_sent_again(app: Flask, mail_id: str) -> None:
    with pytest.raises(MailNotFoundError):
        resend(mail_id)


def test_a_worker_that_thaws_after_another_has_sent_its_mail_sends_nothing(app, session, smtp, monkeypatch):
    """Frozen before it marked the mail, thought dead, rescued, and back again."""
    (mail_id,) = ask(session, "ada")
    job_id = get_mail(mail_id).job_id
    session.rollback()
    (frozen,) = claims.claim(session, [job_id], "frozen")
    held = Chunk.held

    def thaw_late(chunk: Chunk, items: Sequence[Claim]) -> set[str]:
        monkeypatch.setattr(Chunk, "held", held)
        chunk.session.rollback()
        attempts.interrupt(chunk.session, frozen, "gave no sign of life")
        chunk.session.commit()
        (second,) = claims.claim(chunk.session, [job_id], "another")
        with app.app_context():
            executor.run(app, [second], no_limit)
        return held(chunk, items)

    monkeypatch.setattr(Chunk, "held", thaw_late)
    assert executor.run(app, [frozen], no_limit) == []
    session.expire_all()
    mail = get_mail(mail_id)
    assert (mail.state, mail.uncertain_count, len(smtp.received)) == (MailState.SENT, 0, 1)


def test_a_worker_that_was_frozen_over_one_mail_hands_over_none_of_those_it_had_marked(app, session, smtp, monkeypatch):
    ids = ask(session, "ada", "bob", "cyd")
    jobs = [get_mail(id).job_id for id in ids]
    session.rollback()
    frozen = claims.claim(session, jobs, "frozen")

    def thaw_late(message: OutgoingMessage) -> Receipt:
        monkeypatch.setattr(delivery, "deliver_message", transport.deliver_message)
        receipt = transport.deliver_message(message)
        for item in frozen:
            attempts.interrupt(session, item, "gave no sign of life")
        session.commit()
        items = claims.claim(session, jobs, "another")
        with app.app_context():
            executor.run(app, items, no_limit)
        monkeypatch.setattr(delivery, "HELD_SECONDS", 0.0)
        return receipt

    monkeypatch.setattr(delivery, "deliver_message", thaw_late)
    assert executor.run(app, frozen, no_limit) == []
    assert {state_of(id) for id in ids} == {MailState.SENT}
    assert sorted(mail.recipients[0][:3] for mail in smtp.received) == ["ada", "ada", "bob", "cyd"]


def test_a_mail_that_the_ledger_calls_sent_is_not_sent_whatever_its_job_says(app, session, smtp):
    ask(session, "ada")
    session.execute(sa.update(EmailMessage).values(state=MailState.SENT))
    session.commit()
    work(app, session)
    assert smtp.received == []


@pytest.mark.parametrize("state", [MailState.SENT, MailState.FAILED])
def test_a_job_that_is_no_longer_the_mails_own_writes_nothing_to_its_row(app, session, state):
    (mail_id,) = ask(session, "ada")
    ledger.write_outcomes(session, [Outcome(mail_id, new_id(), state)])
    session.commit()
    assert state_of(mail_id) is MailState.QUEUED


def test_a_process_that_stops_releases_the_mails_that_it_has_not_sent(app, session, smtp):
    ids = ask(session, "ada", "bob", "cyd")
    jobs = list(session.scalars(sa.select(JobRecord.id)))
    session.rollback()
    items = claims.claim(session, jobs, "worker")
    executor.run(app, items, no_limit, should_stop=lambda: len(smtp.received) >= 1)
    session.expire_all()
    assert sorted(get_mail(id).state for id in ids) == [MailState.QUEUED, MailState.QUEUED, MailState.SENT]
    records = session.scalars(sa.select(JobRecord)).all()
    assert sorted((record.state, record.attempt) for record in records) == [
        (JobState.COMPLETED, 1),
        (JobState.PENDING, 0),
        (JobState.PENDING, 0),
    ]
    assert [get_mail(id).uncertain_count for id in ids] == [0, 0, 0]


class Panic(BaseException):
    """As pyo3's, which Rust code in a template's filter may raise."""


@pytest.mark.parametrize("error", [RuntimeError, Panic])
@pytest.mark.parametrize(
    ("step", "state"), [("message_for", MailState.FAILED), ("deliver_message", MailState.UNCERTAIN)]
)
def test_an_unexpected_error_over_one_mail_fails_that_mail_only(app, session, smtp, monkeypatch, step, state, error):
    ids = ask(session, "ada", "bob")
    goes_on = getattr(delivery, step)

    def stumble(subject: MailEntry | OutgoingMessage, *arguments: Any) -> Any:
        if "ada@example.org" in subject.recipients:
            raise error("a bug")
        return goes_on(subject, *arguments)

    monkeypatch.setattr(delivery, step, stumble)
    work(app, session)
    session.expire_all()
    assert [get_mail(id).state for id in ids] == [state, MailState.SENT]
    assert get_mail(ids[0]).last_error == f"{error.__name__}: a bug"


def test_an_answer_with_nul_in_it_fails_its_mail_and_no_other(app, session, smtp):
    smtp.faults.append(Fault("rcpt", "550 no\0body", recipient="ada@example.org"))
    ids = ask(session, "ada", "bob")
    work(app, session)
    session.expire_all()
    assert [get_mail(id).state for id in ids] == [MailState.FAILED, MailState.SENT]


def state_and_count(mail_id: str) -> tuple[MailState, int]:
    mail = get_mail(mail_id)
    return mail.state, mail.uncertain_count


def test_cancelling_a_delivery_that_waits_cancels_its_mail(app, session, smtp):
    (mail_id,) = ask(session, "ada")
    cancel([get_mail(mail_id).job_id])
    session.commit()
    session.expire_all()
    assert (state_of(mail_id), get_mail(mail_id).last_error) == (MailState.CANCELLED, None)
    assert [mail.id for mail in find_mails(state="cancelled").items] == [mail_id]
    assert work(app, session) is None
    assert smtp.received == []
    resend(mail_id)
    session.commit()
    work(app, session)
    assert state_of(mail_id) is MailState.SENT


def test_cancelling_a_delivery_that_runs_cancels_its_mail_when_it_would_be_tried_again(app, session, smtp):
    smtp.fail("rcpt", "450 later")
    (mail_id,) = ask(session, "ada")
    items = claim_due(session)
    cancel([items[0].id])
    session.commit()
    executor.run(app, items, no_limit)
    session.expire_all()
    assert (state_of(mail_id), job_of(session, mail_id).state) == (MailState.CANCELLED, JobState.CANCELLED)
    assert "450" in (get_mail(mail_id).last_error or "")


def test_cancelling_a_delivery_whose_worker_died_over_it_leaves_its_mail_uncertain(app, session, smtp, monkeypatch):
    (mail_id,) = ask(session, "ada")
    die_after_handing_over(app, session, monkeypatch)
    cancel([get_mail(mail_id).job_id])
    session.commit()
    session.expire_all()
    assert state_and_count(mail_id) == (MailState.UNCERTAIN, 1)


def test_a_poison_pill_leaves_uncertain_what_was_marked_and_fails_what_was_not(app, session, smtp, monkeypatch):
    app.config["MAX_INTERRUPTIONS"] = 1
    monkeypatch.setattr(delivery, "FIRST_WAVE", 1)
    ids = ask(session, "ada", "bob")
    die_after_handing_over(app, session, monkeypatch)
    assert sorted(map(state_and_count, ids)) == [(MailState.FAILED, 0), (MailState.UNCERTAIN, 1)]
    for mail_id in ids:
        assert get_mail(mail_id).last_error == job_of(session, mail_id).error_message
        assert "interrupted 1 times in a row" in (get_mail(mail_id).last_error or "")


def test_the_last_attempt_counts_a_mail_as_uncertain_once(app, session, smtp):
    smtp.fail("accepted", CUT)
    (mail_id,) = ask(session, "ada")
    session.execute(sa.update(JobRecord).values(max_attempts=1))
    session.commit()
    work(app, session)
    assert job_of(session, mail_id).state is JobState.FAILED
    assert state_and_count(mail_id) == (MailState.UNCERTAIN, 1)


def test_a_delivery_without_a_function_fails_its_mail(app, session, smtp, monkeypatch):
    (mail_id,) = ask(session, "ada")
    monkeypatch.delitem(_definitions, "mail.deliver")
    work(app, session)
    assert (state_of(mail_id), job_of(session, mail_id).error_type) == (MailState.FAILED, "UnknownJobError")


def test_a_delivery_that_fails_before_it_has_looked_at_its_mails_fails_them(app, session, smtp, monkeypatch):
    def stumble(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(ledger, "load", stumble)
    (mail_id,) = ask(session, "ada")
    work(app, session)
    assert (state_of(mail_id), get_mail(mail_id).last_error) == (MailState.FAILED, "a bug")


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
@pytest.mark.parametrize("error", [ValueError, Panic])
def test_what_a_kinds_function_says_in_its_error_fails_its_mail_and_no_other(
    app, session, smtp, monkeypatch, error, text
):
    def contexts(entries: Any) -> dict[str, Any]:
        for entry in entries:
            if "status" in entry.context:
                raise error(f"there is no status {text}")
        return {entry.id: entry.context for entry in entries}

    monkeypatch.setitem(_kinds, KIND, MailKind(KIND, contexts, dict, "of a test"))
    good = ask(session, *(f"p{number}" for number in range(5)))
    (bad,) = ask(session, "bad", context={"status": text})
    good += ask(session, *(f"q{number}" for number in range(5)))
    work(app, session)
    assert {state_of(id) for id in good} == {MailState.SENT}
    assert len(smtp.received) == len(good)
    mail = get_mail(bad)
    assert (mail.state, job_of(session, bad).error_type) == (MailState.FAILED, "MailTemplateError")
    assert f"{error.__name__}: there is no status" in (mail.last_error or "")


def test_a_mail_whose_end_cannot_be_written_is_uncertain_and_no_other(app, session, smtp, monkeypatch):
    good = ask(session, *(f"p{number}" for number in range(3)))
    (bad,) = ask(session, "bad")
    write = ledger.write_outcomes

    def refuse(session: Session, outcomes: Sequence[Outcome]) -> None:
        write(session, outcomes)
        if bad in {outcome.mail_id for outcome in outcomes}:
            session.execute(sa.text("SELECT no_such_function()"))

    monkeypatch.setattr(ledger, "write_outcomes", refuse)
    work(app, session)
    assert {state_of(id) for id in good} == {MailState.SENT}
    assert (state_of(bad), job_of(session, bad).state) == (MailState.UNCERTAIN, JobState.FAILED)
    assert len(smtp.received) == 4


def test_a_greeting_with_nul_in_it_defers_all_mails(app, session, smtp):
    smtp.fail("connect", "554 5.3.2 no\0service")
    ids = ask(session, "ada", "bob")
    work(app, session)
    assert {(state_of(id), job_of(session, id).state) for id in ids} == {(MailState.DEFERRED, JobState.RETRYABLE)}
    assert "no\N{REPLACEMENT CHARACTER}service" in (get_mail(ids[0]).last_error or "")


def test_an_address_that_cannot_be_stored_is_skipped_and_no_other(app, session, smtp):
    bad, good = send_mails(
        KIND, [MailRequest(["a\0\ud800@example.org"], "bad"), MailRequest(["b@example.org"], "good")]
    )
    session.commit()
    assert (state_of(bad), state_of(good)) == (MailState.SKIPPED, MailState.QUEUED)

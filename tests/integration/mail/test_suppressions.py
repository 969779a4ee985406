"""Suppressed email addresses and held domains, with a real SMTP server."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.execution import attempts, executor
from flask_belfry.execution import claim as claims
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.mail import MailState, domain_holds, get_mail, resend, suppressions
from flask_belfry.mail.domain_holds import MAX_REFUSALS, held_domains
from flask_belfry.mail.models import EmailSuppression, MailDomainHold, SuppressionSource
from flask_belfry.outbox import JobRecord, JobState
from tests.deliveries import ask, claim_due, job_of, state_of, work
from tests.smtp import SmtpServer

REFUSED = "550 5.7.26 mail from belfry.example is not authenticated"
WAITS = f"mail to example.org waits: the server refused the recipient: {REFUSED}"


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}


def suppressed(session: Session) -> list[EmailSuppression]:
    session.expire_all()
    return list(session.scalars(sa.select(EmailSuppression).order_by(EmailSuppression.email)))


def hold_row(session: Session) -> MailDomainHold | None:
    session.expire_all()
    return session.get(MailDomainHold, "example.org")


def let_hold_end(session: Session) -> None:
    """Let the time pass until the hold is due, or without a hold until all jobs are."""
    row, waiting = hold_row(session), JobRecord.state == JobState.SCHEDULED
    passed = timedelta(days=1)
    if row is not None and row.held_until is not None:
        passed = row.held_until - utc_now() + timedelta(seconds=1)
        row.held_until -= passed
    for job in session.scalars(sa.select(JobRecord).where(waiting)):
        assert job.scheduled_at is not None
        job.scheduled_at -= passed
    session.commit()


def run_only(app: Flask, session: Session, mail_id: str, worker: str = "test") -> None:
    """Run the job of one mail, as a chunk of a worker."""
    executor.run(app, claims.claim(session, [job_of(session, mail_id).id], worker), no_limit)
    session.expire_all()


def refuse_until_held(app: Flask, session: Session, smtp: SmtpServer) -> list[str]:
    """Return the ids of the five mails whose refusals hold example.org."""
    smtp.fail("rcpt", REFUSED, times=MAX_REFUSALS)
    ids = ask(session, *(f"first-{number}" for number in range(MAX_REFUSALS)))
    work(app, session)
    row = hold_row(session)
    assert row is not None
    assert row.held_until is not None
    assert smtp.received == []
    return ids


# ── Suppressions ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", ["rcpt", "data", "content"])
def test_a_refused_address_is_suppressed_in_the_commit_that_fails_its_mail(
    app: Flask, session: Session, smtp: SmtpServer, step: str
) -> None:
    unknown = smtp.fail(step, "550 5.1.1 <ada@example.org>: ada is unknown", recipient="ada@example.org")
    ada, bob = ask(session, "ada", "bob")
    work(app, session)
    assert (state_of(ada), state_of(bob)) == (MailState.FAILED, MailState.SENT)
    (found,) = suppressed(session)
    assert (found.email, found.status_code, found.source) == ("ada@example.org", "5.1.1", SuppressionSource.SMTP)
    assert found.email_id == ada
    assert "550 5.1.1 <…@…>: … is unknown" in (found.reason or "")
    smtp.mend(unknown)
    (again,) = ask(session, "Ada")
    work(app, session)
    assert state_of(again) is MailState.SKIPPED
    assert (get_mail(again).last_error or "").startswith("suppressed: 5.1.1 (the server refused")
    assert [mail.recipients for mail in smtp.received] == [("bob@example.org",)]


def test_an_address_gets_mail_again_when_its_suppression_is_lifted(
    app: Flask, session: Session, smtp: SmtpServer
) -> None:
    assert suppressions.suppress("Ada@Example.org", "5.1.1", SuppressionSource.BOUNCE)
    assert not suppressions.suppress("ada@example.org", "5.2.1", SuppressionSource.BOUNCE)
    (ada,) = ask(session, "ada")
    work(app, session)
    assert get_mail(ada).last_error == "suppressed: 5.1.1"
    suppressions.lift("ADA@example.org")
    resend(ada)
    session.commit()
    work(app, session)
    assert state_of(ada) is MailState.SENT


@pytest.mark.parametrize(
    ("step", "reply"),
    [
        ("mail", "550 5.1.1 the reply to the sender is about no recipient"),
        ("rcpt", "550 unknown user"),
        ("rcpt", "450 4.1.1 unknown for now"),
        ("rcpt", "452 4.2.2 full"),
        ("content", "550 5.1.8 the domain of the sender is unknown"),
        ("content", "554 5.7.1 spam"),
        ("content", "554 5.6.0 broken"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_other_refusal_suppresses(app: Flask, session: Session, smtp: SmtpServer, step: str, reply: str) -> None:
    smtp.fail(step, reply)
    ask(session, "ada")
    work(app, session)
    assert suppressed(session) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_full_mailbox_is_tried_again(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", "552 5.2.2 the mailbox is full", times=1)
    (ada,) = ask(session, "ada")
    work(app, session)
    assert (state_of(ada), job_of(session, ada).state) == (MailState.DEFERRED, JobState.RETRYABLE)
    work(app, session)
    assert state_of(ada) is MailState.SENT
    assert suppressed(session) == []
    assert hold_row(session) is None


def test_emails_are_found_among_many_in_any_case(app: Flask, session: Session) -> None:
    suppressions.suppress("ada@example.org", "5.1.1", SuppressionSource.BOUNCE, reason="unknown")
    suppressions.add_suppression("bob@example.org")
    emails = ["Ada@example.org", "ada@EXAMPLE.org", "bob@example.org", "eve@example.org"]
    assert suppressions.suppressed_among(emails) == {
        "Ada@example.org": "5.1.1 (unknown)",
        "ada@EXAMPLE.org": "5.1.1 (unknown)",
        "bob@example.org": "by an admin",
    }
    assert suppressions.suppressed_among([]) == {}


# ── Held domains ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_five_refusals_in_a_row_hold_the_domain_and_fail_no_mail(
    app: Flask, session: Session, smtp: SmtpServer
) -> None:
    smtp.fail("rcpt", REFUSED)
    ids = ask(session, *(f"reader-{number}" for number in range(8)))
    with structlog.testing.capture_logs() as lines:
        work(app, session)
    assert {state_of(id) for id in ids} == {MailState.DEFERRED}
    states = sorted(job_of(session, id).state for id in ids)
    assert states == [JobState.RETRYABLE] * MAX_REFUSALS + [JobState.SCHEDULED] * 3
    assert sum(command.startswith("rcpt") for command in smtp.commands) == MAX_REFUSALS
    (held,) = held_domains()
    assert (held.domain, held.refusals, held.probes) == ("example.org", MAX_REFUSALS, 0)
    waiting = [get_mail(id) for id in ids if job_of(session, id).state is JobState.SCHEDULED]
    assert {mail.last_error for mail in waiting} == {WAITS}
    assert [job_of(session, mail.id).attempt for mail in waiting] == [0, 0, 0]
    assert suppressed(session) == []
    assert "mail.domain_held" in [line["event"] for line in lines]
    assert "reader-" not in str(lines)


def test_mails_wait_without_a_connection_until_the_probe_is_accepted(
    app: Flask, session: Session, smtp: SmtpServer
) -> None:
    first = refuse_until_held(app, session, smtp)
    later = ask(session, "ada", "bob", "eve")
    commands = len(smtp.commands)
    work(app, session)
    assert len(smtp.commands) == commands
    assert {job_of(session, id).state for id in first + later} == {JobState.SCHEDULED}
    let_hold_end(session)
    work(app, session)
    assert len(smtp.received) == 1
    assert hold_row(session) is None
    let_hold_end(session)
    work(app, session)
    assert {state_of(id) for id in first + later} == {MailState.SENT}
    assert len(smtp.received) == len(first + later)


def test_a_refused_probe_uses_no_attempt_and_extends_the_hold(app: Flask, session: Session, smtp: SmtpServer) -> None:
    ids = refuse_until_held(app, session, smtp)
    work(app, session)  # their retries wait for the hold
    smtp.fail("rcpt", REFUSED, times=2)
    expected = 15 * 60
    for probes in (1, 2):
        let_hold_end(session)
        work(app, session)
        row = hold_row(session)
        assert row is not None
        assert row.held_until is not None
        expected *= 2
        assert row.probes == probes
        assert expected - 60 < (row.held_until - utc_now()).total_seconds() <= expected
    assert sum(command.startswith("rcpt") for command in smtp.commands) == MAX_REFUSALS + 2
    assert {job_of(session, id).attempt for id in ids} == {1}
    assert {state_of(id) for id in ids} == {MailState.DEFERRED}
    probed = [command for command in smtp.commands if command.startswith("rcpt")][MAX_REFUSALS:]
    assert len(set(probed)) == 2, "a mail that is refused for itself must not keep the others waiting"
    let_hold_end(session)
    work(app, session)
    assert len(smtp.received) == 1


def test_only_one_worker_sends_the_probe(app: Flask, session: Session, smtp: SmtpServer) -> None:
    refuse_until_held(app, session, smtp)
    let_hold_end(session)
    due = domain_holds.read_holds(session, ["example.org"])["example.org"]
    assert due.is_due
    assert domain_holds.claim_probe(session, due)
    assert not domain_holds.claim_probe(session, due)
    now = domain_holds.read_holds(session, ["example.org"])["example.org"]
    assert 50 < now.seconds <= 60


def test_refusals_are_counted_over_all_workers(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", REFUSED)
    for number in range(MAX_REFUSALS):
        assert held_domains() == []
        (mail_id,) = ask(session, f"reader-{number}")
        run_only(app, session, mail_id, f"worker-{number % 2}")
    assert [row.domain for row in held_domains()] == ["example.org"]


def test_an_accepted_mail_ends_the_row_of_refusals(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", REFUSED, times=MAX_REFUSALS - 1)
    ask(session, *(f"first-{number}" for number in range(MAX_REFUSALS - 1)))
    work(app, session)
    row = hold_row(session)
    assert row is not None
    assert (row.refusals, row.held_since) == (MAX_REFUSALS - 1, None)
    ask(session, "ada")
    work(app, session)
    assert hold_row(session) is None


def test_refusals_after_an_accepted_mail_of_one_commit_count_from_one(app: Flask, session: Session) -> None:
    replies = domain_holds.DomainReplies()
    for _ in range(4):
        replies.add_refused(REFUSED, is_probe=False)
    domain_holds.write_replies(session, {"example.org": replies})
    replies = domain_holds.DomainReplies()
    replies.add_refused(REFUSED, is_probe=False)
    replies.add_accepted()
    replies.add_refused(REFUSED, is_probe=False)
    assert domain_holds.write_replies(session, {"example.org": replies}) == {}
    session.commit()
    row = hold_row(session)
    assert row is not None
    assert (row.refusals, row.held_since) == (1, None)


def test_the_domains_of_others_are_not_held(app: Flask, session: Session, smtp: SmtpServer) -> None:
    refuse_until_held(app, session, smtp)
    assert domain_holds.read_holds(session, ["example.org", "example.com"]).keys() == {"example.org"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("step", "reply"), [("mail", "550 5.7.1 no"), ("content", "554 5.7.1 no")])
def test_the_sender_may_be_refused_at_any_step(
    app: Flask, session: Session, smtp: SmtpServer, step: str, reply: str
) -> None:
    smtp.fail(step, reply)
    ask(session, *(f"reader-{number}" for number in range(MAX_REFUSALS)))
    work(app, session)
    assert [row.domain for row in held_domains()] == ["example.org"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_refused_mail_fails_when_the_server_accepts_others(app: Flask, session: Session, smtp: SmtpServer) -> None:
    smtp.fail("rcpt", REFUSED, recipient="bob@example.org")
    (bob,) = ask(session, "bob")
    for number in range(6):
        work(app, session)
        (other,) = ask(session, f"reader-{number}")
        run_only(app, session, other)
    assert state_of(bob) is MailState.FAILED
    assert held_domains() == []


def test_a_mail_that_may_have_been_sent_does_not_wait(app: Flask, session: Session, smtp: SmtpServer) -> None:
    """Its state must record that it may have been sent."""
    (ada,) = ask(session, "ada")
    items = claim_due(session)
    get_mail(ada).state = MailState.SENDING
    session.commit()
    for item in items:
        attempts.interrupt(session, item, "killed")
    session.commit()
    later = utc_now() + timedelta(hours=1)
    session.add(MailDomainHold(domain="example.org", last_reply=REFUSED, held_since=utc_now(), held_until=later))
    session.commit()
    work(app, session)
    assert state_of(ada) is MailState.SENT


def test_lifting_a_hold_sends_what_waits(app: Flask, session: Session, smtp: SmtpServer) -> None:
    ids = refuse_until_held(app, session, smtp)
    work(app, session)
    domain_holds.lift_hold("Example.org")
    assert held_domains() == []
    jobs = [job_of(session, id) for id in ids]
    assert all(job.scheduled_at is not None and job.scheduled_at <= utc_now() for job in jobs)
    work(app, session)
    assert {state_of(id) for id in ids} == {MailState.SENT}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_hold_of_days_fails_no_mail(app: Flask) -> None:
    # A mail wakes twice for each probe: when the hold ends, and when another mail is the probe.
    probes = app.config["MAX_SNOOZES"] // 2
    assert sum(domain_holds.hold_seconds(number) for number in range(probes)) > timedelta(days=5).total_seconds()

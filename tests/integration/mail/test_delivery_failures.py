"""Temporary and permanent failures of a delivery, with a real SMTP server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.core.clock import utc_now
from flask_belfry.mail import MailEntry, MailOutcome, MailState, Skip, get_mail
from flask_belfry.mail.queries import answers_of
from flask_belfry.mail.registry import MailKind, _kinds
from flask_belfry.outbox import JobState
from tests.deliveries import KIND, ask, job_of, state_of, work
from tests.smtp import CUT, HANG, SmtpServer


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}


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
    assert get_mail(ada).reply == get_mail(bob).reply == "250 2.0.0 taken"
    refused, accepted = answers_of(get_mail(ada))[::-1]
    assert (refused.outcome, accepted.outcome, accepted.text) == ("failed", "sent", "250 2.0.0 taken")
    assert "cannot use 127.0.0.1" in (refused.text or "")


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


def test_a_mail_that_its_kind_does_not_want_any_more_is_skipped_with_the_reason(
    app: Flask, session: Session, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[MailOutcome] = []

    def contexts(entries: list[MailEntry]) -> dict[str, Any]:
        return {entry.id: Skip("the event was moved") for entry in entries}

    def listen(session: Session, found: Sequence[MailOutcome]) -> None:
        outcomes.extend(found)

    monkeypatch.setitem(_kinds, KIND, MailKind(KIND, contexts, dict, "it is a test", on_outcome=listen))
    (mail_id,) = ask(session, "ada")
    work(app, session)
    assert (state_of(mail_id), get_mail(mail_id).last_error) == (MailState.SKIPPED, "the event was moved")
    assert [(outcome.state, outcome.error) for outcome in outcomes] == [(MailState.SKIPPED, "the event was moved")]
    assert smtp.received == []


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

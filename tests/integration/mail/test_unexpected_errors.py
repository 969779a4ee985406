"""Unexpected errors of a delivery: they fail their mail and no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.execution import claim as claims
from flask_belfry.execution import executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.mail import MailEntry, MailRequest, MailState, delivery, get_mail, ledger, preparation, send_mails
from flask_belfry.mail.ledger import Outcome
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.registry import MailKind, _kinds
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.registry import _definitions
from tests.deliveries import KIND, ask, job_of, state_of, work
from tests.smtp import Fault, SmtpServer


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}


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
    ("module", "step", "state"),
    [(preparation, "message_for", MailState.FAILED), (delivery, "deliver_message", MailState.UNCERTAIN)],
)
def test_an_unexpected_error_over_one_mail_fails_that_mail_only(
    app, session, smtp, monkeypatch, module, step, state, error
):
    ids = ask(session, "ada", "bob")
    goes_on = getattr(module, step)

    def stumble(subject: MailEntry | OutgoingMessage, *arguments: Any) -> Any:
        if "ada@example.org" in subject.recipients:
            raise error("a bug")
        return goes_on(subject, *arguments)

    monkeypatch.setattr(module, step, stumble)
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

    def refuse(session: Session, outcomes: Sequence[Outcome]) -> dict[str, int]:
        attempts = write(session, outcomes)
        if bad in {outcome.mail_id for outcome in outcomes}:
            session.execute(sa.text("SELECT no_such_function()"))
        return attempts

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

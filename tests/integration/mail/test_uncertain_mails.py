"""Mails that may have been sent: an interrupted delivery sends them again with the same Message-ID, or never."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry import outbox
from flask_belfry.db.columns import new_id
from flask_belfry.execution import attempts, executor
from flask_belfry.execution import claim as claims
from flask_belfry.execution.chunk import Chunk
from flask_belfry.execution.claim import Claim
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.mail import (
    EmailMessage,
    MailNotFoundError,
    MailState,
    confirm_sent,
    delivery,
    get_mail,
    ledger,
    resend,
    transport,
)
from flask_belfry.mail.bounces import record_bounce
from flask_belfry.mail.ledger import Outcome
from flask_belfry.mail.message import OutgoingMessage
from flask_belfry.mail.smtp_session import Receipt
from flask_belfry.mail.transport import smtp_settings
from flask_belfry.outbox import JobRecord, JobState, JobTimeoutError
from tests import bounce_messages
from tests.deliveries import ask, die_after_handing_over, job_of, state_and_count, state_of, work
from tests.reservation_factories import bearer, log_in, make_user
from tests.smtp import CUT, SmtpServer


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return settings | smtp.settings | {"MAIL_TIMEOUT_SECONDS": "1", "MAIL_MESSAGE_ID_DOMAIN": "belfry.example"}


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


def test_an_uncertain_mail_that_arrived_is_marked_as_sent_by_page_api_and_command(
    app: Flask, client: FlaskClient, session: Session, smtp: SmtpServer
) -> None:
    app.config["MAIL_UNCERTAIN"] = "hold"
    smtp.fail("accepted", CUT)
    ids = ask(session, "ada", "bob", "eve")
    work(app, session)
    for id in ids:
        assert (state_of(id), get_mail(id).sent_at) == (MailState.UNCERTAIN, None)
    headers = bearer(make_user(Role.ADMIN))
    log_in(client, make_user(Role.ADMIN))
    assert "It arrived" in client.get(f"/mails/{ids[0]}").text
    answers = [
        client.post(f"/mails/{ids[0]}/confirm-sent", follow_redirects=True),
        app.test_client().post(f"/api/v1/mails/{ids[1]}/confirm-sent", headers=headers),
    ]
    assert "The mail is marked as sent." in answers[0].text
    assert "It arrived" not in answers[0].text
    assert (answers[1].status_code, answers[1].json["id"], answers[1].json["state"]) == (200, ids[1], "sent")
    result = app.test_cli_runner().invoke(args=["mail", "confirm-sent", ids[2]])
    assert (result.exit_code, result.output) == (0, "marked as sent\n")
    session.expire_all()
    for id in ids:
        mail = get_mail(id)
        assert (mail.state, mail.sent_at, mail.last_error) == (MailState.SENT, mail.sending_at, None)
    actions = sa.select(AuditEntry.subject_id).where(AuditEntry.action == "mail.confirm_sent")
    assert sorted(session.scalars(actions)) == sorted(ids)
    # What was confirmed is final: no job sends it, and a bounce is about it.
    outbox.retry([job_of(session, ids[0]).id])
    session.commit()
    work(app, session)
    assert len(smtp.received) == 3
    report = bounce_messages.postfix("no-reply@belfry.example", get_mail(ids[0]).message_id, "ada@example.org")
    record_bounce(report.encode())
    assert state_of(ids[0]) is MailState.BOUNCED


def test_only_an_uncertain_mail_without_a_next_attempt_is_marked_as_sent(
    app: Flask, client: FlaskClient, session: Session, smtp: SmtpServer
) -> None:
    smtp.fail("accepted", CUT, times=1)
    (mail_id,) = ask(session, "ada")
    headers = bearer(make_user(Role.ADMIN))

    def refusal() -> tuple[int, str]:
        session.rollback()
        answer = client.post(f"/api/v1/mails/{mail_id}/confirm-sent", headers=headers)
        return answer.status_code, answer.json["message"]

    assert refusal() == (409, "it is queued, not uncertain")
    work(app, session)
    assert state_of(mail_id) is MailState.UNCERTAIN
    assert refusal() == (409, "it is in progress: its job has not finished")
    work(app, session)
    assert refusal() == (409, "it is sent, not uncertain")
    log_in(client, make_user(Role.ADMIN))
    page = client.post(f"/mails/{mail_id}/confirm-sent", follow_redirects=True)
    assert "The mail was not marked as sent: it is sent, not uncertain." in page.text
    result = app.test_cli_runner().invoke(args=["mail", "confirm-sent", mail_id])
    assert (result.exit_code, "it is sent, not uncertain" in result.output) == (1, True)
    with pytest.raises(MailNotFoundError):
        confirm_sent("nonsense")


def test_members_decide_about_no_mail(app: Flask, client: FlaskClient, session: Session) -> None:
    (mail_id,) = ask(session, "ada")
    headers = bearer(make_user())
    for path in ("", "/resend", "/confirm-sent"):
        method = client.post if path else client.get
        assert method(f"/api/v1/mails/{mail_id}{path}", headers=headers).status_code == 403
    log_in(client, make_user())
    assert client.post(f"/mails/{mail_id}/confirm-sent").status_code == 403


def test_the_api_sends_a_mail_again(app: Flask, client: FlaskClient, session: Session, smtp: SmtpServer) -> None:
    (mail_id,) = ask(session, "ada")
    path, headers = f"/api/v1/mails/{mail_id}", bearer(make_user(Role.ADMIN))
    assert client.post(f"{path}/resend", headers=headers).status_code == 409
    work(app, session)
    shown = client.get(path, headers=headers).json
    assert (shown["state"], shown["recipients"], shown["attempts"]) == ("sent", ["ada@example.org"], 1)
    again = client.post(f"{path}/resend", headers=headers)
    assert (again.status_code, again.json["state"]) == (200, "queued")
    assert again.json["job_id"] != shown["job_id"]
    work(app, session)
    assert [mail.recipients for mail in smtp.received] == [("ada@example.org",)] * 2


@pytest.mark.parametrize("instead_of", ["end", "write"])  # before the job's end is written, and within that
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
        attempts.interrupt(chunk.session, frozen, "sent no heartbeat")
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
            attempts.interrupt(session, item, "sent no heartbeat")
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


def test_a_poison_pill_leaves_uncertain_what_was_marked_and_fails_what_was_not(app, session, smtp, monkeypatch):
    app.config["MAX_INTERRUPTIONS"] = 1
    smtp_settings().waves.size = 1
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

"""Bounces: which messages set a mail to bounced, and which change nothing."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from flask_belfry.db import db
from flask_belfry.mail import EmailSuppression, MailState, SuppressionSource, get_mail, resend
from flask_belfry.mail.bounces import (
    MAX_MESSAGE_BYTES,
    BounceResult,
    EarlyBounceError,
    UnknownBounceError,
    UnreadableBounceError,
    record_bounce,
)
from flask_belfry.mail.return_path import return_path
from flask_belfry.mail.suppressions import lift
from tests import bounce_messages
from tests.bounce_messages import Sample
from tests.deliveries import ask, job_of, state_of, work
from tests.smtp import SmtpServer

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
TOKEN = "a token of twenty letters"
REFUSED = "5.1.1 smtp; 550 5.1.1 <ada@example.org>: Recipient address rejected: User unknown in virtual mailbox table"


@pytest.fixture
def settings(settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
    return (
        settings
        | smtp.settings
        | {
            "MAIL_MESSAGE_ID_DOMAIN": "belfry.example",
            "MAIL_DEFAULT_SENDER": "Belfry <no-reply@belfry.example>",
            "MAIL_BOUNCE_ADDRESS": "Bounces@mail.belfry.example",
            "MAIL_BOUNCE_TOKEN": TOKEN,
        }
    )


@pytest.fixture
def mail_id(app: Flask, session: Session) -> str:
    """A mail that the server accepted."""
    (mail_id,) = ask(session, "ada")
    work(app, session)
    assert state_of(mail_id) is MailState.SENT
    return mail_id


def bounce(mail_id: str, sample: Sample = bounce_messages.postfix, to: str | None = None) -> bytes:
    """A message about a mail, as a server writes it."""
    mail = get_mail(mail_id)
    return sample(to or return_path(mail_id) or "", mail.message_id, mail.recipients[0]).encode()


def test_the_return_path_names_the_mail(mail_id: str, smtp: SmtpServer) -> None:
    (received,) = smtp.received
    assert received.sender == return_path(mail_id)
    assert received.sender.startswith("Bounces+")
    assert len(received.sender.partition("@")[0]) <= 64
    assert received.message["From"] == "Belfry <no-reply@belfry.example>"


def test_a_mail_that_a_server_returns_is_bounced(app: Flask, session: Session, mail_id: str, smtp: SmtpServer) -> None:
    recorded = record_bounce(bounce(mail_id))
    session.commit()
    assert (recorded.result, recorded.mail_id, recorded.code) == (BounceResult.BOUNCED, mail_id, "5.1.1")
    mail = get_mail(mail_id)
    assert (mail.state, mail.last_error) == (MailState.BOUNCED, REFUSED)
    assert mail.sent_at is not None
    assert mail.bounced_at is not None
    # The same report again changes nothing.
    before = mail.bounced_at
    assert record_bounce(bounce(mail_id)).result is BounceResult.REPEATED
    session.commit()
    assert get_mail(mail_id).bounced_at == before
    # A late report of the first sending does not concern the second one.
    late = bounce(mail_id)
    lift("ada@example.org")
    resend(mail_id)
    session.commit()
    work(app, session)
    assert (state_of(mail_id), get_mail(mail_id).bounced_at) == (MailState.SENT, None)
    assert record_bounce(late).result is BounceResult.UNCHANGED
    assert state_of(mail_id) is MailState.SENT
    assert len(smtp.received) == 2


@ON_SQLITE
@pytest.mark.parametrize(
    ("sample", "code"),
    [
        (bounce_messages.exim, "5.1.1"),
        (bounce_messages.exchange, "5.1.10"),
        (bounce_messages.qmail, "5.1.1"),
    ],
)
def test_the_formats_of_other_servers_are_read(session: Session, mail_id: str, sample: Sample, code: str) -> None:
    recorded = record_bounce(bounce(mail_id, sample).replace(b"\n", b"\r\n"))
    assert (recorded.result, recorded.code) == (BounceResult.BOUNCED, code)
    assert code in (get_mail(mail_id).last_error or "")


@ON_SQLITE
@pytest.mark.parametrize("sample", [bounce_messages.postfix, bounce_messages.exim, bounce_messages.qmail])
def test_a_mail_is_found_by_its_message_id_when_the_bounce_came_to_the_sender(
    session: Session, mail_id: str, sample: Sample
) -> None:
    assert record_bounce(bounce(mail_id, sample, "no-reply@belfry.example")).result is BounceResult.BOUNCED
    # Its recipient knows the Message-ID too.
    assert session.scalars(sa.select(EmailSuppression)).all() == []


@ON_SQLITE
def test_the_recipient_of_the_envelope_wins_over_the_headers(app: Flask, session: Session) -> None:
    ada, bob = ask(session, "ada", "bob")
    work(app, session)
    content = bounce(ada).replace(get_mail(ada).message_id.encode(), b"<unknown@example.net>")
    assert record_bounce(content, (return_path(bob) or "").upper()).mail_id == bob
    assert state_of(ada) is MailState.SENT


@ON_SQLITE
def test_a_delay_and_an_automatic_reply_change_nothing(session: Session, mail_id: str) -> None:
    assert record_bounce(bounce(mail_id, bounce_messages.delayed)).result is BounceResult.DELAYED
    assert record_bounce(bounce(mail_id, bounce_messages.out_of_office)).result is BounceResult.NOT_A_BOUNCE
    assert record_bounce(b"Subject: hello\n\nHow are you?\n").result is BounceResult.NOT_A_BOUNCE
    assert state_of(mail_id) is MailState.SENT


@ON_SQLITE
def test_only_a_sent_mail_can_bounce(app: Flask, session: Session, smtp: SmtpServer) -> None:
    queued, sending, failed = ask(session, "queued", "sending", "failed")
    for mail_id, state in ((sending, MailState.SENDING), (failed, MailState.FAILED)):
        get_mail(mail_id).state = state
    session.commit()
    for mail_id in (queued, failed):
        assert record_bounce(bounce(mail_id)).result is BounceResult.UNCHANGED
    # The server may be faster than our commit.
    with pytest.raises(EarlyBounceError, match="again later"):
        record_bounce(bounce(sending))
    assert [state_of(id) for id in (queued, sending, failed)] == ["queued", "sending", "failed"]


@ON_SQLITE
def test_a_bounced_mail_is_not_sent_again_by_its_job(
    app: Flask, session: Session, mail_id: str, smtp: SmtpServer
) -> None:
    record_bounce(bounce(mail_id))
    job_of(session, mail_id).state = "retryable"
    session.commit()
    work(app, session)
    assert state_of(mail_id) is MailState.BOUNCED
    assert len(smtp.received) == 1


@ON_SQLITE
def test_a_bounce_proves_that_an_uncertain_mail_was_sent(
    app: Flask, session: Session, mail_id: str, smtp: SmtpServer
) -> None:
    get_mail(mail_id).state = MailState.UNCERTAIN
    job_of(session, mail_id).state = "retryable"
    session.commit()
    assert record_bounce(bounce(mail_id)).result is BounceResult.BOUNCED
    session.commit()
    work(app, session)
    assert state_of(mail_id) is MailState.BOUNCED
    assert len(smtp.received) == 1


@pytest.mark.parametrize(
    ("code", "is_suppressed"),
    [("5.1.1", True), ("5.1.2", True), ("5.2.1", True), ("5.2.2", False), ("5.7.26", False), ("5.4.4", False)],
)
@ON_SQLITE
def test_a_mailbox_that_does_not_exist_is_suppressed(
    session: Session, mail_id: str, code: str, is_suppressed: bool
) -> None:
    for _ in range(2):
        record_bounce(bounce(mail_id, partial(bounce_messages.postfix, code=code)))
        session.commit()
    rows = session.scalars(sa.select(EmailSuppression)).all()
    expected = [("ada@example.org", code, SuppressionSource.BOUNCE, mail_id)] if is_suppressed else []
    assert [(row.email, row.status_code, row.source, row.email_id) for row in rows] == expected
    assert not any("ada" in (row.reason or "") for row in rows)


@ON_SQLITE
def test_a_forged_return_path_reports_nothing(app: Flask, session: Session) -> None:
    ada, bob = ask(session, "ada", "bob")
    work(app, session)
    of_ada, of_bob = (return_path(id) or "" for id in (ada, bob))
    changed = of_ada.replace("@", "a@") if of_ada[-1] != "a" else of_ada
    # The id of one mail with the signature of another, a cut one, a longer one, and one that is not base32.
    mixed = of_ada[: len("Bounces+") + 26] + of_bob[len("Bounces+") + 26 :]
    cut = of_ada.replace("@", "\0")[:-40].replace("\0", "") + "@mail.belfry.example"
    for email in (mixed, cut, changed, "bounces+!!!@mail.belfry.example", "bounces+ü@mail.belfry.example"):
        with pytest.raises(UnknownBounceError, match="forged"):
            record_bounce(bounce(ada), email)
    for email in ("bounces@mail.belfry.example", of_ada.replace("mail.", "other.")):
        without_id = bounce(ada).replace(get_mail(ada).message_id.encode(), b"<unknown@example.net>")
        with pytest.raises(UnknownBounceError, match="names no mail"):
            record_bounce(without_id, email)
    assert {state_of(ada), state_of(bob)} == {MailState.SENT}


HEADERS = "MIME-Version: 1.0\nTo: x@example.org\n"
HOSTILE = {
    "nothing": b"",
    "no headers": b"\n\nhello",
    "bytes": bytes(range(256)) * 400,
    "too large": b"To: x@example.org\n\n" + b"x" * MAX_MESSAGE_BYTES,
    "nested parts": (
        HEADERS + "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(9_000))
    ).encode(),
    "nested comments": (HEADERS + "X-Failed-Recipients: " + "(" * 900_000 + "\n\nx").encode(),
    "folded comments": (HEADERS + "X-Failed-Recipients: " + ("(" * 900 + "\n ") * 900 + "\n\nx").encode(),
    "parameters": (HEADERS + 'Content-Type: multipart/mixed; a="' + (";" * 900 + "\n ") * 900 + "\n\nx").encode(),
    "many headers": (HEADERS + "Content-Type: a;" * 60_000 + "\n\nx").encode(),
    "many parts": (HEADERS + "Content-Type: multipart/mixed; boundary=b\n\n" + "--b\n\nx\n" * 120_000).encode(),
    "long words": (HEADERS + "\nwe tried to deliver; failed addresses follow:\n" + "x" * 1_000_000).encode(),
    "many lines": (HEADERS + "\nfailed addresses follow:\n" + f"{'x' * 240}\n" * 4_000).encode(),
    "a character set": (
        HEADERS + "Content-Type: text/plain; charset=nonsense\n\nHi. This is the\n\n<\xff>:\n"
    ).encode(),
}


@ON_SQLITE
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_message_is_read_or_refused_in_bounded_time(app: Flask, content: bytes) -> None:
    with suppress(UnreadableBounceError, UnknownBounceError):
        assert record_bounce(content).result is BounceResult.NOT_A_BOUNCE


# ── The command ──────────────────────────────────────────────────────────────────────────────────────────────────


def run(app: Flask, content: bytes, *options: str) -> tuple[int, str]:
    result = app.test_cli_runner().invoke(args=["mail", "bounce", *options], input=content)
    return result.exit_code, result.output


def test_the_command_prints_what_it_did_and_ends_as_mail_servers_expect(
    app: Flask, session: Session, mail_id: str
) -> None:
    content = bounce(mail_id)
    (other,) = ask(session, "bob")
    get_mail(other).state = MailState.SENDING
    session.commit()
    early, to = bounce(other), return_path(mail_id) or ""
    session.rollback()
    assert run(app, content, "--recipient", to) == (0, f"{mail_id}: bounced (5.1.1)\n")
    assert run(app, content) == (0, f"{mail_id}: repeated (5.1.1)\n")
    assert run(app, b"Subject: hello\n\nhello") == (0, "not a bounce\n")
    assert run(app, b"")[0] == 65
    assert run(app, bounce_messages.postfix("x@example.org", "<1@example.org>", "x@example.org").encode())[0] == 67
    assert run(app, early)[0] == 75
    assert state_of(mail_id) is MailState.BOUNCED


# ── The endpoint ─────────────────────────────────────────────────────────────────────────────────────────────────


def post(client: FlaskClient, content: bytes, token: str | None = TOKEN, query: str = "") -> Any:
    headers = {"Content-Type": "message/rfc822"} | ({"Authorization": f"Bearer {token}"} if token else {})
    return client.post(f"/mail/bounces{query}", data=content, headers=headers)


def test_a_mail_server_reports_bounces_over_http(
    app: Flask, session: Session, client: FlaskClient, mail_id: str
) -> None:
    content, to = bounce(mail_id), (return_path(mail_id) or "").replace("+", "%2B")
    for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", "ü"):
        answer = post(client, content, token)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert state_of(mail_id) is MailState.SENT
    answer = post(client, content, query=f"?recipient={to}")
    assert (answer.status_code, answer.json) == (202, {"result": "bounced", "mail_id": mail_id, "code": "5.1.1"})
    assert post(client, b"").status_code == 422
    unknown = bounce_messages.postfix("x@example.org", "<1@example.org>", "x@example.org").encode()
    assert post(client, unknown).status_code == 404
    assert post(client, b"x" * (MAX_MESSAGE_BYTES + 1)).status_code == 413
    db.session.rollback()
    assert state_of(mail_id) is MailState.BOUNCED
    get_mail(mail_id).state = MailState.SENDING
    session.commit()
    answer = post(client, content)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
    app.config["MAIL_BOUNCE_TOKEN"] = None
    assert post(client, content).status_code == 404
    assert client.get("/mail/bounces").status_code == 405

"""The pages and commands of the ledger, the previews and the development inbox."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.accounts import AccountCode, Role
from app.accounts.codes import token_of
from app.reservations import ReservationStatus
from flask_belfry.core.clock import utc_now
from flask_belfry.mail import EmailMessage, MailRequest, MailState, SuppressionSource, get_mail, send_mails, suppress
from flask_belfry.mail.inbox_store import write_atomically
from flask_belfry.mail.models import entry_of
from flask_belfry.mail.previews import MASK
from flask_belfry.mail.registry import unsubscribe_paths
from flask_belfry.outbox import JobAttempt, JobRecord, JobState
from flask_belfry.outbox.models import AttemptOutcome
from tests.conftest import make_app
from tests.reservation_factories import log_in, make_reservation, make_user
from tests.smtp import SmtpServer

CONTEXT = {"server": "mail.example.org"}
KEY = "20251125T143005.000001Z-0123abcd"


@pytest.fixture
def staff(client: FlaskClient) -> FlaskClient:
    """A browser of an admin: these mails are the system's own, which no school's staff sees."""
    return log_in(client, make_user(Role.ADMIN))


@pytest.fixture
def mail_ids(app: Flask, session: Session) -> list[str]:
    """A mail to Ada, and one that was skipped."""
    requests = [MailRequest([to], f"test/{to}", CONTEXT) for to in ("ada@example.org", "nonsense")]
    ids = send_mails("test-message", requests)
    session.commit()
    return ids


@pytest.fixture
def caught(app: Flask) -> str:
    """The key of a caught mail."""
    folder = Path(app.instance_path) / "inbox"
    folder.mkdir()
    content = (
        "X-Envelope-From: no-reply@belfry.example\r\nX-Envelope-To: ada@example.org, bob@example.org\r\n"
        "From: Belfry <no-reply@belfry.example>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/alternative; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nThe text\r\n"
        "--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<html><head></head><body>The HTML"
        "</body></html>\r\n--b--\r\n"
    )
    write_atomically(folder / f"{KEY}.eml", content.encode())
    write_atomically(Path(app.instance_path) / "secret.eml", b"Subject: secret\r\n\r\n")
    return KEY


# ── The ledger ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/mails", "/mails/previews", "/dev/inbox"])
def test_the_pages_are_for_staff(app: Flask, client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 302
    log_in(client, make_user())
    assert client.get(path).status_code == 403


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["ada", "nonsense"]),
        ("?state=queued", ["ada"]),
        ("?state=skipped", ["nonsense"]),
        ("?state=unheard-of", ["ada", "nonsense"]),
        ("?state=%00&kind=%00&text=%00", ["ada", "nonsense"]),
        ("?kind=test-message%00", ["ada", "nonsense"]),
        ("?text=a%00da@", ["ada"]),
        ("?kind=test-message", ["ada", "nonsense"]),
        ("?kind=other", []),
        ("?text=ADA@", ["ada"]),
        ("?text=test-mess", ["ada", "nonsense"]),
        ("?text=test/nons", ["nonsense"]),
        ("?text=valid+EMAIL", ["nonsense"]),
        ("?text=100%25", []),
    ],
)
def test_the_list_is_filtered(staff: FlaskClient, mail_ids: list[str], query: str, expected: list[str]) -> None:
    page = staff.get(f"/mails{query}")
    assert page.status_code == 200
    shown = dict(zip(("ada", "nonsense"), mail_ids, strict=True))
    assert [name for name, id in shown.items() if id in page.text] == expected


def test_the_list_is_paged_by_key(staff: FlaskClient, session: Session) -> None:
    send_mails("test-message", [MailRequest([f"p{n}@example.org"], f"k{n}", CONTEXT) for n in range(30)])
    session.commit()
    first = staff.get("/mails").text
    assert first.count('id="mail-') == 25
    cursor = first.partition("cursor=")[2].partition('"')[0]
    assert staff.get(f"/mails?cursor={cursor}").text.count('id="mail-') == 5


def test_the_detail_page_shows_the_mail(staff: FlaskClient, mail_ids: list[str]) -> None:
    page = staff.get(f"/mails/{mail_ids[1]}").text
    assert "not a valid email address" in page
    assert f"/mails/{mail_ids[1]}/html" in page


def test_the_page_of_a_mail_is_live_until_it_has_ended(
    staff: FlaskClient, session: Session, mail_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_belfry.live.FRAGMENT_SECONDS", 0)
    page, live = (staff.get(f"/mails/{mail_ids[0]}{end}").text for end in ("", "/live"))
    assert f'hx-get="/mails/{mail_ids[0]}/live"' in page
    assert "data-live-toggle" in page
    assert 'data-live="2"' in live
    assert "<html" not in live
    skipped = staff.get(f"/mails/{mail_ids[1]}").text
    assert "data-live=" not in skipped.partition("<main")[2]
    assert "data-live-toggle" not in skipped
    session.execute(sa.update(JobRecord).values(state=JobState.FAILED))
    session.commit()
    assert "data-live=" not in staff.get(f"/mails/{mail_ids[0]}/live").text


def test_a_mail_that_is_not_there_is_a_404(staff: FlaskClient) -> None:
    assert staff.get("/mails/00000000-0000-7000-8000-000000000000").status_code == 404
    assert staff.get("/mails/nonsense").status_code == 404


def test_the_frame_shows_the_mail_and_lets_nothing_in_it_run(staff: FlaskClient, mail_ids: list[str]) -> None:
    frame = staff.get(f"/mails/{mail_ids[0]}/html")
    assert "mail.example.org" in frame.text
    policy = frame.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "allow-scripts" not in policy


@pytest.mark.parametrize(
    ("part", "expected"),
    [("html", "<p"), ("text", "A test message from Belfry\n\n"), ("source", "Content-Type: multipart/alternative")],
)
def test_each_part_of_a_mail_is_shown_in_a_frame(
    staff: FlaskClient, mail_ids: list[str], part: str, expected: str
) -> None:
    assert f'src="/mails/{mail_ids[0]}/{part}"' in staff.get(f"/mails/{mail_ids[0]}?part={part}").text
    frame = staff.get(f"/mails/{mail_ids[0]}/{part}")
    assert expected in frame.text
    assert frame.mimetype == ("text/html" if part == "html" else "text/plain")
    assert "sandbox" in frame.headers["Content-Security-Policy"]


def test_the_source_has_the_headers_of_the_mail_that_was_sent(
    staff: FlaskClient, session: Session, mail_ids: list[str]
) -> None:
    mail = get_mail(mail_ids[0])
    mail.sent_at = datetime(2026, 11, 30, 9, 14, tzinfo=UTC)
    session.commit()
    source = message_from_string(staff.get(f"/mails/{mail.id}/source").text)
    assert (source["To"], source["Message-ID"]) == ("ada@example.org", mail.message_id)
    assert source["Date"] == "Mon, 30 Nov 2026 09:14:00 +0000"
    text, html = source.get_payload()
    assert "mail.example.org" in text.get_payload(decode=True).decode()
    assert html.get_content_subtype() == "html"


def test_codes_and_unsubscribe_links_are_hidden_in_every_part(staff: FlaskClient, session: Session) -> None:
    new = {"username": "grace", "email": "grace@example.org", "password": "a long enough one"}
    assert staff.post("/api/v1/auth/register", json=new).status_code == 201
    reservation = make_reservation(make_user())
    reservation.status = ReservationStatus.CONFIRMED
    session.commit()
    mails = {mail.kind: mail for mail in session.scalars(sa.select(EmailMessage))}
    about = entry_of(mails["reservation-status"])
    token = unsubscribe_paths([about])[about.id].rpartition("/")[2]
    code = session.scalars(sa.select(AccountCode)).one()
    for kind, shown, hidden in (("confirmation", MASK, token_of(code)), ("reservation-status", "/hidden", token)):
        url = f"/mails/{mails[kind].id}"
        source = message_from_string(staff.get(f"{url}/source").text)
        parts = [part.get_payload(decode=True).decode() for part in source.get_payload()]
        for text in (staff.get(f"{url}/html").text, staff.get(f"{url}/text").text, *parts):
            assert shown in text
            assert hidden not in text
        assert hidden not in str(source["List-Unsubscribe"])


def test_the_answers_of_the_server_are_shown_with_the_attempts(
    staff: FlaskClient, session: Session, mail_ids: list[str]
) -> None:
    mail = get_mail(mail_ids[0])
    page = staff.get(f"/mails/{mail.id}").text
    assert "No attempt has ended yet." in page
    refused = {"number": 1, "outcome": AttemptOutcome.FAILED, "worker": "host-1.7", "error_message": "451 greylisted"}
    session.add(JobAttempt(job_id=mail.job_id, finished_at=utc_now() - timedelta(minutes=1), **refused))
    mail.state, mail.sent_at, mail.reply = MailState.BOUNCED, utc_now(), "250 2.0.0 queued as 7F3A"
    mail.bounced_at, mail.last_error = utc_now(), "5.1.1 no such user"
    session.commit()
    page = staff.get(f"/mails/{mail.id}").text
    answers = page.partition("Replies of the server")[2]
    order = [answers.index(text) for text in ("5.1.1 no such user", "queued as 7F3A", "451 greylisted", "host-1.7")]
    assert order[0] < order[1] < order[2]
    assert "It was not sent to a server." in staff.get(f"/mails/{mail_ids[1]}").text


def test_a_suppressed_recipient_is_named_on_the_page(staff: FlaskClient, session: Session, mail_ids: list[str]) -> None:
    assert "/mails/suppressions?text=" not in staff.get(f"/mails/{mail_ids[0]}").text
    suppress("ada@example.org", "5.1.1", SuppressionSource.SMTP, reason="550 5.1.1 unknown")
    session.commit()
    assert "/mails/suppressions?text=ada@example.org" in staff.get(f"/mails/{mail_ids[0]}").text


def test_staff_sends_a_mail_again_from_its_page(staff: FlaskClient, session: Session, mail_ids: list[str]) -> None:
    refused = staff.post(f"/mails/{mail_ids[0]}/resend", follow_redirects=True)
    assert "in progress" in refused.text
    session.execute(sa.update(JobRecord).values(state=JobState.FAILED))
    session.commit()
    first_job = get_mail(mail_ids[0]).job_id
    assert "enqueued again" in staff.post(f"/mails/{mail_ids[0]}/resend", follow_redirects=True).text
    session.expire_all()
    job = session.get_one(JobRecord, get_mail(mail_ids[0]).job_id)
    assert job.id != first_job
    assert job.user_id is not None


# ── Previews ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_is_previewed_with_its_sample(staff: FlaskClient) -> None:
    page = staff.get("/mails/previews?name=test-message&part=text").text
    assert "A test message from Belfry" in page
    html = staff.get("/mails/previews/test-message/html")
    assert "smtp.example.org" in html.text
    assert "sandbox" in html.headers["Content-Security-Policy"]
    assert staff.get("/mails/previews/test-message/text").mimetype == "text/plain"


def test_the_source_of_a_preview_is_that_of_a_mail_which_unsubscribes_no_one(staff: FlaskClient, app: Flask) -> None:
    page = staff.get("/mails/previews?name=notification-digest&part=source").text
    assert 'src="/mails/previews/notification-digest/source" sandbox' in page
    answer = staff.get("/mails/previews/notification-digest/source")
    assert answer.mimetype == "text/plain"
    for source in (answer.text, run(app, "preview", "notification-digest", "--part", "source").stdout):
        mail = message_from_string(source)
        assert (mail["To"], mail.get_content_type()) == ("ada@example.org", "multipart/alternative")
        assert mail["List-Unsubscribe"].endswith("/hidden>")
    assert message_from_string(staff.get("/mails/previews/account-deleted/source").text)["List-Unsubscribe"] is None


def test_a_preview_that_is_not_there_is_a_404_that_names_no_command(staff: FlaskClient) -> None:
    for part in ("html", "text", "source"):
        answer = staff.get(f"/mails/previews/nonsense/{part}")
        assert answer.status_code == 404
        assert "There is no mail with this name." in answer.text
        assert "flask" not in answer.text.lower()


def test_the_preview_of_the_desks_mail_goes_to_the_desk(staff: FlaskClient) -> None:
    assert "Sent to desk@example.org" in staff.get("/mails/previews/reservation-new/html").text
    assert "Sent to ada@example.org" in staff.get("/mails/previews/reservation-status/html").text


# ── The development inbox ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/dev/inbox", f"/dev/inbox/{KEY}", f"/dev/inbox/{KEY}/text"])
def test_in_development_everyone_on_this_machine_reads_the_inbox(
    app: Flask, client: FlaskClient, caught: str, path: str
) -> None:
    assert client.get(path).status_code == 302
    app.config["APP_ENV"] = "development"
    assert client.get(path).status_code == 200
    assert client.get(path, environ_base={"REMOTE_ADDR": "::1"}).status_code == 200
    elsewhere = client.get(path, environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert (elsewhere.status_code, "/login" in elsewhere.headers["Location"]) == (302, True)


def test_who_waits_for_a_code_is_led_to_the_inbox(app: Flask, client: FlaskClient) -> None:
    assert "/dev/inbox" not in client.get("/confirm").text
    app.config["APP_ENV"] = "development"
    assert 'href="/dev/inbox"' in client.get("/confirm").text


def test_the_inbox_lists_what_was_caught(staff: FlaskClient, caught: str) -> None:
    page = staff.get("/dev/inbox").text
    assert "Grüße" in page
    assert "ada@example.org, bob@example.org" in page


def test_an_empty_inbox_says_what_to_do(staff: FlaskClient) -> None:
    assert "No mail yet" in staff.get("/dev/inbox").text


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("html", f"/dev/inbox/{KEY}/html"),
        ("text", "The text"),
        ("headers", "X-Envelope-To"),
        ("source", "multipart/alternative"),
    ],
)
def test_each_part_of_a_caught_mail_can_be_read(staff: FlaskClient, caught: str, part: str, expected: str) -> None:
    assert expected in staff.get(f"/dev/inbox/{caught}?part={part}").text


def test_the_html_of_a_caught_mail_is_framed_safely(staff: FlaskClient, caught: str) -> None:
    frame = staff.get(f"/dev/inbox/{caught}/html")
    assert "The HTML" in frame.text
    assert "sandbox" in frame.headers["Content-Security-Policy"]


@pytest.mark.parametrize("key", ["nonsense", "..%2Fsecret", "../secret", "%2e%2e%2fsecret", f"{KEY}%00", f"{KEY}.eml"])
def test_a_key_names_nothing_but_a_caught_mail(staff: FlaskClient, caught: str, key: str) -> None:
    assert staff.get(f"/dev/inbox/{key}").status_code == 404
    assert staff.get(f"/dev/inbox/{key}/source").status_code == 404


def test_there_is_no_inbox_where_there_is_a_server(settings: dict[str, Any], tmp_path: Path) -> None:
    assert "inbox" in make_app(settings, tmp_path).blueprints
    assert "inbox" not in make_app(settings | {"MAIL_SERVER": "localhost"}, tmp_path).blueprints


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def run(app: Flask, *arguments: str) -> Any:
    return app.test_cli_runner().invoke(args=["mail", *arguments])


def test_the_list_command_filters_and_speaks_json(app: Flask, mail_ids: list[str]) -> None:
    assert mail_ids[0] in run(app, "list").stdout
    (shown,) = json.loads(run(app, "list", "--state", "skipped", "--kind", "test-message", "--json").stdout)
    assert shown["id"] == mail_ids[1]
    assert shown["state"] == "skipped"
    assert json.loads(run(app, "list", "--state", "sent", "--json").stdout) == []


def test_the_show_command_shows_one_mail(app: Flask, mail_ids: list[str]) -> None:
    assert "ada@example.org" in run(app, "show", mail_ids[0]).stdout
    shown = json.loads(run(app, "show", mail_ids[0], "--json").stdout)
    assert shown["recipients"] == ["ada@example.org"]
    assert set(shown) == set(EmailMessage.__table__.columns.keys()) - {"recipient"}


def test_the_resend_command_asks_for_a_new_job(app: Flask, session: Session, mail_ids: list[str]) -> None:
    session.execute(sa.update(JobRecord).values(state=JobState.FAILED))
    session.commit()
    assert run(app, "resend", mail_ids[0]).exit_code == 0
    assert session.scalar(sa.select(sa.func.count()).select_from(JobRecord)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nonsense"], "there is no mail with this id"),
        (["resend", "nonsense"], "there is no mail with this id"),
        (["preview", "nonsense"], "there is no mail named 'nonsense'"),
        (["test", "nonsense"], "not a valid email address"),
    ],
)
def test_an_error_of_a_command_is_one_line(app: Flask, arguments: list[str], message: str) -> None:
    result = run(app, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_the_preview_command_shows_each_part(app: Flask) -> None:
    assert "test-message" in run(app, "preview").stdout.split()
    assert "smtp.example.org" in run(app, "preview", "test-message").stdout
    assert "<html" in run(app, "preview", "test-message", "--part", "html").stdout
    assert run(app, "preview", "test-message", "--part", "subject").stdout == "A test message from Belfry\n"


class TestTheTestCommand:
    @pytest.fixture
    def settings(self, settings: dict[str, Any], smtp: SmtpServer) -> dict[str, Any]:
        return settings | smtp.settings

    def test_prints_the_reply_of_the_server(self, app: Flask, smtp: SmtpServer) -> None:
        assert run(app, "test", "ada@example.org").stdout == "127.0.0.1 accepted it: 250 2.0.0 taken\n"
        assert smtp.received[0].recipients == ("ada@example.org",)

    def test_sends_nothing_when_mail_is_switched_off(self, app: Flask, smtp: SmtpServer) -> None:
        app.config["MAIL_ENABLED"] = False
        assert "MAIL_ENABLED is false" in run(app, "test", "ada@example.org").stderr
        assert smtp.received == []

    def test_prints_why_the_server_refused(self, app: Flask, smtp: SmtpServer) -> None:
        smtp.fail("rcpt", "550 5.1.1 <ada@example.org>: unknown")
        result = run(app, "test", "ada@example.org")
        assert result.exit_code == 1
        assert "<ada@example.org>: unknown" in result.stderr

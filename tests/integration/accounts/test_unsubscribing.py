"""Leaving a kind of mail without a login: the headers of the mails, the page, and the one-click request (RFC 8058)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from app.accounts import Role, User, profile, unsubscribe_path
from app.accounts.models import Channel, MessagePreference
from flask_belfry.db import db
from flask_belfry.mail import close_connections, send_mail, send_notice
from tests.reservation_factories import log_in, make_school, make_user

ONE_CLICK = {"List-Unsubscribe": "One-Click"}
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings, smtp):
    return settings | smtp.settings | {"PUBLIC_URL": "https://belfry.example"}


@pytest.fixture
def app(app):
    yield app
    close_connections()


@pytest.fixture
def client(app, client):
    """A client without a login, whose forms are checked as in production."""
    app.config["WTF_CSRF_ENABLED"] = True
    return client


def preferences(user: User) -> list[tuple[str, Channel, bool]]:
    db.session.rollback()
    columns = MessagePreference.kind, MessagePreference.channel, MessagePreference.is_wanted
    return list(map(tuple, db.session.execute(sa.select(*columns).where(MessagePreference.user_id == user.id))))


def notify(user: User, key: str) -> None:
    send_notice(user.email, key, title="News", text="It rains.")
    db.session.commit()


def headers_of(mail) -> dict[str, str | None]:
    names = "List-Unsubscribe", "List-Unsubscribe-Post", "Precedence", "Auto-Submitted"
    return {name: mail.message[name] for name in names}


def test_a_mail_program_unsubscribes_with_one_click(app, work, smtp, client):
    user, other = make_user(), make_user()
    notify(user, "1")
    work()
    (mail,) = smtp.received
    headers = headers_of(mail)
    (url,) = re.fullmatch("<(https://belfry.example/unsubscribe/[^<>]+)>", headers["List-Unsubscribe"]).groups()
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert (headers["Precedence"], headers["Auto-Submitted"]) == (None, "auto-generated")
    assert url in mail.body("plain")
    assert url in mail.body("html")
    # One line each: DKIM signs them, and some mail programs do not unfold them.
    assert f"\r\nList-Unsubscribe: <{url}>\r\n".encode() in mail.content
    path = urlsplit(url).path
    # Mail scanners open links.
    for method in ("GET", "HEAD"):
        assert client.open(path, method=method).status_code == 200
    assert preferences(user) == []
    for options in ({"data": ONE_CLICK}, {"data": ONE_CLICK, "content_type": "multipart/form-data"}):
        answer = client.post(path, **options)
        assert answer.status_code == 200
        assert "You are unsubscribed" in answer.text
    assert preferences(user) == [("notice", Channel.MAIL, False)]
    assert preferences(other) == []
    notify(user, "2")
    work()
    assert len(smtp.received) == 1


@on_sqlite
def test_a_person_unsubscribes_and_subscribes_again_on_the_page(client):
    user = make_user()
    path = unsubscribe_path(user.id, "notice")
    base = {"base_url": "https://belfry.example"}
    page = client.get(path, **base)
    assert "There is other news" in page.text
    assert user.email not in page.text
    done = client.post(path, data=dict(re.findall(r'name="([^"]+)" value="([^"]*)"', page.text)), **base)
    undo = re.search(r'action="([^"]+/undo)"', done.text)[1]
    # The undo button is an ordinary form.
    assert client.post(undo, **base).status_code == 400
    assert preferences(user) == [("notice", Channel.MAIL, False)]
    token = re.search(r'name="csrf_token" value="([^"]+)"', done.text)[1]
    again = client.post(undo, data={"csrf_token": token}, headers={"Referer": base["base_url"]}, **base)
    assert "You are subscribed again" in again.text
    assert preferences(user) == []


@on_sqlite
def test_a_request_without_the_field_of_one_click_changes_nothing(client):
    user = make_user()
    assert client.post(unsubscribe_path(user.id, "notice")).status_code == 400
    assert client.post(unsubscribe_path(user.id, "notice"), data={"List-Unsubscribe": "x"}).status_code == 400
    assert preferences(user) == []


@on_sqlite
def test_a_link_that_was_not_signed_here_says_nothing(app, client):
    user, other = make_user(), make_user()
    good, of_other = unsubscribe_path(user.id, "notice"), unsubscribe_path(other.id, "notice")
    payload, _, signature = good.rpartition(".")
    mixed = f"{of_other.rpartition('.')[0]}.{signature}"
    app.config["SECRET_KEY"] = "another secret key of thirty-two characters"
    of_other_key = unsubscribe_path(user.id, "notice")
    app.config["SECRET_KEY"] = app.secret_key = "x" * 32
    dead = {
        "forged": f"{payload}.{'A' * len(signature)}",
        "of someone else": mixed,
        "truncated": good[:-3],
        "without a signature": payload,
        "nonsense": "/unsubscribe/nonsense",
        "long": "/unsubscribe/" + "a" * 2_000,
        "of another key": of_other_key,
        "of a user who never was": unsubscribe_path(999_999, "notice"),
        "of a kind that is always sent": unsubscribe_path(user.id, "password-reset"),
        "of a kind that does not exist any more": unsubscribe_path(user.id, "no-such-kind"),
        "of a type that does not exist any more": unsubscribe_path(user.id, "notification-weather"),
    }
    texts = set()
    for name, path in dead.items():
        for answer in (client.get(path), client.post(path, data=ONE_CLICK)):
            assert answer.status_code == 404, name
            texts.add(re.sub(r"<code.*?</code>", "", re.search(r"<main.*</main>", answer.text, re.DOTALL)[0]))
    assert len(texts) == 1
    assert preferences(user) == preferences(other) == []


@on_sqlite
def test_the_link_of_a_deleted_user_does_not_work(client):
    make_user(Role.ADMIN)
    user = make_user()
    path = unsubscribe_path(user.id, "notice")
    assert client.get(path).status_code == 200
    profile.delete(user)
    db.session.commit()
    assert client.get(path).status_code == client.post(path, data=ONE_CLICK).status_code == 404


@on_sqlite
def test_the_link_is_of_its_user_and_not_of_the_one_who_is_logged_in(app, client):
    user = make_user()
    admin = make_user(Role.ADMIN, school_id=make_school().id)
    app.config["WTF_CSRF_ENABLED"] = False
    log_in(client, admin)
    app.config["WTF_CSRF_ENABLED"] = True
    assert client.post(unsubscribe_path(user.id, "notice"), data=ONE_CLICK).status_code == 200
    assert preferences(user) == [("notice", Channel.MAIL, False)]
    assert preferences(admin) == []


@on_sqlite
def test_mails_that_are_always_sent_or_whose_recipient_has_no_account_have_no_link(app, work, smtp):
    send_notice("stranger@example.org", "1", title="News", text="It rains.")
    send_mail("test-message", make_user().email, "2", context={"server": "mail.example.org"})
    db.session.commit()
    work()
    assert [headers_of(mail)["List-Unsubscribe"] for mail in smtp.received] == [None, None]
    assert not any("nsubscribe" in mail.body("plain") + mail.body("html") for mail in smtp.received)

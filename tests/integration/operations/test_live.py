"""Polls of live pages: 304 while nothing has changed, one version for all users with the same view."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import time_machine
from flask import Flask, template_rendered
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.accounts import Role
from flask_belfry import live
from flask_belfry.mail import EmailMessage, MailRequest, MailState, send_mails
from flask_belfry.operations import queues
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.outbox.models import PauseKind
from tests.job_records import asked
from tests.notification_factories import sent
from tests.reservation_factories import log_in, make_school, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
# A client switches off the check of tokens, with which a login by form needs one.
pytestmark = [pytestmark, pytest.mark.usefixtures("client")]
LISTS = (
    *("/jobs/live", "/jobs/live?q=since%3A2h", "/jobs/queues/live", "/jobs/batches/live", "/schedule/live"),
    *("/jobs/failures/live", "/jobs/operations/live", "/jobs/workers/live"),
    *("/mails/live", "/mails/live?q=state%3Aqueued", "/notifications/live"),
)


@pytest.fixture
def rendered(app: Flask) -> Iterator[list[str | None]]:
    """The names of the templates that were rendered."""
    names: list[str | None] = []

    def see(_: object, template: object, **__: object) -> None:
        names.append(getattr(template, "name", None))

    with template_rendered.connected_to(see, app):
        yield names


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls after the fragments are too old; the clock's part of the version stays the same."""
    monkeypatch.setattr(live, "FRAGMENT_SECONDS", 0)
    monkeypatch.setattr(live, "CLOCK_SECONDS", 1e12)


@pytest.fixture
def admin(client: FlaskClient) -> FlaskClient:
    return log_in(client, make_user(Role.ADMIN))


@pytest.mark.usefixtures("uncached")
def test_an_unchanged_page_is_not_rendered_again(
    app: Flask, admin: FlaskClient, session: Session, rendered: list[str | None]
):
    job_id, notification = asked(session, "test.mark", number=1), sent()
    (mail_id,) = send_mails("test-message", [MailRequest(["ada@example.org"], "1", {"server": "mail.example.org"})])
    session.commit()
    details = f"/jobs/{job_id}/live", f"/notifications/{notification.id}/live", f"/mails/{mail_id}/live"
    for path in (*LISTS, *details):
        first = admin.get(path)
        assert first.status_code == 200
        rendered.clear()
        app.extensions["live_fragments"].clear()  # as in another process
        again = admin.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"]), path
        assert rendered == []


@pytest.mark.usefixtures("uncached")
def test_a_change_is_sent(admin: FlaskClient, session: Session):
    job_id = asked(session, "test.mark", number=1)
    for path in ("/jobs/live", "/jobs/queues/live", f"/jobs/{job_id}/live"):
        session.get_one(JobRecord, job_id).state = JobState.PENDING
        session.commit()
        first = admin.get(path)
        session.get_one(JobRecord, job_id).state = JobState.SCHEDULED
        session.commit()
        again = admin.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert again.status_code == 200
        assert again.headers["ETag"] != first.headers["ETag"]


@pytest.mark.usefixtures("uncached")
def test_a_change_of_a_mail_is_sent_to_its_page_and_to_the_list(admin: FlaskClient, session: Session):
    (mail_id,) = send_mails("test-message", [MailRequest(["ada@example.org"], "1", {"server": "mail.example.org"})])
    session.commit()
    paths = "/mails/live", f"/mails/{mail_id}/live"
    tags = [admin.get(path).headers["ETag"] for path in paths]
    session.get_one(EmailMessage, mail_id).state = MailState.SENT
    session.commit()
    for path, tag in zip(paths, tags, strict=True):
        again = admin.get(path, headers={"If-None-Match": tag})
        assert again.status_code == 200
        assert ">sent</" in again.text


@pytest.mark.usefixtures("uncached")
def test_the_ages_of_an_unchanged_page_are_those_of_its_request(
    clock: time_machine.Coordinates, admin: FlaskClient, session: Session
):
    asked(session, "test.mark", number=1)
    before, ages = admin.get("/jobs/live"), []
    clock.shift(20)
    after = admin.get("/jobs/live")
    for page in (before, after):
        (age,) = re.findall(r'data-age="(\d+)', page.text)
        ages.append(int(age))
    assert after.headers["ETag"] == before.headers["ETag"]
    assert ages[1] - ages[0] >= 20


def test_users_with_the_same_view_share_a_fragment_and_others_do_not(
    app: Flask, session: Session, monkeypatch: pytest.MonkeyPatch, rendered: list[str | None]
):
    monkeypatch.setattr(live, "FRAGMENT_SECONDS", 60)
    school, other = make_school(), make_school()
    staff = [log_in(app.test_client(), make_user(Role.STAFF, school_id=each.id)) for each in (school, school, other)]
    admin = log_in(app.test_client(), make_user(Role.ADMIN))
    abroad = log_in(app.test_client(), make_user(Role.STAFF, school_id=school.id, time_zone="Asia/Tokyo"))
    tags = [each.get("/jobs/live").headers["ETag"] for each in (*staff, admin, abroad)]
    assert tags[0] == tags[1]
    assert len(set(tags)) == 4
    assert rendered.count("operations/_jobs.html") == 4


def test_the_tokens_of_a_shared_fragment_are_each_users_own(app: Flask, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "FRAGMENT_SECONDS", 60)
    admins = [log_in(app.test_client(), make_user(Role.ADMIN)) for _ in range(2)]
    queues.pause(PauseKind.QUEUE, "bulk")
    fragments = []
    for token, admin in zip(("the-first", "the-second"), admins, strict=True):
        monkeypatch.setitem(app.jinja_env.globals, "csrf_token", lambda token=token: token)
        fragments.append(admin.get("/jobs/queues/live"))
    assert fragments[0].headers["ETag"] == fragments[1].headers["ETag"]
    assert 'name="csrf_token" value="the-first"' in fragments[0].text
    assert fragments[1].text == fragments[0].text.replace("the-first", "the-second")

"""The page of queues and pauses."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.core.clock import utc_now
from flask_belfry.execution import claim
from flask_belfry.outbox import JobPause
from tests.job_records import asked
from tests.reservation_factories import log_in, make_user

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PAGE = "/jobs/queues"
FORM = {"kind": "queue", "name": "bulk", "reason": "the server is moved", "duration": "", "until": ""}


@pytest.fixture
def admin(client):
    return log_in(client, make_user(Role.ADMIN, name="Ada", time_zone="Asia/Tokyo"))


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def pauses(session) -> list[JobPause]:
    session.rollback()
    return list(session.scalars(sa.select(JobPause), execution_options={"populate_existing": True}))


def test_queues_are_shown_with_their_jobs(admin, session):
    asked(session, "test.mark", number=1)
    for path in (PAGE, f"{PAGE}/live"):
        page = admin.get(path).text
        assert re.findall(r'id="queue-([^"]+)"', page) == ["mail", "default", "bulk", "heavy"]
        assert 'data-live="5"' in page
        assert "Nothing is paused." in page
        assert re.search(r'id="queue-bulk".*?data-label="waiting">1<', page, re.DOTALL)


def test_an_admin_pauses_and_resumes_a_queue(admin, session):
    id = asked(session, "test.mark", number=1)
    answer = admin.post(f"{PAGE}/pause", data=FORM, follow_redirects=True)
    assert "Queue bulk is paused." in answer.text
    assert "Queue bulk the server is moved By Ada, " in words(answer.text)
    assert "until it is resumed" in answer.text
    claim.claim(session, [id], "w")
    session.expire_all()
    # The job shows what it waits for.
    assert "The queue bulk is paused: the server is moved" in words(admin.get(f"/jobs/{id}").text)
    answer = admin.post(f"{PAGE}/resume", data={"kind": "queue", "name": "bulk"}, follow_redirects=True)
    assert "Queue bulk is resumed." in answer.text
    assert admin.post(f"{PAGE}/resume", data={"kind": "queue", "name": "bulk"}).status_code == 404
    assert admin.post(f"{PAGE}/resume", data={"kind": "lost"}).status_code == 422
    query = sa.select(AuditEntry.action).where(AuditEntry.subject_type == "queue")
    assert sorted(session.scalars(query)) == ["queue.pause", "queue.resume"]
    assert "queue.pause" in admin.get("/audit?group=queues").text


def test_a_pause_ends_after_a_duration_or_at_a_time_in_the_users_zone(admin, session):
    admin.post(f"{PAGE}/pause", data={**FORM, "duration": "3600"})
    (paused,) = pauses(session)
    assert paused.ends_at is not None
    assert paused.ends_at - paused.paused_at == timedelta(hours=1)
    year = utc_now().year + 1
    # The second pause of a name replaces the first one.
    admin.post(f"{PAGE}/pause", data={**FORM, "until": f"{year}-01-02T09:00"})
    (paused,) = pauses(session)
    assert paused.ends_at == datetime(year, 1, 2, 0, tzinfo=UTC)
    assert f"2 Jan {year}, 09:00" in admin.get(PAGE).text


def test_a_job_name_and_a_limit_key_are_paused(admin, session):
    for kind, name in (("job", "test.mark"), ("limit", "a//b:c d?e&f=<ü>")):
        answer = admin.post(f"{PAGE}/pause", data={**FORM, "kind": kind, "name": name}, follow_redirects=True)
        assert "is paused." in answer.text
    assert {pause.name for pause in pauses(session)} == {"test.mark", "a//b:c d?e&f=<ü>"}
    # The name of a job is not the id of one.
    assert 'href="/jobs/test.mark"' not in admin.get("/audit").text
    assert admin.post(f"{PAGE}/resume", data={"kind": "limit", "name": "a//b:c d?e&f=<ü>"}).status_code == 303


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "lost"}, "Select a queue, a job name or a limit key."),
        ({"name": "lost"}, "Must be one of mail, default, bulk, heavy, not &#39;lost&#39;."),
        ({"name": ""}, "Must be one of mail, default, bulk, heavy, not &#39;&#39;."),
        ({"reason": "r" * 201}, "Must be text of 1 to 200 characters"),
        ({"duration": "1"}, "Select one of the durations."),
        ({"duration": "3600", "until": "2031-01-02T09:00"}, "Select a duration or an end, not both."),
        ({"until": "tomorrow"}, "Invalid time; use YYYY-MM-DDTHH:MM."),
        ({"until": "2020-01-02T09:00"}, "Must be in the future"),
    ],
)
def test_an_invalid_form_is_shown_again_with_the_message_beside_its_field(admin, session, values, message):
    answer = admin.post(f"{PAGE}/pause", data={**FORM, **values})
    assert answer.status_code == 422
    assert f'<p class="field-errors" id="pause-{list(values)[-1]}-errors">{message}' in answer.text
    assert 'value="the server is moved"' in answer.text or "reason" in values
    assert pauses(session) == []


def test_the_link_of_a_queue_fills_the_form(admin):
    page = admin.get(f"{PAGE}?kind=job&name=test.mark").text
    assert '<option value="job" selected>' in page
    assert 'name="name" value="test.mark"' in page


def test_staff_see_the_pauses_and_members_do_not(app, admin, session):
    admin.post(f"{PAGE}/pause", data=FORM)
    staff = log_in(app.test_client(), make_user(Role.STAFF))
    page = staff.get(PAGE).text
    assert "the server is moved" in page
    assert "Only admins can pause and resume." in page
    assert "<form" not in page.partition('<div class="page-head">')[2]
    answer = staff.post(f"{PAGE}/resume", data={"kind": "queue", "name": "bulk"})
    assert answer.status_code == 403
    assert "Only admins can pause and resume queues, jobs and limits." in answer.text
    assert log_in(app.test_client(), make_user()).get(PAGE).status_code == 403


def test_the_forms_need_a_csrf_token(app, admin, session):
    app.config["WTF_CSRF_ENABLED"] = True
    assert admin.post(f"{PAGE}/pause", data=FORM).status_code == 400
    assert pauses(session) == []

"""The pages and the API of groups of failures: what each state shows, what users change, and the retry of a group."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.accounts import Role, User
from app.audit import AuditEntry
from flask_belfry.core.clock import utc_now
from flask_belfry.operations import BulkOperation, problems
from flask_belfry.operations.problems import Problem
from flask_belfry.outbox import JobRecord, JobState, enqueue
from flask_belfry.statistics import FailureGroup, FailureState
from tests.job_records import count, state_of
from tests.reservation_factories import bearer, log_in, make_school, make_user
from tests.statistics_factories import attempt, counted, record

LIST, API = "/jobs/failures", "/api/v1/jobs/failures"
CAUSE, OTHER = "a" * 16, "b" * 16
TRACEBACK = "Traceback (most recent call last):\n  File app/a.py, in send\nValueError: no such <room>"


@pytest.fixture
def user(client: FlaskClient, clock: object) -> User:
    return make_user(Role.ADMIN, name="Ada")


@pytest.fixture
def admin(client: FlaskClient, user: User) -> FlaskClient:
    return log_in(client, user)


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.replace("<wbr>", "")).split())


def fail(session: Session, at: datetime, cause: str = CAUSE, state: JobState = JobState.FAILED, **columns: Any) -> str:
    """Add a job with a failed attempt, as a worker writes it; return its id."""
    id = record(session, at, fingerprint=cause, state=state, error_type="ValueError", attempt=1, **columns)
    values = {"fingerprint": cause, "frame": "app/a.py:send", "error_type": "ValueError", "traceback": TRACEBACK}
    attempt(session, id, at, **values, error_message="no such <room>", worker="web-1:worker-2")
    session.commit()
    return id


def group(session: Session, cause: str = CAUSE) -> FailureGroup:
    """The group of a cause, as it is now."""
    session.rollback()
    query = sa.select(FailureGroup).where(FailureGroup.fingerprint == cause)
    found = session.scalars(query, execution_options={"populate_existing": True}).one()
    session.expunge(found)
    session.rollback()
    return found


def opened(session: Session, **columns: Any) -> str:
    """Fail three times, of which once three hours ago; return the id of the group."""
    fail(session, utc_now() - timedelta(hours=3), **columns)
    fail(session, utc_now() - timedelta(minutes=2), state=JobState.RETRYABLE, **columns)
    fail(session, utc_now() - timedelta(minutes=1), **columns)
    counted(session)
    return group(session).id


def test_without_failures_the_list_says_so(admin):
    assert "No open failures" in words(admin.get(LIST).text)
    assert "No group matches" in words(admin.get(f"{LIST}?state=ignored").text)


def test_a_group_is_a_row_with_its_counts_its_jobs_and_a_sparkline(admin, session, clock):
    id = opened(session)
    page = admin.get(LIST).text
    row = page[page.index(f'id="group-{id}"') :].split("</tr>")[0]
    assert f'href="{LIST}/{id}"' in row
    assert '<svg class="spark"' in row
    assert "no such &lt;room&gt;" in row
    shown = words(row)
    assert "new test.act System ValueError: no such &lt;room&gt; app/a.py:send · release " in shown
    assert " 2 3 3 2 1 " in shown
    assert group(session).state is FailureState.NEW, "viewing writes nothing"


def test_the_list_is_filtered_by_state_and_text_and_paged(admin, session, clock):
    now = utc_now()
    for number in range(27):
        cause = f"{number:016d}"
        values = {"fingerprint": cause, "job_name": f"test.job{number}", "error_type": "ValueError", "school_id": 0}
        at = now - timedelta(minutes=number)
        state = FailureState.IGNORED if number == 3 else FailureState.SEEN
        session.add(
            FailureGroup(**values, job_id="0" * 32, first_seen_at=at, last_seen_at=at, state=state, message="50 %")
        )
    session.commit()
    first = admin.get(LIST).text
    names = re.findall(r"test\.<wbr>(job\d+)</a>|test\.(job\d+)</a>", first)
    assert [a or b for a, b in names] == [f"job{n}" for n in range(26) if n != 3]
    (after,) = re.findall(r'rel="next" href="([^"]+)"', first)
    assert "job26" in words(admin.get(after.replace("&amp;", "&")).text)
    assert "test.job3 " in words(admin.get(f"{LIST}?state=ignored").text)
    assert "test.job7 " in words(admin.get(f"{LIST}?text=job7").text)
    assert "No group matches" in words(admin.get(f"{LIST}?text=job_").text)
    assert admin.get(f"{LIST}?state=nonsense").status_code == 200


def test_the_problem_of_failed_jobs_links_to_their_group_or_groups(app, admin, session, clock):
    def problem() -> Problem:
        (found,) = [each for each in problems.of_scope() if each.part == "jobs"]
        return found

    id = opened(session, error_message="no such <room>")
    assert problem().url == f"{LIST}/{id}"
    assert problem().remedy == (
        "such as: no such <room>; fix the cause, then retry them: `flask jobs retry --filter error:ValueError`"
    )
    fail(session, utc_now(), OTHER)
    counted(session)
    assert problem().url == f"{LIST}?text=ValueError"
    page = admin.get(problem().url).text
    assert f"group-{id}" in page
    assert f"group-{group(session, OTHER).id}" in page
    session.execute(sa.update(JobRecord).values(fingerprint=None))
    session.commit()
    assert problem().url == "/jobs/?state=failed"


def test_a_group_shows_its_latest_trace_and_links_to_its_jobs(admin, session, clock):
    page = admin.get(f"{LIST}/{opened(session)}").text
    assert "no such &lt;room&gt;" in page
    assert "File app/a.py, in send" in page
    assert f'href="/jobs/?q=fingerprint:{CAUSE}"' in page
    shown = words(page)
    assert "2 in 1 h, 3 in 24 h, 3 in 7 d" in shown
    assert "Failed 2 To be retried 1" in shown
    assert "Retry the failed jobs" in shown
    session.execute(sa.delete(JobRecord))
    session.commit()
    shown = words(admin.get(f"{LIST}/{group(session).id}").text)
    assert "Its job was pruned." in shown
    assert "Retry the failed jobs" not in shown


def test_an_unchanged_group_is_not_rendered_again(admin, session, clock):
    url = f"{LIST}/{opened(session)}/live"
    for live in (url, f"{LIST}/live"):
        first = admin.get(live)
        assert admin.get(live, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("see", FailureState.NEW, FailureState.SEEN),
        ("see", FailureState.REGRESSED, FailureState.SEEN),
        ("resolve", FailureState.SEEN, FailureState.RESOLVED),
        ("ignore", FailureState.NEW, FailureState.IGNORED),
        ("reopen", FailureState.IGNORED, FailureState.SEEN),
        ("reopen", FailureState.RESOLVED, FailureState.SEEN),
    ],
)
def test_a_user_changes_the_state_once(admin, user, session, clock, verb, before, after):
    id = opened(session)
    session.execute(sa.update(FailureGroup).values(state=before))
    session.commit()
    answer = admin.post(f"{LIST}/{id}/{verb}")
    assert (answer.status_code, answer.location) == (303, f"{LIST}/{id}")
    found = group(session)
    assert (found.state, found.user_id) == (after, user.id)
    assert found.changed_at is not None
    assert f"by {user.name}" in words(admin.get(f"{LIST}/{id}").text)
    page = admin.post(f"{LIST}/{id}/{verb}", follow_redirects=True).text
    again = "Only ignored and resolved groups can be reopened; this one is seen."
    assert (again if verb == "reopen" else f"The group is already {after.value}.") in words(page)
    entries = session.execute(sa.select(AuditEntry.action, AuditEntry.details, AuditEntry.subject_id)).all()
    assert [entry for entry in entries if entry.action.startswith("failure_group.")] == [
        (f"failure_group.{verb}", {"job": "test.act", "error": "ValueError"}, id)
    ]


def test_a_resolved_group_that_fails_again_is_shown_as_regressed(admin, session, clock):
    id = opened(session)
    admin.post(f"{LIST}/{id}/resolve")
    assert "No open failures" in words(admin.get(LIST).text)
    clock.shift(30)
    fail(session, utc_now())
    counted(session)
    assert "regressed test.act" in words(admin.get(LIST).text)


def test_staff_see_the_groups_of_their_school_and_change_them_only_when_allowed(clock, client, session):
    school = make_school()
    opened(session)
    fail(session, utc_now(), OTHER, school_id=school.id)
    counted(session)
    of_system, own = group(session).id, group(session, OTHER).id
    staff = log_in(client, make_user(Role.STAFF, school_id=school.id, may_operate=False))
    page = staff.get(LIST).text
    assert f"group-{own}" in page
    assert f"group-{of_system}" not in page
    assert staff.get(f"{LIST}/{of_system}").status_code == 404
    shown = words(staff.get(f"{LIST}/{own}").text)
    assert "Resolve" not in shown
    assert "Retry the failed jobs" not in shown
    assert staff.post(f"{LIST}/{own}/resolve").status_code == 403
    assert group(session, OTHER).state is FailureState.NEW


def test_the_jobs_of_a_group_are_retried_with_a_canary_and_it_is_seen(admin, session, work, clock):
    ids = [enqueue("test.fail") for _ in range(7)]
    session.commit()
    work()
    counted(session)
    found = session.scalars(sa.select(FailureGroup)).one()
    id, cause = found.id, found.fingerprint
    clock.shift(1)
    answer = admin.post(f"{LIST}/{id}/retry", data={"canary": "5", "per_second": "5"})
    operation = session.scalars(sa.select(BulkOperation)).one()
    assert answer.location == f"/jobs/operations/{operation.id}"
    assert (operation.group_id, operation.canary, operation.per_second, operation.total) == (id, 5, 5.0, 7)
    assert group(session, cause).state is FailureState.SEEN
    work()
    session.rollback()
    assert session.get_one(BulkOperation, operation.id, populate_existing=True).changed == 5
    assert "5 of 7 jobs retried" in words(admin.get(f"{LIST}/{id}").text)
    assert sorted(map(str, (state_of(session, each) for each in ids))) == ["failed"] * 7, "the others wait for these"


def test_a_group_whose_jobs_were_retried_says_so_and_asks_to_be_resolved(app, admin, session, work, clock):
    repaired = "No job of this group is failed or waits for another attempt. Resolve it:"
    id = enqueue("test.mark", number=10)
    session.commit()
    work()
    counted(session)
    found = session.scalars(sa.select(FailureGroup)).one()
    page = f"{LIST}/{found.id}"
    assert repaired not in words(admin.get(page).text)
    clock.shift(1)
    admin.post(f"{page}/retry", data={"canary": "", "per_second": ""})
    session.execute(sa.update(JobRecord).where(JobRecord.id == id).values(args={"number": 1}))
    session.commit()
    operation = session.scalars(sa.select(BulkOperation)).one().id
    work()
    shown = words(admin.get(page).text)
    assert repaired in shown
    assert "1 of 1 jobs retried 1 ended, 0 waiting or running, 0 failed again" in shown
    shown = words(admin.get(f"/jobs/operations/{operation}").text)
    assert "Retry ValueError in test.mark" in shown
    assert "All of these jobs have ended, and none has failed again. Show the group of failures" in shown
    assert "Retry ValueError in test.mark" in words(admin.get("/jobs/operations").text)
    admin.post(f"{page}/resolve")
    assert repaired not in words(admin.get(page).text)


def test_the_jobs_of_all_schools_that_failed_with_one_cause_are_retried_together(client, admin, session, clock):
    school = make_school()
    opened(session)
    fail(session, utc_now(), school_id=school.id)
    counted(session)
    query = sa.select(FailureGroup.id).where(FailureGroup.school_id == school.id)
    page = admin.get(f"{LIST}/{session.scalars(query).one()}").text
    assert "Jobs of other schools have failed with the same cause: 2" in words(page)
    (link,) = re.findall(r'href="(/jobs/operations/new[^"]+)"', page)
    clock.shift(1)
    preview = admin.get(link.replace("&amp;", "&")).text
    assert re.findall(r'name="(canary|per_second)" value="([^"]*)"', preview) == [("canary", "5"), ("per_second", "5")]
    assert "Retry 3 jobs" in words(preview)


@pytest.mark.parametrize(
    ("canary", "per_second", "problem"),
    [("five", "5", "Must be a number."), ("101", "5", "Must be from 1 to 100."), ("5", "0", "Must be from 0.01")],
)
def test_invalid_numbers_of_a_retry_are_named(admin, session, clock, canary, per_second, problem):
    id = opened(session)
    page = admin.post(f"{LIST}/{id}/retry", data={"canary": canary, "per_second": per_second})
    assert page.status_code == 422
    assert problem in words(page.text)
    assert f'value="{canary}"' in page.text
    assert count(session, BulkOperation) == 0


def test_a_group_without_failed_jobs_cannot_be_retried(admin, session, clock):
    fail(session, utc_now(), state=JobState.RETRYABLE)
    counted(session)
    page = admin.post(f"{LIST}/{group(session).id}/retry", data={"canary": "5", "per_second": "5"})
    assert page.status_code == 422
    assert "No job can be retried." in words(page.text)
    assert group(session).state is FailureState.NEW


def test_the_api_lists_shows_and_changes_groups(client, user, session, clock):
    id, headers = opened(session), bearer(user)
    (item,) = client.get(API, headers=headers).json["items"]
    assert {name: item[name] for name in ("id", "state", "job", "error_type", "frame", "school", "fingerprint")} == {
        "id": id,
        "state": "new",
        "job": "test.act",
        "error_type": "ValueError",
        "frame": "app/a.py:send",
        "school": None,
        "fingerprint": CAUSE,
    }
    assert [item[f"failures{time}"] for time in ("", "_1h", "_24h", "_7d")] == [3, 2, 3, 3]
    assert (item["failed_jobs"], item["waiting_jobs"]) == (2, 1)
    shown = client.get(f"{API}/{id}", headers=headers).json
    assert shown["attempt"]["traceback"] == TRACEBACK
    assert client.post(f"{API}/{id}/resolve", headers=headers).json["state"] == "resolved"
    refused = client.post(f"{API}/{id}/resolve", headers=headers)
    assert (refused.status_code, refused.json["message"]) == (409, "The group is already resolved.")
    assert client.get(API, headers=headers).json["items"] == []
    assert [each["id"] for each in client.get(f"{API}?state=resolved", headers=headers).json["items"]] == [id]
    assert client.post(f"{API}/{id}/reopen", headers=headers).json["state"] == "seen"
    clock.shift(1)
    begun = client.post(f"{API}/{id}/retry", headers=headers, json={"per_second": None}).json
    operation = session.get_one(BulkOperation, begun["operation_id"])
    assert (operation.canary, operation.per_second, operation.total, begun["jobs"]) == (5, None, 2, 2)

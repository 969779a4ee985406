"""The pages of batches, on both databases."""

from __future__ import annotations

import re
from collections import Counter
from uuid import UUID

import pytest
import sqlalchemy as sa

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.changes import Subject
from flask_belfry.operations.batch_views import progress_of
from flask_belfry.outbox import JobRecord, JobState, batch, enqueue, enqueue_many
from flask_belfry.outbox.requests import JobRequest
from tests.job_records import state_of, working_with_sweeps
from tests.reservation_factories import log_in, make_user

LIST = "/jobs/batches"


@pytest.fixture
def staff(client):
    return log_in(client, make_user(Role.ADMIN))


@pytest.fixture
def work(work, session):
    return working_with_sweeps(work, session)


def make_batch(session, name: str = "sending", **values) -> tuple[str, list[str]]:
    """A committed batch of three jobs, one of which fails."""
    with batch(name, **values) as opened:
        ids = [enqueue("test.echo"), enqueue("test.echo"), enqueue("test.fail")]
    session.commit()
    return opened.id, ids


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_batches_are_listed_with_their_progress(staff, session, work):
    assert "No batches yet" in staff.get(LIST).text
    finished, _ = make_batch(session)
    work()
    opened, _ = make_batch(session, "still.open", subject=Subject("ticket", 7))
    page = staff.get(LIST).text
    assert re.findall(r'id="batch-([^"]+)"', page) == [opened, finished]
    assert "2 completed 1 failed 3 /3" in words(page)
    assert "3 waiting 0 /3" in words(page)
    for path in (f"{LIST}?show=open", f"{LIST}/live?show=open"):
        assert re.findall(r'id="batch-([^"]+)"', staff.get(path).text) == [opened]
    staff.post(f"{LIST}/{opened}/cancel")
    assert "No open batches" in staff.get(f"{LIST}?show=open").text


def test_a_batch_is_shown_with_its_jobs_and_errors_and_what_follows(staff, session, work):
    id, ids = make_batch(session, then="test.finish")
    successor = enqueue("test.touch", after=id)
    session.commit()
    page = staff.get(f"{LIST}/{id}").text
    assert 'data-live="2"' in page
    assert "0 of 3 jobs ended" in words(page)
    assert "when all jobs have ended" in page
    assert f'href="/jobs/{successor}"' in page
    assert sorted(re.findall(r'id="job-([^"]+)"', page)) == sorted(ids)
    assert "Retry" not in page
    work()
    page = staff.get(f"{LIST}/{id}").text
    assert "data-live" not in page.partition("<main")[2]
    assert "3 of 3 jobs ended" in words(page)
    assert "ValueError as it was asked to 1 job" in words(page)
    then = session.scalars(sa.select(JobRecord.id).where(JobRecord.name == "test.finish")).one()
    assert f'href="/jobs/{then}"' in page
    for path in (f"{LIST}/{id}?state=failed", f"{LIST}/{id}/live?state=failed"):
        assert re.findall(r'id="job-([^"]+)"', staff.get(path).text) == [ids[2]]
    assert "No job is in this state." in staff.get(f"{LIST}/{id}?state=running").text
    assert staff.get(f"{LIST}/{id}?state=%00").status_code == 200


def test_a_batch_is_cancelled_and_retried(staff, session, work):
    id, ids = make_batch(session)
    answer = staff.post(f"{LIST}/{id}/cancel", follow_redirects=True)
    assert "3 jobs cancelled." in answer.text
    assert staff.post(f"{LIST}/{id}/cancel").status_code == 409
    assert "0 jobs enqueued again." in staff.post(f"{LIST}/{id}/retry", follow_redirects=True).text
    answer = staff.post(f"{LIST}/{id}/retry", data={"cancelled": "1"}, follow_redirects=True)
    assert "3 jobs enqueued again." in answer.text
    assert [state_of(session, each) for each in ids] == [JobState.PENDING] * 3
    work()
    assert "1 job enqueued again." in staff.post(f"{LIST}/{id}/retry", follow_redirects=True).text
    actions = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.subject_id == id)).all()
    assert sorted(actions) == ["batch.cancel", "batch.retry", "batch.retry"]
    # The audit log leads to the batch.
    assert f'href="{LIST}/{id}"' in staff.get("/audit?group=jobs").text


def test_a_job_leads_to_its_batch_its_predecessor_and_its_successors(staff, session):
    id, (first, *_) = make_batch(session)
    second = enqueue("test.echo", after=first)
    of_batch = enqueue("test.echo", after=id)
    session.commit()
    page = staff.get(f"/jobs/{first}").text
    assert f'href="{LIST}/{id}"' in page
    assert f'href="/jobs/{second}"' in page
    assert f'href="/jobs/{first}"' in staff.get(f"/jobs/{second}").text
    assert f'href="{LIST}/{id}"' in staff.get(f"/jobs/{of_batch}").text
    assert len(re.findall(r'id="job-[^"]+"', staff.get(f"/jobs/?batch={id}").text)) == 3
    assert staff.get("/jobs/?batch=nonsense").status_code == 200


def test_an_unknown_batch_is_not_found(staff):
    assert staff.get(f"{LIST}/{UUID(int=7)}").status_code == 404


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_statements_of_the_pages_do_not_depend_on_the_numbers_of_batches_and_jobs(staff, session, statements):
    def count(path: str) -> int:
        session.expunge_all()
        statements.clear()
        assert staff.get(path).status_code == 200
        return len(statements)

    small, _ = make_batch(session)
    few = [count(LIST), count(f"{LIST}/{small}")]
    for _ in range(10):
        make_batch(session)
    with batch("many") as many:
        enqueue_many("test.touch", [JobRequest({"number": number}) for number in range(100)])
    session.commit()
    assert [count(LIST), count(f"{LIST}/{many.id}")] == few


@pytest.mark.parametrize(
    ("counts", "segments"),
    [
        ({}, []),
        ({"pending": 3}, []),
        ({"completed": 3}, [("completed", 0.0, 1000.0)]),
        ({"completed": 1, "failed": 1, "queued": 2}, [("completed", 0.0, 250.0), ("failed", 250.0, 250.0)]),
        # A few are visible among many, and the others make way.
        ({"completed": 99_999, "failed": 1}, [("completed", 0.0, 992.0), ("failed", 992.0, 8)]),
        ({"completed": 99_999, "pending": 1}, [("completed", 0.0, 992.0)]),
    ],
)
def test_the_bar_shows_every_state_and_is_never_longer_than_its_frame(counts, segments):
    assert progress_of(Counter({JobState(name): number for name, number in counts.items()})).segments == segments

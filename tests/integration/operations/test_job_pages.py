"""The jobs pages, on both databases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.accounts import Role
from app.audit import AuditEntry
from flask_belfry.changes import Actor, StatusChange, use_actor
from flask_belfry.db.columns import new_id
from flask_belfry.mail import EmailMessage
from flask_belfry.operations.services import Attempt, attempts_of
from flask_belfry.operations.timeline import life_cycle, next_attempts
from flask_belfry.operations.views import running_span, waiting_span
from flask_belfry.outbox import JobAttempt, JobLog, JobRecord, JobState, enqueue, job
from flask_belfry.outbox.models import AttemptOutcome, BlockedBy
from flask_belfry.outbox.registry import forget
from flask_belfry.search import running
from tests.job_records import state_of
from tests.reservation_factories import log_in, make_school, make_user

CREATED = datetime(2030, 5, 6, 10, tzinfo=UTC)


def minute(number: int) -> datetime:
    """The time so many minutes after the job was created."""
    return CREATED + timedelta(minutes=number)


def job_record(state: JobState = JobState.PENDING, **values: Any) -> JobRecord:
    """A record that no worker runs."""
    defaults = {"name": "a.job", "queue": "default", "args": {}, "timeout_seconds": 60, "created_at": CREATED}
    return JobRecord(**{**defaults, "state": state, **values})


@pytest.fixture
def staff(client: FlaskClient) -> FlaskClient:
    """A browser in which staff is logged in."""
    return log_in(client, make_user(Role.ADMIN))


@pytest.fixture
def secret_job() -> Iterator[str]:
    """A job with a secret argument."""

    @job("a.secret_job", secrets=("token",))
    def secret_job(session: Session, token: str, rows: int) -> None:
        """Do nothing."""

    yield secret_job.name
    forget(secret_job.name)


@pytest.mark.parametrize("query", ["text=%00", "name=%00", "queue=%00", "state=%00", "state=zzz", "text=%1B%00"])
def test_an_invalid_filter_is_ignored(staff: FlaskClient, session: Session, query: str) -> None:
    job = job_record()
    session.add(job)
    session.commit()
    for path in ("/jobs/", "/jobs/live"):
        answer = staff.get(f"{path}?{query}")
        assert answer.status_code == 200
        assert f'id="job-{job.id}"' in answer.text


def test_a_control_character_within_a_filter_is_left_out(staff: FlaskClient, session: Session) -> None:
    job = job_record()
    session.add(job)
    session.commit()
    assert f'id="job-{job.id}"' in staff.get("/jobs/?text=a.%00job&queue=def%00ault").text


def test_attempts_are_numbered_in_their_order_whatever_a_retry_counts(staff: FlaskClient, session: Session) -> None:
    job = job_record(JobState.FAILED, finished_at=minute(9), error_type="Boom")
    session.add(job)
    session.flush()
    for start in (1, 5):
        session.add(
            JobAttempt(
                job_id=job.id, number=1, outcome=AttemptOutcome.FAILED, started_at=minute(start), traceback="Traceback"
            )
        )
        session.flush()
    session.commit()
    page = staff.get(f"/jobs/{job.id}").text
    assert re.findall(r"<strong>#(\d+)</strong>", page) == ["2", "1"]
    assert re.findall(r'id="((?:attempt|traceback)-[^"]+)"', page) == [
        "attempt-2",
        "traceback-2",
        "attempt-1",
        "traceback-1",
    ]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (job_record(), ["created", "queued –", "started –", "finished –"]),
        (
            job_record(JobState.SCHEDULED, scheduled_at=minute(9)),
            ["created", "due", "queued –", "started –", "finished –"],
        ),
        (
            job_record(JobState.QUEUED, scheduled_at=minute(9), enqueued_at=minute(10)),
            ["created", "due", "queued", "started –", "finished –"],
        ),
        (
            job_record(JobState.RUNNING, scheduled_at=minute(9), enqueued_at=minute(10), started_at=minute(11)),
            ["created", "queued", "started", "finished –"],
        ),
        # Claimed before its arrival at the broker was on record.
        (
            job_record(JobState.COMPLETED, started_at=minute(1), finished_at=minute(2)),
            ["created", "started", "completed"],
        ),
        (
            job_record(JobState.RETRYABLE, enqueued_at=minute(1), started_at=minute(2), scheduled_at=minute(5)),
            ["created", "queued", "started", "next attempt"],
        ),
        # Snoozed.
        (
            job_record(JobState.SCHEDULED, enqueued_at=minute(1), started_at=minute(2), scheduled_at=minute(5)),
            ["created", "queued", "started", "next attempt"],
        ),
        (
            job_record(JobState.QUEUED, enqueued_at=minute(5), started_at=minute(2), scheduled_at=minute(5)),
            ["created", "started", "queued", "finished –"],
        ),
        (job_record(JobState.CANCELLED, scheduled_at=minute(9), finished_at=minute(3)), ["created", "cancelled"]),
        (
            job_record(JobState.FAILED, scheduled_at=minute(1), started_at=minute(2), finished_at=minute(3)),
            ["created", "started", "failed"],
        ),
    ],
    ids=lambda value: value.state.value if isinstance(value, JobRecord) else "",
)
def test_the_life_cycle_never_contradicts_itself(record: JobRecord, expected: list[str]) -> None:
    steps = life_cycle(record, minute(60))
    assert [step.label if step.at else f"{step.label} –" for step in steps] == expected
    times = [step.at for step in steps if step.at]
    assert times == sorted(times)


def test_the_timeline_has_each_attempt_snooze_and_interruption(staff: FlaskClient, session: Session) -> None:
    job = job_record(JobState.FAILED, attempt=2, enqueued_at=minute(1), started_at=minute(9), finished_at=minute(10))
    session.add(job)
    session.flush()
    ends = (
        (2, 3, AttemptOutcome.SNOOZED, "Snooze", "The server asks for a minute"),
        (4, 5, AttemptOutcome.INTERRUPTED, "InterruptedError", "signal 9"),
        (6, 7, AttemptOutcome.TIMED_OUT, "JobTimeoutError", "60 s"),
        (9, 10, AttemptOutcome.FAILED, "Boom", "no"),
    )
    for start, end, outcome, error_type, message in ends:
        times = {"started_at": minute(start), "finished_at": minute(end)}
        error = {"error_type": error_type, "error_message": message}
        session.add(JobAttempt(job_id=job.id, number=1, outcome=outcome, worker="w", **times, **error))
        session.flush()
    session.commit()
    steps = life_cycle(job, minute(60), attempts_of(job))
    assert [(step.label, step.at, step.note) for step in steps] == [
        ("created", minute(0), ""),
        ("queued", minute(1), ""),
        ("started", minute(2), "w"),
        ("snoozed", minute(3), "The server asks for a minute"),
        ("started", minute(4), "w"),
        ("interrupted", minute(5), "signal 9"),
        ("started", minute(6), "w"),
        ("timed out", minute(7), "JobTimeoutError"),
        ("started", minute(9), "w"),
        ("failed", minute(10), ""),
    ]
    page = staff.get(f"/jobs/{job.id}").text
    assert "cycle-long" in page
    assert "The server asks for a minute" in page


def test_the_middle_of_a_long_timeline_is_left_out() -> None:
    job = job_record(JobState.SCHEDULED, enqueued_at=minute(1), started_at=minute(61), scheduled_at=minute(70))
    snooze = {"outcome": "snoozed", "worker": None, "host": None}
    attempts = [
        Attempt(1, started_at=minute(each), finished_at=minute(each + 1), **snooze) for each in range(61, 1, -2)
    ]
    steps = life_cycle(job, minute(69), attempts)
    assert len(steps) == 20
    assert [step.left_out for step in steps if step.left_out] == [63 - 20]
    assert (steps[3].at, steps[4].at, steps[-1].label) == (minute(4), minute(48), "next attempt")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"state": JobState.PENDING}, [(2, 60), (3, 120)]),
        ({"state": JobState.RUNNING, "attempt": 1}, [(2, 60), (3, 120)]),
        ({"state": JobState.RETRYABLE, "attempt": 1}, [(3, 120)]),
        ({"state": JobState.RUNNING, "attempt": 3}, []),
        ({"state": JobState.COMPLETED, "attempt": 1, "finished_at": CREATED}, []),
    ],
)
def test_the_attempts_that_follow_are_those_of_the_policy(
    app: Flask, values: dict[str, Any], expected: list[tuple[int, float]]
) -> None:
    job = job_record(**{"name": "test.act", "max_attempts": 3, "attempt": 0, **values})
    assert [(each.number, each.seconds) for each in next_attempts(job)] == expected


def test_a_job_shows_why_it_exists_and_its_mails(client: FlaskClient, staff: FlaskClient, session: Session) -> None:
    parent = job_record(name="a.parent")
    session.add(parent)
    session.flush()
    with use_actor(Actor(job_id=parent.id)):
        child_id = enqueue("test.echo")
    change = StatusChange(subject_type="ticket", subject_id="1", field="status", old="open", new="done")
    session.add(change)
    session.flush()
    child = session.get_one(JobRecord, child_id)
    child.change_id = change.id
    to = {"recipients": ["a@example.org"], "recipient": "a@example.org"}
    mail = EmailMessage(
        unique_key="a", message_id="<a@b>", kind="a-mail", context={}, state="sent", job_id=child_id, **to
    )
    session.add(mail)
    session.commit()
    page = staff.get(f"/jobs/{child_id}").text
    assert f'<a class="mono" href="/jobs/{parent.id}">a.<wbr>parent</a>' in page
    assert "status changed from open to done" in page
    assert f'src="/mails/{mail.id}/html" sandbox="allow-popups allow-popups-to-escape-sandbox"' in page


def test_a_scheduled_job_is_run_now(staff: FlaskClient, session: Session, work: Any) -> None:
    id = enqueue("test.echo", delay=3600)
    session.commit()
    assert "Run now" in staff.get(f"/jobs/{id}").text
    assert "enqueued to run now" in staff.post(f"/jobs/{id}/run", follow_redirects=True).text
    work()
    assert state_of(session, id) is JobState.COMPLETED
    assert "Only jobs that wait" in staff.post(f"/jobs/{id}/run", follow_redirects=True).text
    assert session.scalars(sa.select(AuditEntry.action).where(AuditEntry.subject_id == id)).all() == ["job.run"]


def test_what_is_only_planned_is_not_done(staff: FlaskClient, session: Session) -> None:
    job = job_record(JobState.SCHEDULED, scheduled_at=minute(9))
    assert [step.is_done for step in life_cycle(job, minute(1))] == [True, False, False, False, False]
    session.add(job)
    session.commit()
    assert staff.get(f"/jobs/{job.id}").text.count("cycle-label") == 5


def test_a_tab_without_jobs_is_not_highlighted(staff: FlaskClient, session: Session) -> None:
    counts = re.compile(r'class="chip tab state-failed".*?<span class="chip-count"( data-zero)?>([\d,]+)<', re.DOTALL)
    assert counts.findall(staff.get("/jobs/").text) == [(" data-zero", "0")]
    session.add(job_record(JobState.FAILED))
    session.commit()
    assert counts.findall(staff.get("/jobs/").text) == [("", "1")]


def test_a_subject_with_a_name_has_no_number_sign(staff: FlaskClient, session: Session) -> None:
    session.add(job_record(subject_type="schedule", subject_id="reservations.sweep_overdue"))
    session.add(job_record(subject_type="Reservation", subject_id="7"))
    session.commit()
    page = staff.get("/jobs/").text.replace("<wbr>", "")
    assert "schedule reservations.sweep_overdue" in page
    assert "reservation #7" in page


def test_staff_see_the_number_of_hidden_system_jobs_and_nothing_of_other_schools(
    client: FlaskClient, session: Session
) -> None:
    other = make_school()
    user = make_user(Role.STAFF)
    session.add_all([job_record(school_id=None), job_record(JobState.FAILED, school_id=None, error_message="secret")])
    session.add_all([job_record(school_id=other.id) for _ in range(3)])
    session.add(job_record(school_id=user.school_id))
    session.commit()
    log_in(client, user)
    note = re.compile(r"([\d,]+) system jobs? (?:is|are) visible to admins only")
    found = {
        query: note.findall(client.get(f"/jobs/{query}").text)
        for query in ("", "live", "?state=failed", "?state=completed", "?name=other", "?text=secret", "?text=none")
    }
    assert found == {
        "": ["2"],
        "live": ["2"],
        "?state=failed": ["1"],
        "?state=completed": [],
        "?name=other": [],
        # No matter what a hidden job says.
        "?text=secret": ["2"],
        "?text=none": ["2"],
    }
    log_in(admin := client.application.test_client(), make_user(Role.ADMIN))
    assert note.findall(admin.get("/jobs/").text) == []


def rows_of(page: str) -> list[str]:
    """The ids of the jobs on a page, in their order."""
    return re.findall(r'id="job-([^"]+)"', page)


def test_the_search_is_in_the_url_and_in_its_field_and_the_tabs_change_it(staff: FlaskClient, session: Session) -> None:
    failed, other = job_record(JobState.FAILED, name="mail.deliver"), job_record(name="mail.deliver")
    session.add_all([failed, other, job_record(JobState.FAILED)])
    session.commit()
    for path in ("/jobs/", "/jobs/live"):
        page = staff.get(path, query_string={"q": "state:failed name:mail.*"}).text
        assert rows_of(page) == [failed.id]
        assert "1 job matches." in page
        tabs = re.findall(r'<a class="chip tab[^"]*" href="([^"]+)"[^>]*?( aria-current="true")?>(\w+)<', page)
        links = {label: (parse_qs(urlsplit(unescape(url)).query), current) for url, current, label in tabs}
        assert links["All"] == ({"q": ["name:mail.*"]}, "")
        assert links["failed"] == ({"q": ["name:mail.* state:failed"]}, ' aria-current="true"')
        assert links["pending"] == ({"q": ["name:mail.* state:pending"]}, "")
    page = staff.get("/jobs/", query_string={"q": "state:failed name:mail.*"}).text
    assert 'name="q" value="state:failed name:mail.*"' in page


def test_the_parameters_of_links_are_terms_of_the_search(staff: FlaskClient, session: Session) -> None:
    failed = job_record(JobState.FAILED, name="mail.deliver", queue="mail")
    session.add_all([failed, job_record(queue="mail"), job_record(JobState.FAILED)])
    session.commit()
    page = staff.get("/jobs/?state=failed&queue=mail&name=mail.deliver").text
    assert rows_of(page) == [failed.id]
    assert 'name="q" value="state:failed name:mail.deliver queue:mail"' in page
    # The form would send them a second time.
    assert '<input type="hidden" name="state"' not in page


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("stat:failed", "The term stat:failed is invalid: the keys are state, name"),
        ("state:lost", "The term state:lost is invalid: valid is one of blocked, pending"),
        ('"<b>', "The term &#34;&lt;b&gt; is invalid"),
    ],
)
def test_an_invalid_term_is_named_beside_the_search(
    staff: FlaskClient, session: Session, query: str, message: str
) -> None:
    session.add(job_record())
    session.commit()
    answer = staff.get("/jobs/", query_string={"q": query})
    assert answer.status_code == 422
    assert message in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert rows_of(answer.text) == []
    # htmx shows a response only without an error.
    assert staff.get("/jobs/", query_string={"q": query}, headers={"HX-Request": "true"}).status_code == 200
    assert staff.get("/jobs/live", query_string={"q": query}).status_code == 200


def test_an_invalid_cursor_is_refused(staff: FlaskClient) -> None:
    assert staff.get("/jobs/?cursor=nonsense").status_code == 422


def test_the_list_says_back_to_when_it_was_searched_and_continues(
    staff: FlaskClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WINDOW", 2)
    old = job_record(id=new_id(minute(1)), worker="w1")
    session.add_all([old, *(job_record(id=new_id(minute(number)), worker="w2") for number in (2, 3))])
    session.commit()
    page = staff.get("/jobs/", query_string={"q": "worker:w1"}).text
    assert rows_of(page) == []
    assert "No jobs match so far" in page
    assert re.search(r"Searched back to Mon 6 May 2030, \d\d:02\.", page)
    (older,) = re.findall(r'<a href="([^"]+)">Search older jobs', page)
    page = staff.get(unescape(older)).text
    assert rows_of(page) == [old.id]
    assert "Searched back to" not in page


def test_a_job_shows_how_long_it_waited_and_ran_and_its_worker(staff: FlaskClient, session: Session) -> None:
    times = {"enqueued_at": minute(1), "started_at": minute(2), "finished_at": minute(2) + timedelta(seconds=3)}
    session.add(job_record(JobState.COMPLETED, worker="host-1.7", **times))
    session.commit()
    page = staff.get("/jobs/").text
    cells = dict(re.findall(r'data-label="(waited|ran|worker)"[^>]*>(.*?)</td>', page))
    assert cells == {"waited": "2 min 00 s", "ran": "3.0 s", "worker": "host-1.7"}


@pytest.mark.parametrize(
    ("record", "waited", "ran"),
    [
        (job_record(), (0, None), None),
        (job_record(JobState.QUEUED, enqueued_at=minute(1)), (0, None), None),
        (job_record(JobState.SCHEDULED, scheduled_at=minute(9)), None, None),
        (job_record(JobState.BLOCKED), None, None),
        (job_record(JobState.RUNNING, enqueued_at=minute(1), started_at=minute(2)), (0, 2), (2, None)),
        (job_record(JobState.COMPLETED, started_at=minute(2), finished_at=minute(3)), (0, 2), (2, 3)),
        # Due later.
        (
            job_record(JobState.FAILED, scheduled_at=minute(5), started_at=minute(6), finished_at=minute(7)),
            (5, 6),
            (6, 7),
        ),
        # Waits for its next attempt: the time of that one is not one at which it waited.
        (job_record(JobState.RETRYABLE, started_at=minute(2), scheduled_at=minute(9), claims=1), (0, 2), None),
        # Retried, and published again.
        (
            job_record(JobState.QUEUED, started_at=minute(2), enqueued_at=minute(9), claims=1),
            (9, None),
            None,
        ),
        (
            job_record(
                JobState.COMPLETED, enqueued_at=minute(9), started_at=minute(10), finished_at=minute(11), claims=2
            ),
            (9, 10),
            (10, 11),
        ),
        (job_record(JobState.CANCELLED, finished_at=minute(3)), None, None),
    ],
)
def test_the_last_wait_and_the_last_run_of_a_job(
    record: JobRecord, waited: tuple[int, int | None] | None, ran: tuple[int, int | None] | None
) -> None:
    record.claims = record.claims or 0

    def span(minutes: tuple[int, int | None] | None) -> tuple[datetime, datetime | None] | None:
        return minutes and (minute(minutes[0]), None if minutes[1] is None else minute(minutes[1]))

    assert waiting_span(record) == span(waited)
    assert running_span(record) == span(ran)


def test_a_search_is_completed_by_an_endpoint(client: FlaskClient, session: Session) -> None:
    user = make_user(Role.STAFF)
    session.add(job_record(JobState.FAILED, error_type="OurError", school_id=user.school_id))
    session.add(job_record(JobState.FAILED, error_type="OtherError", school_id=None))
    session.commit()
    log_in(client, user)
    options = {
        query: re.findall(r'<option value="([^"]*)">', client.get("/jobs/completions", query_string={"q": query}).text)
        for query in ("stat", "text error:O", 'a"')
    }
    assert options == {"stat": ["state:"], "text error:O": ["text error:OurError"], 'a"': []}
    assert '<option value="state:">' in client.get("/jobs/").text


def test_a_running_job_shows_its_progress_and_log_lines(app: Flask, staff: FlaskClient, session: Session) -> None:
    job = job_record(
        JobState.RUNNING, progress_done=30, progress_total=1_200, progress_text="Class 7b", batch_id=new_id()
    )
    session.add(job)
    session.flush()
    line = {"time": "2030-05-06T10:00:01.250+00:00", "level": "info", "values": {"rows": "3"}}
    lines = [line | {"number": number, "event": f"import.step_{number}"} for number in (1, 9)]
    session.add(JobLog(job_id=job.id, claim=2, attempt=1, dropped=7, lines=lines))
    session.commit()
    for path in (f"/jobs/{job.id}", f"/jobs/{job.id}/live"):
        page = staff.get(path).text
        assert 'max="1200" value="30"' in page
        assert "30 of 1,200 · Class 7b" in page
        shown = "10:00:01.250 info import.step_1 rows=3\n… 7 lines dropped\n10:00:01.250 info import.step_9 rows=3\n"
        assert shown in page
        assert job.batch_id is not None
        assert job.batch_id in page
    shown = app.test_cli_runner().invoke(args=["jobs", "show", job.id])
    assert '{"done": 30, "total": 1200, "text": "Class 7b"}' in shown.stdout
    assert "10:00:01.250 info import.step_9 rows=3" in shown.stdout


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"blocked_by": BlockedBy.LIMIT, "limit_key": "push/7"}, "Waits for a free slot of the limit push/7."),
        ({"blocked_by": BlockedBy.PAUSE}, "Paused: its queue, its name or its limit key."),
        (
            {"blocked_by": BlockedBy.PREDECESSOR, "after_id": str(UUID(int=7))},
            f"Waits until {UUID(int=7)} is completed.",
        ),
    ],
)
def test_a_blocked_job_says_what_it_waits_for(
    staff: FlaskClient, session: Session, values: dict[str, Any], reason: str
) -> None:
    job = job_record(JobState.BLOCKED, **values)
    session.add(job)
    session.commit()
    assert reason in staff.get(f"/jobs/{job.id}").text


def test_a_snoozed_job_shows_its_reason_and_where_its_steps_continue(
    app: Flask, staff: FlaskClient, session: Session
) -> None:
    at = {"key": ["id"], "after": [1_500], "done": 1_500, "total": 10_000}
    job = job_record(JobState.SCHEDULED, started_at=minute(1), scheduled_at=minute(9), snoozes=3, cursor={"people": at})
    session.add(job)
    session.flush()
    snoozed = {"outcome": AttemptOutcome.SNOOZED, "error_type": "Snooze", "error_message": "FCM asks for a minute"}
    session.add(JobAttempt(job_id=job.id, number=1, started_at=minute(1), **snoozed))
    session.commit()
    page = staff.get(f"/jobs/{job.id}").text
    assert "Snoozed: FCM asks for a minute" in page
    assert "<dt>Snoozes</dt><dd>3</dd>" in page
    assert "people: continues after 1,500 of 10,000" in page
    assert 'outcome-snoozed"' in page
    shown = app.test_cli_runner().invoke(args=["jobs", "show", job.id]).stdout
    assert '[{"name": "people", "done": 1500, "total": 10000}]' in shown
    assert re.search(r"^snoozes +3$", shown, re.MULTILINE)
    assert "snoozed: Snooze: FCM asks for a minute" in shown


def test_an_argument_that_its_job_declares_as_secret_is_masked(
    app: Flask, staff: FlaskClient, session: Session, secret_job: str
) -> None:
    job = job_record(name=secret_job, args={"token": "s3cr3t-value", "rows": 3})
    session.add(job)
    session.commit()
    for shown in (
        staff.get(f"/jobs/{job.id}").text,
        app.test_cli_runner().invoke(args=["jobs", "show", job.id]).stdout,
        app.test_cli_runner().invoke(args=["jobs", "list", "--json"]).stdout,
    ):
        assert "s3cr3t-value" not in shown
        assert "[secret]" in shown

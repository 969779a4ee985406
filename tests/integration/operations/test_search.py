"""The search of jobs, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.core.errors import InvalidInputError
from flask_belfry.db.columns import new_id
from flask_belfry.db.tenancy import Scope, use_scope
from flask_belfry.operations import services
from flask_belfry.operations.search import parse
from flask_belfry.outbox import JobRecord, JobState, job
from flask_belfry.outbox.registry import forget
from flask_belfry.search import Query, running

NOW = datetime(2030, 5, 6, 12, tzinfo=UTC)
BATCH, PARENT = "018f5d6a-0000-7000-8000-000000000001", "018f5d6a-0000-7000-8000-000000000002"
# Made an hour before.
JOB = "01bb60dc-df80-7000-8000-000000000003"

Found = Callable[..., list[str]]


def at(hours: float) -> datetime:
    """So many hours before now."""
    return NOW - timedelta(hours=hours)


def record(label: str, state: str = "completed", *, age: float = 5, **values: Any) -> JobRecord:
    """A job, which its result labels."""
    defaults = {"name": "a.job", "queue": "default", "args": {}, "timeout_seconds": 60, "created_at": at(age)}
    return JobRecord(**{"id": new_id(at(age)), **defaults, "state": JobState(state), "result": label, **values})


@pytest.fixture
def found(app: Flask, session: Session) -> Found:
    """Returns the labels of the jobs that a search finds, newest first."""

    def search(text: str, **options: Any) -> list[str]:
        return [str(row.result) for row in services.list_jobs(parse(text, now=NOW), **options).items]

    return search


@pytest.fixture
def rows(session: Session) -> None:
    """Jobs that differ in what the terms are about."""
    session.add_all(
        [
            record("failed", "failed", age=1, error_type="builtins.OSError", error_message="Mail 100% lost_now"),
            record("refused", "failed", age=2, error_type="ConnectionRefusedError", worker="host-1.7"),
            record("running", "running", age=3, worker="host_2", queue="mail", user_id=7),
            record("sweep", age=4, name="reservations.sweep", args={"reservation_id": 42, "text": "blue, or"}),
            record("overdue", age=5, name="reservations.overdue", args={"reservation_id": "42", "on": True}),
            record("other", age=6, name="Reservations.other", args={"reservation_id": 43, "on": 1, "rate": 1.5}),
            record("of 42", age=7, subject_type="reservation", subject_id="42", school_id=1),
            record("of 43", age=8, subject_type="reservation", subject_id="43", school_id=2),
            record("batch", age=9, batch_id=BATCH),
            record("failed batch", "failed", age=10, batch_id=BATCH, fingerprint="f" * 16),
            record("child", age=11, parent_id=PARENT),
        ]
    )
    session.commit()


ALL = ["failed", "refused", "running", "sweep", "overdue", "other", "of 42", "of 43", "batch", "failed batch", "child"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ALL),
        ("state:failed", ["failed", "refused", "failed batch"]),
        ("state:failed,running", ["failed", "refused", "running", "failed batch"]),
        ("state:failed state:running", ["failed", "refused", "running", "failed batch"]),
        ("-state:completed", ["failed", "refused", "running", "failed batch"]),
        ("state:failed -state:failed", []),
        ("name:reservations.sweep", ["sweep"]),
        ("name:reservations.s*", ["sweep"]),
        ("name:reservations.*", ["sweep", "overdue", "other"]),
        ("name:reservations.sweep,*.OTHER", ["sweep", "other"]),
        ("name:*s.o*", ["overdue", "other"]),
        ("name:[ra]*", []),
        ("-name:a.job -name:*.s*", ["overdue", "other"]),
        ("state:failed name:a.*", ["failed", "refused", "failed batch"]),
        ("queue:mail", ["running"]),
        ("-queue:default,bulk", ["running"]),
        ("subject:reservation", ["of 42", "of 43"]),
        ("subject:Reservation/42", ["of 42"]),
        ("subject:reservation/42,reservation/43", ["of 42", "of 43"]),
        ("-subject:reservation/42 subject:reservation", ["of 43"]),
        ("-subject:reservation state:completed", ["sweep", "overdue", "other", "batch", "child"]),
        ("args.reservation_id:42", ["sweep", "overdue"]),
        ("args.reservation_id:4*", ["sweep", "overdue", "other"]),
        ("args.on:true", ["overdue"]),
        ("args.on:1", ["other"]),
        ("args.rate:1.5", ["other"]),
        ('args.text:"blue, or"', ["sweep"]),
        ("args.none:42", []),
        ("-args.reservation_id:42 name:reservations.*", ["other"]),
        ("tenant:1", ["of 42"]),
        ("tenant:1,2", ["of 42", "of 43"]),
        ("tenant:system state:failed", ["failed", "refused", "failed batch"]),
        ("-tenant:1 subject:reservation", ["of 43"]),
        ("user:7", ["running"]),
        ("worker:host-1.7", ["refused"]),
        ("worker:host_*", ["running"]),
        ("-worker:host-1.7 state:failed", ["failed", "failed batch"]),
        ("error:*OSError", ["failed"]),
        ("error:ConnectionRefusedError", ["refused"]),
        (f"batch:{BATCH}", ["batch", "failed batch"]),
        (f"batch:{BATCH} state:failed", ["failed batch"]),
        (f"-batch:{BATCH} state:failed", ["failed", "refused"]),
        (f"parent:{PARENT}", ["child"]),
        ("fingerprint:ffffffffffffffff", ["failed batch"]),
        ("since:2h", ["failed", "refused"]),
        ("until:10h", ["child"]),
        ("since:2030-05-06T03:00 until:2030-05-06T07:00+02:00", ["of 43", "batch"]),
        ("since:2h state:failed", ["failed", "refused"]),
        ("since:2040-01-01", []),
        ("since:0001-01-01", ALL),
        ("until:1969-01-01", []),
        ("until:9999-12-31T23:59:59", ALL),
        ("oserror", ["failed"]),
        ("100% lost_", ["failed"]),
        ('"mail 100%"', ["failed"]),
        ('"lost now"', []),
        ("-lost state:failed", ["refused", "failed batch"]),
        ("43", ["of 43"]),
    ],
)
def test_each_term_selects_its_jobs(rows: None, found: Found, text: str, expected: list[str]) -> None:
    assert found(text) == expected
    number = services.count(parse(text, now=NOW))
    assert number == (len(expected), False)


def test_an_id_is_found_by_its_key_and_as_text(session: Session, found: Found) -> None:
    session.add_all([record("this", id=JOB), record("that")])
    session.commit()
    assert found(f"id:{JOB}") == found(JOB) == ["this"]
    assert found(f"-id:{JOB}") == ["that"]
    assert found(f"{JOB} state:failed") == []


# ── Windows and cursors ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches compare at most four rows at a time."""
    monkeypatch.setattr(running, "WINDOW", 4)


def many(session: Session, **values: Any) -> list[str]:
    """Ten jobs in three states; every fifth has an error. Returns their labels, newest first."""
    states = ["failed", "completed", "retryable", "failed", "completed"]
    labels = [f"{number} {states[number % 5]}" for number in range(10)]
    for number, label in enumerate(labels):
        error = "Rare" if number % 5 == 3 else "Usual"
        session.add(record(label, states[number % 5], age=number + 1, error_type=error, **values))
    session.commit()
    return labels


def pages_of(text: str, limit: int) -> Iterator[list[str]]:
    cursor = None
    while True:
        page = services.list_jobs(parse(text, now=NOW), limit=limit, cursor=cursor)
        yield [str(row.result) for row in page.items]
        assert (page.searched_to is None) or page.next_cursor
        if (cursor := page.next_cursor) is None:
            return


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("error:Rare", lambda number, state: number % 5 == 3),
        ("state:failed error:Rare", lambda number, state: number % 5 == 3),
        ("state:failed,retryable error:*", lambda number, state: state in ("failed", "retryable")),
        ("-state:completed", lambda number, state: state != "completed"),
        ("name:a.* -rare", lambda number, state: number % 5 != 3),
    ],
)
@pytest.mark.usefixtures("small_window")
def test_the_pages_of_a_search_have_each_match_once(
    session: Session, text: str, matches: Callable[[int, str], bool]
) -> None:
    expected = [label for label in many(session) if matches(int(label.split()[0]), label.split()[1])]
    for limit in (1, 2, 3, 25):
        assert [label for page in pages_of(text, limit) for label in page] == expected


@pytest.mark.usefixtures("small_window")
def test_a_page_says_back_to_when_it_was_searched(session: Session) -> None:
    many(session)
    page = services.list_jobs(parse("error:Rare", now=NOW))
    assert [row.result for row in page.items] == ["3 failed"]
    assert page.searched_to == at(4)
    page = services.list_jobs(parse("error:Rare", now=NOW), cursor=page.next_cursor)
    assert page.items == []
    assert page.searched_to == at(8)
    page = services.list_jobs(parse("error:Rare", now=NOW), cursor=page.next_cursor)
    assert [row.result for row in page.items] == ["8 failed"]
    assert (page.searched_to, page.next_cursor) == (None, None)


@pytest.mark.usefixtures("small_window")
def test_a_full_page_was_not_stopped_by_the_window(session: Session) -> None:
    many(session)
    page = services.list_jobs(parse("error:Usual", now=NOW), limit=3)
    assert [row.result for row in page.items] == ["0 failed", "1 completed", "2 retryable"]
    assert page.searched_to is None
    assert page.next_cursor


@pytest.mark.usefixtures("small_window")
def test_the_index_is_chosen_that_reaches_furthest_back(session: Session) -> None:
    many(session)
    session.add_all([record(f"mail {number}", name="mail", age=20 + number) for number in range(3)])
    session.commit()
    # Three jobs have the name, and more than a window have the state.
    page = services.list_jobs(parse("state:completed name:mail", now=NOW))
    assert [row.result for row in page.items] == ["mail 0", "mail 1", "mail 2"]
    assert page.searched_to is None


@pytest.mark.usefixtures("small_window")
def test_counts_stop_at_the_limit_and_at_the_window(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    many(session)
    assert services.count(parse("", now=NOW)) == (10, False)
    assert services.count(parse("error:Rare", now=NOW)) == (1, True)
    monkeypatch.setattr(services, "COUNT_LIMIT", 3)
    assert services.count(parse("", now=NOW)) == (3, True)
    assert services.count(parse("state:failed,retryable", now=NOW)) == (3, True)
    assert services.count(parse("state:retryable", now=NOW)) == (2, False)


def chosen(query: Query, states: list[JobState], *, limit: int = 100, after: str | None = None) -> list[str]:
    """Return the ids of all jobs that an action would change, `limit` at a time."""
    found, next_id = services.next_matching_ids(query, states, limit=limit, after=after)
    assert len(found) <= limit
    return found if next_id is None else found + chosen(query, states, limit=limit, after=next_id)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["8 failed", "7 retryable", "5 failed", "3 failed", "2 retryable", "0 failed"]),
        ("error:Rare", ["8 failed", "3 failed"]),
        ("state:failed", ["8 failed", "5 failed", "3 failed", "0 failed"]),
        ("state:retryable,completed error:Usual", ["7 retryable", "2 retryable"]),
    ],
)
@pytest.mark.usefixtures("small_window")
def test_what_matches_is_chosen_for_an_action_oldest_first(session: Session, text: str, expected: list[str]) -> None:
    many(session)
    query, states = parse(text, now=NOW), [JobState.FAILED, JobState.RETRYABLE]
    found = chosen(query, states)
    assert [session.get_one(JobRecord, id).result for id in found] == expected
    assert chosen(query, states, limit=1) == found
    assert chosen(query, states, after=found[0]) == found[1:]


def test_running_jobs_that_were_requested_to_stop_are_not_chosen(session: Session) -> None:
    session.add_all([record("stopping", "running", cancel_requested=True), record("runs", "running")])
    session.commit()
    (id,) = chosen(parse("", now=NOW), [JobState.RUNNING])
    assert session.get_one(JobRecord, id).result == "runs"


# ── Scope and secrets ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_search_finds_rows_of_the_scope_only(session: Session, found: Found) -> None:
    session.add_all([record("ours", school_id=1), record("theirs", school_id=2), record("of the system")])
    session.commit()
    for text in ("", "tenant:1", "tenant:1,2,system", "state:completed", "-tenant:2", "-state:failed", "name:a.*"):
        with use_scope(Scope(1)):
            assert found(text) == ["ours"]
            assert services.count(parse(text, now=NOW)) == (1, False)
            assert len(chosen(parse(text, now=NOW), list(JobState))) == 1
        with use_scope(Scope()):
            assert found(text) == []


def test_a_tenant_never_widens_the_scope(session: Session, found: Found) -> None:
    theirs = record("theirs", school_id=2, batch_id=BATCH, parent_id=PARENT, subject_type="a", subject_id="1")
    session.add_all([record("ours", school_id=1), theirs, record("of the system")])
    session.commit()
    others = ["", f"batch:{BATCH}", f"parent:{PARENT}", f"id:{theirs.id}", "subject:a/1", "state:completed"]
    with use_scope(Scope(1)):
        for text in (f"{tenant} {other}" for tenant in ("tenant:2", "tenant:system", "-tenant:1") for other in others):
            assert found(text) == []
            assert chosen(parse(text, now=NOW), list(JobState)) == []


def test_a_secret_argument_cannot_be_guessed(session: Session, found: Found) -> None:
    @job("a.secret_job", secrets=("token",))
    def secret_job(session: Session, token: str) -> None:
        """Do nothing."""

    try:
        args = {"token": "abc"}
        session.add_all([record("hidden", name=secret_job.name, args=args), record("shown", args=args)])
        session.commit()
        assert found("args.token:abc") == found("args.token:a*") == ["shown"]
    finally:
        forget(secret_job.name)


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_action_that_no_state_of_the_search_allows_is_refused() -> None:
    query = parse("state:completed", now=NOW)
    with pytest.raises(InvalidInputError) as refused:
        services.states_of(query, [JobState.FAILED, JobState.CANCELLED], [JobState.FAILED])
    assert refused.value.fields == {"state": ["must be one of cancelled, failed"]}
    assert services.states_of(parse("state:failed,completed", now=NOW), [JobState.FAILED], []) == {JobState.FAILED}
    assert services.states_of(parse("", now=NOW), [JobState.FAILED], [JobState.FAILED]) == [JobState.FAILED]

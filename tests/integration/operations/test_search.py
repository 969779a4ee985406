"""The search of jobs, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from flask_belfry.db.columns import new_id
from flask_belfry.operations import services
from flask_belfry.operations.search import parse
from flask_belfry.outbox import JobRecord, JobState

NOW = datetime(2030, 5, 6, 12, tzinfo=UTC)
BATCH, PARENT, JOB = new_id(), new_id(), new_id(NOW - timedelta(hours=1))

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

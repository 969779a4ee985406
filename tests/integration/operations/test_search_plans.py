"""A search reads few rows, however many there are: on both databases, by what their plans have read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import event
from sqlalchemy.orm import Session

from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, NOTHING, Scope, use_scope
from flask_belfry.operations import failures, problems, queues, services
from flask_belfry.operations.search import parse
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.search import running
from flask_belfry.statistics import FailureGroup
from flask_belfry.statistics import queues as statistics_queues

ROWS, WINDOW = 50_000, 500
# What a search may read on PostgreSQL, in rows of all nodes of its plans, and on SQLite, in thousands of instructions
# of its virtual machine. A scan of all jobs reads 50,000 and more than 500. PostgreSQL may combine two indexes, each
# with the 5,000 rows of a school.
MOST_ROWS, MOST_THOUSANDS = 25_000, 120
BEGIN = 1_900_000_000_000
NOW = datetime.fromtimestamp(BEGIN / 1_000 + ROWS, UTC)
BATCH, PARENT = "018f5d6a-0000-7000-8000-000000000001", "018f5d6a-0000-7000-8000-000000000002"


@pytest.fixture
def history(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of one second each: 3 in 100 have failed, 1 in 20 is the system's, the others are of 10 schools. What is
    narrow, such as a batch, is of one school."""
    is_sqlite = db.engine.dialect.name == "sqlite"
    numbers = sa.select(sa.literal(1).label("i")).cte("numbers", recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.i + 1).where(numbers.c.i < ROWS))
    i = numbers.c.i
    id = "printf('%012x7%03x8%015x', {0} + i * 1000, i % 4096, i)"
    if not is_sqlite:
        id = "(lpad(to_hex({0} + i * 1000), 12, '0') || '7000' || '8' || lpad(to_hex(i), 15, '0'))::uuid"
    state = sa.case((i % 100 < 94, "completed"), (i % 100 < 97, "failed"), (i % 100 < 98, "pending"), else_="retryable")
    values: dict[str, Any] = {
        "id": sa.literal_column(id.format(BEGIN)),
        "school_id": sa.case((i % 20 == 0, None), else_=i % 10 + 1),
        "name": sa.literal("slice.job_") + sa.cast(i % 20, sa.String),
        "queue": sa.case((i % 4 == 0, "bulk"), else_="default"),
        "state": state,
        "args": sa.literal({"row": 1}, sa.JSON),
        "subject_type": sa.literal("row"),
        "subject_id": sa.cast(i % 10, sa.String),
        "batch_id": sa.case((i % 10 == 2, sa.literal(BATCH, JobRecord.batch_id.type)), else_=None),
        "parent_id": sa.case((i % 20 == 2, sa.literal(PARENT, JobRecord.parent_id.type)), else_=None),
        "fingerprint": sa.case((i % 100 == 95, "f" * 16), else_=None),
        "error_type": sa.case((i % 100 == 95, "Refused"), else_=None),
        "created_at": sa.literal(NOW, JobRecord.created_at.type),
        **dict.fromkeys(("attempt", "max_attempts", "claims", "interruptions"), sa.literal(1)),
        "timeout_seconds": sa.literal(60),
        "cancel_requested": sa.false(),
    }
    rows = sa.select(*(value.label(name) for name, value in values.items())).select_from(numbers)
    session.execute(sa.insert(JobRecord).from_select(list(values), rows, include_defaults=False))
    session.commit()
    if not is_sqlite:
        # As the server itself does before long.
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE job_records"))
    monkeypatch.setattr(running, "WINDOW", WINDOW)
    monkeypatch.setattr(services, "COUNT_LIMIT", WINDOW)


@pytest.fixture
def reads(app: Flask, session: Session) -> Iterator[Callable[[Callable[[], object]], tuple[int, list[str]]]]:
    """Runs a function; returns how much its statements have read, and the sequential scans in their plans."""
    read, scans, is_open = [0], [], [False]

    def explain(connection: object, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if not is_open[0] or not statement.startswith(("SELECT", "WITH")):
            return
        raw = cursor.connection
        if db.engine.dialect.name == "sqlite":
            raw.set_progress_handler(step, 1_000)
            return
        own = raw.cursor()
        own.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", parameters)
        (plans,) = own.fetchone()
        _add_nodes((plans if isinstance(plans, list) else json.loads(plans))[0]["Plan"], read, scans)

    def step() -> None:
        read[0] += 1

    def measured(run: Callable[[], object]) -> tuple[int, list[str]]:
        session.rollback()
        read[0], is_open[0] = 0, True
        scans.clear()
        run()
        is_open[0] = False
        return read[0], list(scans)

    event.listen(db.engine, "before_cursor_execute", explain)
    yield measured
    event.remove(db.engine, "before_cursor_execute", explain)


def _add_nodes(node: dict[str, Any], read: list[int], scans: list[str]) -> None:
    if "Scan" in node["Node Type"]:
        found = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        read[0] += int(found)
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "job_records":
            scans.append(node["Relation Name"])
    for child in node.get("Plans", []):
        _add_nodes(child, read, scans)


SEARCHES = [
    "",
    "state:failed",
    "state:completed",
    "state:failed,retryable,completed",
    "-state:completed",
    "state:failed name:slice.job_3",
    "state:completed name:slice.job_3 queue:bulk",
    "name:slice.*",
    "name:absent.*",
    "name:slice.job_1* nothing",
    "nothing",
    "-nothing -state:failed",
    "args.row:2",
    "queue:heavy",
    "worker:none user:7 error:Other",
    "state:failed error:Other",
    "subject:row/2",
    "subject:row/2 state:failed",
    # Searched in its own spelling too.
    "subject:Row/2",
    "subject:Row/2 state:failed",
    "subject:none",
    "tenant:3",
    "tenant:3 state:failed,completed",
    "tenant:system",
    "tenant:system nothing",
    f"batch:{BATCH}",
    f"batch:{BATCH} state:completed nothing",
    f"parent:{PARENT}",
    f"parent:{PARENT} nothing",
    f"fingerprint:{'f' * 16}",
    f"id:{PARENT}",
    "since:1h",
    "since:2h until:1h nothing",
    "since:2100-01-01",
    "until:2000-01-01 state:failed",
]


def test_no_search_reads_the_whole_table(history: None, reads: Any) -> None:
    limit = MOST_THOUSANDS if db.engine.dialect.name == "sqlite" else MOST_ROWS
    costly: dict[str, tuple[int, list[str]]] = {}
    for scope in (ALL_TENANTS, Scope(3)):
        for text in SEARCHES:
            query = parse(text, now=NOW)
            for name, run in (
                ("list", lambda query=query: services.list_jobs(query)),
                ("count", lambda query=query: services.count(query)),
                ("ids", lambda query=query: services.next_matching_ids(query, list(JobState), limit=100)),
                ("hidden", lambda query=query: services.count_hidden(query)),
            ):
                with use_scope(scope):
                    read, scans = reads(run)
                if read > limit or scans:
                    costly[f"{name} {text} of {scope}"] = (read, scans)
    assert costly == {}


def test_the_counts_of_the_states_use_an_index(history: None, reads: Any) -> None:
    limit = MOST_THOUSANDS if db.engine.dialect.name == "sqlite" else MOST_ROWS
    for scope in (ALL_TENANTS, Scope(3)):
        with use_scope(scope):
            read, scans = reads(services.counts_by_state)
        assert (read < limit, scans) == (True, [])


def test_the_counts_of_the_queues_use_an_index_and_are_those_of_the_scope(
    history: None, reads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = MOST_THOUSANDS if db.engine.dialect.name == "sqlite" else MOST_ROWS
    monkeypatch.setattr(queues, "MAX_COUNTED", 600)
    for scope, expected in ((ALL_TENANTS, (500, 600)), (Scope(8), (500, 0)), (Scope(9), (0, 500)), (NOTHING, (0, 0))):
        with use_scope(scope):
            read, scans = reads(lambda: queues.queues([]))
            found = queues.queues([])
        assert (read < limit, scans) == (True, [])
        assert (sum(each.waiting for each in found), sum(each.scheduled for each in found)) == expected


LIMITED = {
    "problems": lambda session, group: problems.of_scope(),
    "jobs of a group": lambda session, group: failures.jobs_of([group]),
    "pending jobs": lambda session, group: statistics_queues._pending(session),
}


@pytest.fixture
def crowded(history: None, session: Session, monkeypatch: pytest.MonkeyPatch) -> FailureGroup:
    """The newer half of the jobs failed with one cause, or is pending. PostgreSQL expects to find some of these soon,
    wherever it begins to read the table."""
    newer = sa.select(JobRecord.id).order_by(JobRecord.id).offset(ROWS // 2)
    failed = {"state": "failed", "fingerprint": "f" * 16, "error_type": "Refused", "finished_at": NOW, "school_id": 6}
    session.execute(sa.update(JobRecord).where(JobRecord.id.in_(newer), JobRecord.queue == "default").values(failed))
    session.execute(
        sa.update(JobRecord).where(JobRecord.id.in_(newer), JobRecord.queue == "bulk").values(state="pending")
    )
    group = {"school_id": 6, "fingerprint": "f" * 16, "job_name": "slice.job_0", "error_type": "Refused"}
    row = FailureGroup(**group, job_id=BATCH, first_seen_at=NOW, last_seen_at=NOW)
    session.add(row)
    session.commit()
    if db.engine.dialect.name == "postgresql":
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE job_records"))
    monkeypatch.setattr(failures, "MAX_JOBS", WINDOW)
    monkeypatch.setattr(statistics_queues, "MAX_PENDING", WINDOW)
    return row


@pytest.mark.parametrize("name", LIMITED)
def test_a_count_with_a_limit_reads_no_more_rows_of_an_index(
    crowded: FailureGroup, reads: Any, session: Session, name: str
) -> None:
    session.refresh(crowded)
    read, scans = reads(lambda: LIMITED[name](session, crowded))
    # One that reads all of them reads 12,500, and on SQLite more than 100.
    assert (read <= (40 if db.engine.dialect.name == "sqlite" else 5 * WINDOW), scans) == (True, [])

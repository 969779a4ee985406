"""No listing reads a whole table: the plans of the statements that pages, the API and commands send, on both databases.

`test_search_plans.py` is about every kind of search; this is about what else a page reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.accounts import Role
from app.schools import School
from bench import history
from bench.paths import all_paths
from flask_belfry.core.clock import utc_now
from flask_belfry.db import Base, db
from flask_belfry.mail import queries
from flask_belfry.operations import failures, queues, services
from flask_belfry.outbox import JobRecord, JobState
from flask_belfry.search import running
from flask_belfry.statistics import FailureGroup, RollUp, roll_up_pages, sample_queues
from flask_belfry.statistics import queues as samples
from flask_belfry.statistics.roll_up import sources
from tests.integration.workers.test_statement_plans import GROWING
from tests.reservation_factories import bearer, log_in, make_user

ROWS, MAX_ROWS = 30_000, 300
# Each of these stops its reading after so many rows, which are made few: what reads more, reads all.
LIMITS = (
    (running, "WINDOW"),
    (services, "COUNT_LIMIT"),
    (queries, "COUNT_LIMIT"),
    (queues, "MAX_COUNTED"),
    (failures, "MAX_JOBS"),
    (samples, "MAX_PENDING"),
    (samples, "MAX_OTHERS"),
)
# What one statement may read: of a large table a third, on SQLite in thousands of instructions of its virtual machine,
# of which a scan of all jobs needs more than 300.
LARGE, SHARE, MOST_THOUSANDS = 1_000, 1 / 3, 100
# Groups of failures with the same cause are few, and no index is about their states.
READ_WHOLE = {"failure_groups"}
COMMANDS = (
    "jobs list",
    "jobs list --state failed",
    "jobs names",
    "jobs stats",
    "jobs workers",
    "batches list",
    "queues list",
    "schedule list",
    "mail list",
    "mail list --state failed",
    "mail suppressions",
)


@pytest.fixture
def million(app: Flask, session: Session, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The history of a week, of which the last hours are rolled up; the paths to request."""
    for id in range(2, history.SCHOOLS + 1):
        session.add(School(id=id, name=f"School {id}", slug=f"school-{id}"))
    session.commit()
    history.load(ROWS)
    since = utc_now() - timedelta(hours=2)
    session.execute(sa.insert(RollUp), [{"name": source.name, "complete_until": since} for source in sources()])
    session.commit()
    for _ in roll_up_pages(session):
        pass
    sample_queues(session)
    failed = JobRecord.school_id == history.SCHOOL_OF_BATCHES, JobRecord.state == JobState.FAILED
    job = session.scalars(sa.select(JobRecord).where(*failed).order_by(JobRecord.id.desc()).limit(1)).one()
    values = {"fingerprint": job.fingerprint, "job_name": job.name, "error_type": job.error_type, "job_id": job.id}
    times = {"first_seen_at": job.created_at, "last_seen_at": job.created_at}
    session.add(FailureGroup(school_id=job.school_id, failures=1, **values, **times))
    session.commit()
    for module, name in LIMITS:
        monkeypatch.setattr(module, name, MAX_ROWS)
    # As the server itself does before long; SQLite has no statistics.
    if session.get_bind().dialect.name == "postgresql":
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
    return all_paths(_Rows(session))


class _Rows:
    """The database, for `all_paths`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def query(self, statement: str) -> Any:
        """Return the first row of a query, or None."""
        return self._session.execute(sa.text(statement)).first()


@pytest.fixture
def faults(app: Flask, session: Session, million: list[str]) -> Iterator[Counter[str]]:
    """The statements that read a whole table, or as much."""
    found: Counter[str] = Counter()
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    # Other modules of tests have tables of their own.
    tables = set(sa.inspect(session.connection()).get_table_names())
    sizes = {
        table.name: session.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        for table in Base.metadata.sorted_tables
        if table.name in tables
    }
    session.rollback()
    used = [0]

    def step() -> None:
        used[0] += 1

    def before(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith(("SELECT", "WITH")):
            return
        raw = cursor.connection
        if is_sqlite:
            plan = raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            scans = [line for *_, line in plan if line.startswith("SCAN") and "USING" not in line]
            found.update(f"{line}: {statement}" for line in scans if line.split()[1] in GROWING - READ_WHOLE)
            used[0] = 0
            raw.set_progress_handler(step, 1_000)
            return
        own = raw.cursor()
        own.execute("SET LOCAL enable_seqscan = off")
        own.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", parameters)
        (plans,) = own.fetchone()
        read: Counter[str] = Counter()
        found.update(f"{scan}: {statement}" for scan in _scans(plans[0]["Plan"], read))
        for name, rows in read.items():
            if sizes.get(name, 0) >= LARGE and rows > sizes[name] * SHARE:
                found[f"{rows} rows of {name}: {statement}"] += 1

    def after(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if is_sqlite and statement.startswith(("SELECT", "WITH")):
            cursor.connection.set_progress_handler(None, 0)
            if used[0] > MOST_THOUSANDS:
                found[f"{used[0]}: {statement}"] += 1

    event.listen(db.engine, "before_cursor_execute", before)
    event.listen(db.engine, "after_cursor_execute", after)
    yield found
    event.remove(db.engine, "before_cursor_execute", before)
    event.remove(db.engine, "after_cursor_execute", after)


def _scans(node: dict[str, Any], read: Counter[str]) -> Iterator[str]:
    """Return the tables of sequential scans, and add the rows that are read of each table."""
    if name := node.get("Relation Name"):
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        read[name] += int((node["Actual Rows"] + removed) * node["Actual Loops"])
        if node["Node Type"] == "Seq Scan" and name in GROWING - READ_WHOLE:
            yield name
    for child in node.get("Plans", []):
        yield from _scans(child, read)


@pytest.mark.parametrize("role", [Role.ADMIN, Role.STAFF], ids=str)
def test_no_page_reads_a_whole_table(
    app: Flask, client: FlaskClient, million: list[str], faults: Counter[str], role: Role
) -> None:
    reader = make_user(role, school_id=history.SCHOOL_OF_BATCHES)
    headers = bearer(reader)
    log_in(client, reader)
    faults.clear()
    found: dict[str, Counter[str]] = {}
    statuses: dict[str, int] = {}
    for path in million:
        answer = client.get(path, headers=headers if path.startswith("/api/") else None)
        statuses[path] = answer.status_code
        if faults:
            found[path] = Counter(faults)
            faults.clear()
    allowed = {200} if role is Role.ADMIN else {200, 403, 404}
    assert {path: status for path, status in statuses.items() if status not in allowed} == {}
    assert len([status for status in statuses.values() if status == 200]) > 60
    assert found == {}


def test_no_command_reads_a_whole_table(app: Flask, million: list[str], faults: Counter[str]) -> None:
    runner = app.test_cli_runner()
    for words in COMMANDS:
        answer = runner.invoke(args=words.split())
        assert answer.exit_code == 0, (words, answer.output)
        assert dict(faults) == {}, words

"""`python -m bench.history DATABASE_URL`: fills a migrated, empty database with the history of a week.

A million jobs of 50 names, ten schools and the system, with their attempts, batches and mails; then it rolls up the
statistics, as the scheduler does after a downtime. `db upgrade` has made the tables before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from app import create_app
from flask_belfry.db import db
from flask_belfry.operations.models import BulkKind, BulkOperation, BulkState
from flask_belfry.outbox import CustomSchedule, ScheduleTick
from flask_belfry.outbox.models import TickOutcome
from flask_belfry.scheduler.schedule import CUSTOM_PREFIX
from flask_belfry.statistics import roll_up_pages, sample_queues

JOBS = 1_000_000
DAYS = 7
NAMES = 50
SCHOOLS = 10
TICKS, OPERATIONS = 10_000, 200
# Of a hundred jobs: 93 are completed, 3 failed, 1 is cancelled, 1 waits, 1 is scheduled, 1 waits for its next attempt.
STATE = (
    "CASE WHEN i % 100 < 93 THEN 'completed' WHEN i % 100 < 96 THEN 'failed' WHEN i % 100 < 97 THEN 'cancelled' "
    "WHEN i % 100 < 98 THEN 'pending' WHEN i % 100 < 99 THEN 'scheduled' ELSE 'retryable' END"
)
HAS_ENDED, HAS_FAILED = "i % 100 < 97", "(i % 100 BETWEEN 93 AND 95 OR i % 100 = 99)"
FINGERPRINT = "'00000000000000' || (10 + i % 40)"
# Of each thousand jobs, fifty completed ones are a finished batch. All that wait are one that is open.
IS_OF_BATCH, OPENS_BATCH = "i % 20 = 7", "i % 1000 = 7"
IS_OF_OPEN_BATCH, OPEN_BATCH = "i % 100 = 97", "97"
COUNTS_OF_BATCH = {"completed": 50, "failed": 0, "cancelled": 0}
BATCH = f"CASE WHEN {IS_OF_BATCH} THEN i / 1000 * 1000 + 7 ELSE {OPEN_BATCH} END"
# Each few minutes another school is busy. All jobs of batches are of one school.
SCHOOL_OF_BATCHES = 8
SCHOOL = (
    f"CASE WHEN {IS_OF_BATCH} OR {IS_OF_OPEN_BATCH} THEN {SCHOOL_OF_BATCHES} "
    f"WHEN i % 20 = 0 THEN NULL ELSE (i / 500) % {SCHOOLS} + 1 END"
)
# Half of the mails have the same recipient, and a tenth has failed.
MAIL_HAS_FAILED = "i % 100 = 70"
RECIPIENT = "CASE WHEN i % 20 = 0 THEN 'office@example.org' ELSE 'user' || (i % 5000) || '@example.org' END"
# Each database writes a number of the loop, a time and an id of that time in its own way.
FORMS = {
    "sqlite": {
        "numbers": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) ",
        "from": "n",
        "time": "strftime('%Y-%m-%d %H:%M:%f000', {seconds}, 'unixepoch')",
        "id": "printf('%012x7%03x8%015x', CAST(({seconds}) * 1000 AS INTEGER), {i} % 4096, {i} * 16 + {kind})",
        "json": "{value}",
        "false": "0",
        # No ANALYZE: the application does not run it, so its plans are those without statistics.
        "finish": "PRAGMA wal_checkpoint(TRUNCATE)",
    },
    "postgresql": {
        "numbers": "",
        "from": "generate_series(1, {count}) AS n(i)",
        "time": "to_timestamp({seconds})",
        "id": "(lpad(to_hex((({seconds}) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex({i} % 4096), 3, '0') || '8' "
        "|| lpad(to_hex(({i} * 16 + {kind})::bigint), 15, '0'))::uuid",
        "json": "({value})::json",
        "false": "false",
        "finish": "VACUUM ANALYZE",
    },
}


class History:
    """The statements that write the rows of a week that ends now."""

    def __init__(self, dialect: str, jobs: int, now: datetime) -> None:
        self._forms, self._jobs = FORMS[dialect], jobs
        span = timedelta(days=DAYS).total_seconds()
        self._begin, self._step = f"{(now.timestamp() - span):.3f}", f"{span / jobs:.6f}"
        self._created = self._seconds("i")

    def statements(self) -> list[str]:
        """Return the inserts, in the order of their foreign keys."""
        return [self._batches(), self._records(), self._attempts(), self._mails()]

    def _batches(self) -> str:
        columns = {
            "id": self._id(3),
            "school_id": str(SCHOOL_OF_BATCHES),
            "name": "'slice.batch_' || (i % 3)",
            "then_args": "'{}'",
            "has_successors": self._forms["false"],
            "created_at": self._time("0"),
            "finished_at": f"CASE WHEN {OPENS_BATCH} THEN {self._time('900')} END",
            **{name: f"CASE WHEN {OPENS_BATCH} THEN {count} END" for name, count in COUNTS_OF_BATCH.items()},
        }
        return self._insert("job_batches", columns, f"{OPENS_BATCH} OR i = {OPEN_BATCH}")

    def _records(self) -> str:
        wait, run = "(i % 97) * 0.03", "(i % 89) * 0.05"
        is_claimed = "i % 100 < 96 OR i % 100 = 99"
        return self._insert(
            "job_records",
            {
                "id": self._id(0),
                "school_id": SCHOOL,
                "name": f"CASE WHEN i % 10 = 0 THEN 'mail.deliver' ELSE 'slice.job_' || (i % {NAMES}) END",
                "queue": "CASE WHEN i % 10 = 0 THEN 'mail' WHEN i % 4 = 1 THEN 'bulk' ELSE 'default' END",
                "state": STATE,
                "args": self._forms["json"].format(value="'{\"reservation_id\": ' || (i % 50000) || '}'"),
                "attempt": "1",
                "max_attempts": "5",
                "claims": "1",
                "interruptions": "0",
                "snoozes": "0",
                "suspicion": "0",
                "unique_while_waiting": self._forms["false"],
                "has_successors": self._forms["false"],
                "cancel_requested": self._forms["false"],
                "timeout_seconds": "1800",
                "batch_id": f"CASE WHEN {IS_OF_BATCH} OR {IS_OF_OPEN_BATCH} THEN {self._id(3, BATCH)} END",
                "subject_type": "'Reservation'",
                "subject_id": "CAST(i % 50000 AS VARCHAR)",
                "created_at": self._time("0"),
                "scheduled_at": f"CASE WHEN i % 100 IN (98, 99) THEN {self._time('600000')} END",
                "started_at": f"CASE WHEN {is_claimed} THEN {self._time(wait)} END",
                "finished_at": f"CASE WHEN {HAS_ENDED} THEN {self._time(f'{wait} + {run}')} END",
                "error_type": f"CASE WHEN {HAS_FAILED} THEN 'ConnectionRefusedError' END",
                "error_message": f"CASE WHEN {HAS_FAILED} THEN '[Errno 111] Connection refused' END",
                "fingerprint": f"CASE WHEN {HAS_FAILED} THEN {FINGERPRINT} END",
            },
        )

    def _attempts(self) -> str:
        columns = {
            "id": self._id(1),
            "job_id": self._id(0),
            "number": "1",
            "outcome": "'failed'",
            "worker": "'worker'",
            "host": "'host'",
            "finished_at": self._time("0"),
            "error_type": "'ConnectionRefusedError'",
            "error_message": "'[Errno 111] Connection refused'",
            "fingerprint": FINGERPRINT,
            "frame": "'app/slice/mails.py:job_' || (i % 40)",
        }
        return self._insert("job_attempts", columns, HAS_FAILED)

    def _mails(self) -> str:
        columns = {
            "id": self._id(2),
            "school_id": SCHOOL,
            "unique_key": "'history/' || i",
            "kind": "'kind-' || (i % 17)",
            "recipients": "'[\"user@example.org\"]'",
            "recipient": RECIPIENT,
            "context": "'{}'",
            "job_id": self._id(0),
            "state": f"CASE WHEN {MAIL_HAS_FAILED} THEN 'failed' ELSE 'sent' END",
            "attempts": "1",
            "uncertain_count": "0",
            "message_id": "'<' || i || '@example.org>'",
            "created_at": self._time("0"),
            "sent_at": f"CASE WHEN {MAIL_HAS_FAILED} THEN NULL ELSE {self._time('1')} END",
        }
        return self._insert("email_messages", columns, "i % 10 = 0")

    def _insert(self, table: str, columns: dict[str, str], condition: str = "i > 0") -> str:
        forms = self._forms
        rows = f"SELECT {', '.join(columns.values())} FROM {forms['from'].format(count=self._jobs)} WHERE {condition}"
        return f"{forms['numbers'].format(count=self._jobs)}INSERT INTO {table} ({', '.join(columns)}) {rows}"

    def _time(self, later: str) -> str:
        return self._forms["time"].format(seconds=f"{self._created} + {later}")

    def _id(self, kind: int, i: str = "i") -> str:
        return self._forms["id"].format(seconds=self._seconds(f"({i})"), i=f"({i})", kind=kind)

    def _seconds(self, i: str) -> str:
        return f"{self._begin} + {i} * {self._step}"


def load(jobs: int) -> None:
    """Write the rows into the database of the application whose context is open."""
    engine = db.engine
    for statement in History(engine.dialect.name, jobs, datetime.now(UTC)).statements():
        began_at = time.monotonic()
        with engine.begin() as connection:
            connection.exec_driver_sql(statement.replace("%", "%%") if engine.dialect.name != "sqlite" else statement)
        print(f"{statement.split('INSERT INTO ')[1].split()[0]} {time.monotonic() - began_at:.1f} s", flush=True)
    _add_others(datetime.now(UTC))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(FORMS[engine.dialect.name]["finish"]))


def fill(jobs: int) -> None:
    """Write the rows, and roll them up."""
    load(jobs)
    began_at = time.monotonic()
    pages = sum(1 for _ in roll_up_pages(db.session()))
    sample_queues(db.session())
    print(f"rolled up {pages} pages {time.monotonic() - began_at:.1f} s", flush=True)


def _add_others(now: datetime) -> None:
    """Write what users of one school did, and the run times of its schedule."""
    name = f"{CUSTOM_PREFIX}{SCHOOL_OF_BATCHES}.history"
    times = [now.replace(microsecond=0) - timedelta(minutes=minute) for minute in range(1, TICKS + 1)]
    ticking = {"job_name": "slice.job_1", "zone": "UTC", "first_tick_at": times[-1], "last_tick_at": times[0]}
    db.session.add(CustomSchedule(name=name, school_id=SCHOOL_OF_BATCHES, args={}, every_seconds=60, **ticking))
    ticks = [{"schedule": name, "tick_at": at, "outcome": TickOutcome.ENQUEUED} for at in times]
    db.session.execute(sa.insert(ScheduleTick), ticks)
    done = {"state": BulkState.FINISHED, "query": "state:failed", "total": 9, "done": 9, "changed": 9}
    operation = {"school_id": SCHOOL_OF_BATCHES, "kind": BulkKind.RETRY, "finished_at": now, **done}
    db.session.execute(sa.insert(BulkOperation), [operation] * OPERATIONS)
    db.session.commit()


def main() -> None:
    """Fill the database that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("url", metavar="DATABASE_URL")
    parser.add_argument("--jobs", type=int, default=JOBS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environ = {"APP_ENV": "testing", "SECRET_KEY": "x" * 40, "DATABASE_URL": options.url, "LOG_LEVEL": "ERROR"}
        app = create_app(environ=environ, instance_path=Path(folder), with_web=False)
        with app.app_context():
            fill(options.jobs)
            db.session.remove()
            db.engine.dispose()


if __name__ == "__main__":
    main()

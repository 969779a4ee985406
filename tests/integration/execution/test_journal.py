"""Progress and log lines: visible while the job runs, bounded, without secrets, and never the job's problem."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from sqlalchemy import event
from sqlalchemy.orm import Session

from flask_belfry.core import logs
from flask_belfry.db import BelfrySession, db, journal_engine
from flask_belfry.execution import Chunk, check_cancelled, claim, current_job, executor, job
from flask_belfry.execution import journal as journal_module
from flask_belfry.execution.errors import JobProgressError
from flask_belfry.execution.journal import Journal, journal
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobRecord, JobState, cancel, registry
from flask_belfry.outbox.models import JobLog
from tests.domain import Ticket, behaviour
from tests.job_records import asked, attempts_of, read, state_is
from tests.servers import wait_until

log = structlog.get_logger("tests.job")


@pytest.fixture(autouse=True)
def ticks(app, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """The thread of the journal writes when a test releases this."""
    ticks = threading.Semaphore(0)
    # Each journal keeps its own: the thread of another test's must not use up the ticks of this one.
    monkeypatch.setattr(Journal, "_pause", lambda self: vars(self).setdefault("ticks", ticks).acquire(timeout=30))
    yield ticks
    with journal(app).lock:
        journal(app)._changed.clear()
    ticks.release(100)


@pytest.fixture
def written(app) -> Iterator[list[str]]:
    """The statements of the journal's connection that write."""
    seen: list[str] = []

    def see(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "UPDATE job_records" in statement or "INSERT INTO job_logs" in statement:
            seen.append(statement)

    event.listen(journal_engine(app), "before_cursor_execute", see)
    yield seen
    event.remove(journal_engine(app), "before_cursor_execute", see)


def run(app, session: Session, *ids: str) -> executor.Transitions:
    items = claim.claim(session, ids, "worker-1")
    db.session.rollback()
    return executor.run(app, items, no_limit)


def lines_of(session: Session, id: str) -> list[dict[str, Any]]:
    session.rollback()
    found = session.scalars(sa.select(JobLog.lines).where(JobLog.job_id == id).order_by(JobLog.claim)).all()
    session.rollback()
    return [line for lines in found for line in lines]


def events_of(session: Session, id: str) -> list[str]:
    return [line["event"] for line in lines_of(session, id)]


def elsewhere(read_it: Callable[[sa.Connection], Any]) -> Any:
    """What another connection sees."""
    with db.engine.connect() as connection:
        return read_it(connection)


def test_progress_and_lines_are_visible_while_the_changes_of_the_job_are_not(app, session, ticks):
    seen: dict[str, Any] = {}

    def act(session: Session, ticket_id: int) -> None:
        if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer
            session.add(Ticket(title="invisible"))
            session.flush()
        current_job().progress(3, 7, "Class 7b")
        log.info("import.began", file="list.csv", rows=7)
        logging.getLogger("library").warning("row %d is empty", 5)
        ticks.release()
        query = sa.select(JobRecord.progress_done, JobRecord.progress_total, JobRecord.progress_text)
        wait_until(lambda: elsewhere(lambda c: c.execute(query).one())[0] is not None)
        seen["progress"] = elsewhere(lambda c: tuple(c.execute(query).one()))
        seen["log"] = elsewhere(lambda c: c.execute(sa.select(JobLog.lines, JobLog.worker, JobLog.claim)).one())
        seen["tickets"] = elsewhere(lambda c: c.scalar(sa.select(sa.func.count()).select_from(Ticket)))

    behaviour["act"] = act
    id = asked(session)
    assert dict(run(app, session, id))[id] is JobState.COMPLETED
    assert seen["progress"] == (3, 7, "Class 7b")
    assert seen["tickets"] == 0
    lines, worker, number = seen["log"]
    assert (worker, number) == ("worker-1", 1)
    assert [(line["number"], line["level"], line["event"]) for line in lines] == [
        (1, "info", "import.began"),
        (2, "warning", "row 5 is empty"),
    ]
    assert lines[0]["values"] == {"file": "list.csv", "rows": "7"}


def test_all_that_is_new_is_written_with_one_statement_each_at_every_tick(app, session, written, ticks):
    barrier = threading.Barrier(6)

    def act(session: Session, ticket_id: int) -> None:
        for number in range(50):
            current_job().progress(number, 50)
            log.info("step", number=number)
        barrier.wait(20)
        barrier.wait(20)

    behaviour["act"] = act
    ids = [asked(session, ticket_id=number) for number in range(5)]
    items = claim.claim(session, ids, "worker-1")
    threads = [threading.Thread(target=executor.run, args=(app, [item], no_limit)) for item in items]
    for thread in threads:
        thread.start()
    barrier.wait(20)
    assert written == []
    ticks.release()
    wait_until(lambda: len(lines_of(session, ids[0])) == 50)
    assert [statement.count("UPDATE job_records") for statement in written] == [1, 0]
    assert [read(session, id).progress_done for id in ids] == [49] * 5
    assert [len(lines_of(session, id)) for id in ids] == [50] * 5
    barrier.wait(20)
    for thread in threads:
        thread.join()


def test_a_job_that_reports_and_logs_nothing_costs_no_statement_and_no_thread(app, session, written):
    behaviour["act"] = lambda session, ticket_id: None
    run(app, session, asked(session))
    journal(app).flush()
    assert written == []
    assert journal(app)._thread is None


def test_the_last_progress_of_a_claim_is_written_after_its_end_but_not_over_the_next_claim(app, session):
    behaviour["act"] = lambda session, ticket_id: current_job().progress(7, 7)
    first, second = asked(session), asked(session)
    run(app, session, first)
    journal(app).flush()
    assert (read(session, first).state, read(session, first).progress_done) == (JobState.COMPLETED, 7)
    run(app, session, second)
    session.execute(sa.update(JobRecord).values(claims=2))
    session.commit()
    journal(app).flush()
    assert read(session, second).progress_done is None


def test_the_lines_of_a_job_also_reach_the_log_of_the_process(app, session, monkeypatch):
    handler = logging.StreamHandler(stream := io.StringIO())
    handler.setFormatter(logs.make_formatter("json"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])

    def act(session: Session, ticket_id: int) -> None:
        log.info("import.began", rows=7)
        logging.getLogger("library").warning("row %d is empty", 5)

    behaviour["act"] = act
    id = asked(session)
    run(app, session, id)
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in written if line.get("job_id") == id][:2] == ["import.began", "row 5 is empty"]


def test_of_many_lines_the_first_and_the_last_are_kept(app, session):
    def act(session: Session, ticket_id: int) -> None:
        for number in range(1_000):
            log.info("line", number=number, text="é" * (300 if ticket_id else 10))

    behaviour["act"] = act
    short, long = asked(session), asked(session, ticket_id=1)
    run(app, session, short)
    run(app, session, long)
    journal(app).flush()
    numbers = [line["number"] for line in lines_of(session, short)]
    assert numbers == [*range(1, 101), *range(901, 1_001)]
    numbers = [line["number"] for line in lines_of(session, long)]
    assert (numbers[0], numbers[-1]) == (1, 1_000)
    query = sa.select(sa.cast(JobLog.lines, sa.Text), JobLog.dropped).where(JobLog.job_id == long)
    text, dropped = session.execute(query).one()
    assert 55_000 < len(text.encode()) <= 64_000
    assert dropped == 1_000 - len(numbers)


def test_secrets_are_masked_in_lines_errors_and_tracebacks(app, session, caplog):
    secret = "tök'en/1234"

    @job("test.with_secret", secrets=("token", "pin"))
    def with_secret(session: Session, token: str, pin: int) -> None:
        event = f"calling with {token}"
        log.info(event, url=f"https://example.org/{token}", password="hunter2", pin_code=pin, n=17)
        log.info("nested", options={"token": "other", token: 1}, Authorization="Bearer abc", of=[{"password": "open"}])
        current_job().progress(1, text=f"for {token}")
        raise RuntimeError(f"refused: {token!r} {pin}")

    try:
        id = asked(session, "test.with_secret", token=secret, pin=7)
        run(app, session, id)
        journal(app).flush()
        record, (attempt,) = read(session, id), attempts_of(session, id)
    finally:
        registry.forget("test.with_secret")
    lines = lines_of(session, id)
    assert [line["event"] for line in lines] == ["calling with [secret]", "nested"]
    assert lines[0]["values"] == {
        "url": "https://example.org/[secret]",
        "password": "[secret]",
        "pin_code": "[secret]",
        "n": "17",
    }
    assert lines[1]["values"] == {
        "options": "{'token': '[secret]', '[secret]': 1}",
        "Authorization": "[secret]",
        "of": "[{'password': '[secret]'}]",
    }
    assert record.progress_text == "for [secret]"
    assert record.error_message.startswith("refused: ")
    shown = f"{lines} {record.error_message} {attempt.error_message} {attempt.traceback}"
    for form in (secret, repr(secret)[1:-1], "other", "hunter2", " 7"):
        assert form not in shown


def test_the_end_of_a_process_waits_for_a_pass_that_is_under_way(app, session, ticks, monkeypatch):
    behaviour["act"] = lambda session, ticket_id: log.info("last")
    id, is_writing, may_write = asked(session), threading.Event(), threading.Event()
    write = Journal._write

    def wait(self: Journal, news: Any) -> None:
        is_writing.set()
        assert may_write.wait(20)
        write(self, news)

    monkeypatch.setattr(Journal, "_write", wait)
    run(app, session, id)
    ticks.release()
    assert is_writing.wait(20)
    ending = threading.Thread(target=journal(app).flush)
    ending.start()
    ending.join(0.2)
    assert ending.is_alive()
    may_write.set()
    ending.join(20)
    assert events_of(session, id) == ["last"]


def test_secrets_must_be_arguments():
    with pytest.raises(ValueError, match="secrets must name arguments of the job, not 'tokn'"):
        job("test.typo", secrets=("tokn",))(lambda session, token: None)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [((-1,), "done"), ((1.5,), "done"), ((True,), "done"), ((2**63,), "done"), ((1, -1), "total"), ((1, 2, 3), "text")],
)
def test_progress_that_cannot_be_stored_is_refused(app, session, arguments, reason):
    def act(session: Session, ticket_id: int) -> None:
        with pytest.raises(JobProgressError, match=f"^{reason} must be"):
            current_job().progress(*arguments)

    behaviour["act"] = act
    id = asked(session)
    assert dict(run(app, session, id))[id] is JobState.COMPLETED


def test_the_text_of_progress_is_cut_and_storable(app, session):
    behaviour["act"] = lambda session, ticket_id: current_job().progress(0, None, "a\0" * 300)
    id = asked(session)
    run(app, session, id)
    journal(app).flush()
    assert read(session, id).progress_text == "a\N{REPLACEMENT CHARACTER}" * 100


def test_the_statements_that_write_answer_whether_to_stop(app, session, statements, ticks):
    queries: list[str] = []

    def cancel_as_user() -> None:
        with app.app_context():
            cancel([id])
            db.session.commit()

    def act(session: Session, ticket_id: int) -> None:
        current_job().progress(1)
        own = current_job()._logs[id]
        wait_until(lambda: ticks.release() or own.is_cancel_requested() is not None)
        statements.clear()
        check_cancelled()
        queries.extend(statements)
        user = threading.Thread(target=cancel_as_user)
        user.start()
        user.join()
        log.info("still here")
        wait_until(lambda: ticks.release() or own.is_cancel_requested())
        check_cancelled()

    behaviour["act"] = act
    id = asked(session)
    run(app, session, id)
    assert [attempt.traceback.splitlines()[-1] for attempt in attempts_of(session, id)] == [
        "flask_belfry.execution.errors.JobCancelledError: cancelled by a user"
    ]
    assert read(session, id).state is JobState.CANCELLED
    assert queries == []


def test_lines_of_a_chunk_belong_to_the_record_that_it_works_on(app, session):
    def act(chunk: Chunk) -> None:
        log.info("connected")
        for item in chunk:
            logging.getLogger("library").info("ticket %d", item.args["ticket_id"])
            chunk.answer(item)
        with pytest.raises(JobProgressError, match="a chunk has no progress"):
            current_job().progress(1)

    behaviour["chunk"] = act
    ids = [asked(session, "test.act_in_chunks", ticket_id=number) for number in (1, 2)]
    run(app, session, *ids)
    journal(app).flush()
    assert [events_of(session, id) for id in ids] == [["connected", "ticket 1"], ["ticket 2"]]


def test_lines_are_written_beside_those_of_other_jobs(app, session, ticks):
    def act(session: Session, ticket_id: int) -> None:
        query = sa.select(JobLog.lines).where(JobLog.job_id == current_job().claim.id)
        for number in (1, 2):
            log.info("line", number=number)
            wait_until(
                lambda number=number: ticks.release() or len(elsewhere(lambda c: c.scalar(query)) or ()) == number
            )

    behaviour["act"] = act
    ids = [asked(session, ticket_id=number) for number in (1, 2, 3)]
    run(app, session, *ids)
    assert [events_of(session, id) for id in ids] == [["line", "line"]] * 3


def test_what_cannot_be_written_is_kept_and_reported_once(app, session, monkeypatch, caplog):
    def act(session: Session, ticket_id: int) -> None:
        log.info("first")
        current_job().progress(5)

    behaviour["act"] = act
    id = asked(session)
    run(app, session, id)

    def fail(connection: object, cursor: object, *_: object) -> None:
        raise sa.exc.OperationalError("x", {}, Exception("the server is gone"))

    monkeypatch.setattr(journal_module, "MAX_SKIPS", 2)  # it counts the records that are skipped
    event.listen(journal_engine(app), "before_cursor_execute", fail)
    journal(app).write()
    journal(app).write()
    event.remove(journal_engine(app), "before_cursor_execute", fail)
    assert lines_of(session, id) == []
    assert len([one for one in caplog.records if "journal.not_written" in one.getMessage()]) == 1
    journal(app).write()
    assert events_of(session, id) == ["first"]
    assert read(session, id).progress_done == 5


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_lines_of_a_job_survive_a_crash_of_the_database_while_it_runs(app, session, postgres, ticks, caplog):
    def is_not_written() -> bool:
        return any("journal.not_written" in one.getMessage() for one in caplog.records)

    def act(session: Session, ticket_id: int) -> None:
        log.info("before")
        postgres.stop("immediate")
        try:
            log.info("during")
            current_job().progress(2, 3)
            ticks.release()
            wait_until(is_not_written)
        finally:
            postgres.start()

    behaviour["act"] = act
    id = asked(session)
    run(app, session, id)
    assert events_of(session, id) == []
    journal(app).write()
    assert [event for event in events_of(session, id) if event in ("before", "during")] == ["before", "during"]
    assert read(session, id).progress_done == 2


@pytest.fixture
def locked(app, session) -> Iterator[Callable[[str], None]]:
    """Lock a record in another transaction, until the end of the test or of the `with` block."""
    with BelfrySession(db=db) as other:

        def lock(id: str) -> None:
            other.execute(sa.select(JobRecord.id).where(JobRecord.id == id).with_for_update())

        yield lock
        other.rollback()


def write_without_waiting(app) -> None:
    """Write what is new, and fail when that waits for a lock."""
    thread = threading.Thread(target=journal(app).write, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_record_that_another_transaction_has_locked_delays_no_other(app, session, locked, monkeypatch):
    def act(session: Session, ticket_id: int) -> None:
        current_job().progress(1)
        log.info("line")

    behaviour["act"] = act
    free, busy = asked(session), asked(session)
    run(app, session, free, busy)
    locked(busy)
    write_without_waiting(app)
    assert [(read(session, id).progress_done, events_of(session, id)) for id in (free, busy)] == [
        (1, ["line"]),
        (None, []),
    ]
    # It is tried again, for a time.
    assert len(journal(app)._changed) == 1
    monkeypatch.setattr(journal_module, "MAX_SKIPS", 3)
    write_without_waiting(app)
    assert len(journal(app)._changed) == 1
    write_without_waiting(app)
    assert len(journal(app)._changed) == 0


def test_the_oldest_logs_are_dropped_when_too_much_waits_for_the_database(app, session, monkeypatch):
    behaviour["act"] = lambda session, ticket_id: [log.info("x" * 1_000) for _ in range(10)]
    ids = [asked(session) for _ in range(3)]
    for id in ids:
        run(app, session, id)

    def fail(connection: object, cursor: object, *_: object) -> None:
        raise sa.exc.OperationalError("x", {}, Exception("the server is gone"))

    monkeypatch.setattr(journal_module, "MAX_KEPT_BYTES", 25_000)
    event.listen(journal_engine(app), "before_cursor_execute", fail)
    journal(app).write()
    event.remove(journal_engine(app), "before_cursor_execute", fail)
    journal(app).write()
    assert [len(lines_of(session, id)) for id in ids] == [0, 10, 10]


def test_the_log_of_a_deleted_job_is_dropped(app, session, written):
    behaviour["act"] = lambda session, ticket_id: log.info("late")
    kept, deleted = asked(session), asked(session)
    run(app, session, kept)
    journal(app).flush()
    run(app, session, deleted)
    session.execute(sa.delete(JobRecord))
    session.commit()
    journal(app).flush()
    assert session.scalar(sa.select(sa.func.count()).select_from(JobLog)) == 0


def test_a_process_that_a_job_forks_adds_nothing(app, session):
    def act(session: Session, ticket_id: int) -> None:
        log.info("before")
        if (pid := os.fork()) == 0:
            log.info("in the child")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        log.info("after")

    behaviour["act"] = act
    id = asked(session)
    run(app, session, id)
    journal(app).flush()
    assert events_of(session, id) == ["before", "after"]


@pytest.mark.parametrize("kind", ["light", "heavy"])
def test_a_line_survives_the_kill_of_its_worker(session, processes, kind):
    name, options = ("test.log_on", ()) if kind == "light" else ("test.heavy_log_on", ("--heavy",))
    id = asked(session, name)
    worker = processes.worker(*options)
    wait_until(lambda: events_of(session, id) == ["logged"], seconds=60)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(10)
    assert events_of(session, id) == ["logged"]
    assert read(session, id).progress_done == 1


def test_a_work_horse_writes_everything_before_its_end(session, processes):
    id = asked(session, "test.heavy_log_on", seconds=0.0)
    processes.worker("--heavy", "--burst")
    wait_until(state_is(session, id, JobState.COMPLETED), seconds=60)
    wait_until(lambda: events_of(session, id) == ["logged"], seconds=30)

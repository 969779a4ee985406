"""Steps: pages of a job that are committed one by one, each with the cursor, so that its effect happens once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_belfry.changes import Actor, current_actor, use_actor
from flask_belfry.db import db, table_of
from flask_belfry.execution import attempts, claim, current_job, executor
from flask_belfry.execution.errors import JobStepsError
from flask_belfry.execution.journal import journal
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.outbox import JobRecord, JobState, cancel, enqueue, retry
from flask_belfry.outbox.models import AttemptOutcome
from tests.domain import Ticket, behaviour
from tests.executions import Panic, database_locked
from tests.job_records import asked, attempts_of, count, read
from tests.reservation_factories import make_reservation, make_school, make_user

TICKETS = table_of(Ticket)


def add_tickets(session: Session, number: int, **values: Any) -> None:
    """Write tickets past the hook that enqueues a job for each, and commit."""
    session.connection().execute(sa.insert(TICKETS), [{"title": f"t{n:02}", **values} for n in range(number)])
    session.commit()


def mark(session: Session, page: Any) -> None:
    """Write a row for each number of a page, past the hook."""
    session.connection().execute(sa.insert(TICKETS), [{"title": f"did {n}"} for n in page])


def done(session: Session) -> list[int]:
    """Return for which numbers there is a row, in their order."""
    session.rollback()
    titles = session.scalars(sa.select(Ticket.title).where(Ticket.title.startswith("did ")).order_by(Ticket.id)).all()
    session.rollback()
    return [int(title.removeprefix("did ")) for title in titles]


@pytest.fixture
def run(app, session, clock) -> Callable[..., list[JobState]]:
    """Runs the next attempt of a job as a worker does, and returns its new state."""

    def run(id: str, should_stop: Callable[[], bool] = lambda: False) -> list[JobState]:
        session.rollback()
        clock.shift(200)  # past every delay
        items = claim.claim(session, [id], "w")
        return [state for _, state in executor.run(app, items, no_limit, should_stop)]

    return run


def test_a_page_is_committed_before_the_next_one_with_the_cursor_and_the_progress(app, session, run):
    seen = []

    def look() -> None:
        with app.app_context(), db.engine.connect() as connection:
            columns = JobRecord.cursor, JobRecord.progress_done, JobRecord.progress_total
            cursor, *progress = connection.execute(sa.select(*columns)).one()
            rows = connection.scalar(sa.select(sa.func.count()).select_from(TICKETS))
        seen.append((rows, progress, cursor and cursor["steps"]["done"]))

    def act(session: Session, ticket_id: int) -> str:
        for page in current_job().steps(range(5), size=2):
            thread = threading.Thread(target=look)  # the job itself must not commit, not even elsewhere
            thread.start()
            thread.join()
            mark(session, page)
        return "all"

    behaviour["act"] = act
    id = asked(session)
    assert run(id) == [JobState.COMPLETED]
    assert seen == [(0, [None, None], None), (2, [2, 5], 2), (4, [4, 5], 4)]
    record = read(session, id)
    assert (record.result, record.attempt, record.progress_done, record.progress_total) == ("all", 1, 5, 5)
    assert done(session) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("failing", [ValueError, Panic, database_locked])
def test_a_failed_page_is_rolled_back_and_the_next_attempt_continues_there(session, run, failing):
    pages = []

    def act(session: Session, ticket_id: int) -> None:
        for page in current_job().steps(range(6), size=2):
            pages.append(list(page))
            mark(session, page)
            if len(pages) == 2:
                raise failing()

    behaviour["act"] = act
    id = asked(session)
    assert run(id)[0] in (JobState.RETRYABLE, JobState.PENDING)
    assert done(session) == [0, 1]
    assert read(session, id).cursor == {"steps": {"key": ["index"], "after": [2], "done": 2, "total": 6}}
    assert run(id) == [JobState.COMPLETED]
    assert pages == [[0, 1], [2, 3], [2, 3], [4, 5]]
    assert done(session) == [0, 1, 2, 3, 4, 5]


def test_a_manual_retry_continues_at_the_cursor(session, run):
    is_broken = True

    def act(session: Session, ticket_id: int) -> None:
        for page in current_job().steps(range(4), size=2):
            if is_broken and page[0] == 2:
                raise RuntimeError("broken")
            mark(session, page)

    behaviour["act"] = act
    id = asked(session)
    assert [run(id) for _ in range(3)][-1] == [JobState.FAILED]
    is_broken = False
    assert retry([id]) == [id]
    session.commit()
    assert run(id) == [JobState.COMPLETED]
    assert done(session) == [0, 1, 2, 3]


def test_a_query_is_read_in_the_order_of_its_key_and_only_what_meets_its_condition(session, run):
    add_tickets(session, 5)
    add_tickets(session, 2, touched=7)
    pages, rest = [], []

    def act(session: Session, ticket_id: int) -> None:
        query = sa.select(Ticket).where(Ticket.touched == 0).order_by(Ticket.title.desc())
        for page in current_job().steps(query, size=2):
            pages.append([ticket.title for ticket in page])
            for ticket in page:
                ticket.touched = 1  # it no longer meets the condition
        rest.extend(session.scalars(sa.select(Ticket.touched)))

    behaviour["act"] = act
    id = asked(session)
    assert run(id) == [JobState.COMPLETED]
    assert pages == [["t00", "t01"], ["t02", "t03"], ["t04"]]
    assert Counter(rest) == {1: 5, 7: 2}
    record = read(session, id)
    assert (record.progress_done, record.progress_total) == (5, 5)
    assert record.cursor["steps"]["key"] == ["id"]


@pytest.mark.parametrize(
    ("query", "key", "pages"),
    [
        (lambda: sa.select(Ticket.id, Ticket.touched), None, [[0, 0], [2, 2], [1, 1]]),
        (lambda: sa.select(Ticket.touched, Ticket.id), Ticket.touched, [[0, 0], [1, 1], [2, 2]]),
        (lambda: sa.select(Ticket), (Ticket.touched,), [[0, 0], [1, 1], [2, 2]]),
        (lambda: sa.select(Ticket, Ticket.title), Ticket.touched, [[0, 0], [1, 1], [2, 2]]),
        (lambda: sa.select(Ticket).with_for_update(), Ticket.touched, [[0, 0], [1, 1], [2, 2]]),
    ],
)
def test_a_key_of_its_own_is_made_unique_by_the_primary_key(session, run, query, key, pages):
    for touched in (0, 2, 1):
        add_tickets(session, 2, touched=touched)
    seen, fails = [], [True, True]

    def act(session: Session, ticket_id: int) -> None:
        for page in current_job().steps(query(), size=2, key=key):
            seen.append([row[0].touched if hasattr(row, "Ticket") else row.touched for row in page])
            if fails.pop() if len(seen) == 2 else False:
                raise RuntimeError("the next attempt reads the cursor")

    behaviour["act"] = act
    id = asked(session)
    assert run(id) == [JobState.RETRYABLE]
    assert run(id) == [JobState.COMPLETED]
    assert seen == [pages[0], pages[1], pages[1], pages[2]]
    assert read(session, id).progress_total == (None if "FOR UPDATE" in str(query()) else 6)


def test_times_and_uuids_are_keys_too(session, run):
    """The records of the jobs themselves, which have both."""
    ids, seen = sorted(enqueue("test.echo", value=n) for n in range(5)), []
    session.commit()

    def act(session: Session, ticket_id: int) -> None:
        query = sa.select(JobRecord).where(JobRecord.name == "test.echo")
        for page in current_job().steps(query, size=2, key=JobRecord.created_at):
            seen.extend(record.id for record in page)
            if len(seen) == 4:
                raise RuntimeError("the next attempt reads the cursor")

    behaviour["act"] = act
    id = asked(session)
    assert run(id) == [JobState.RETRYABLE]
    assert run(id) == [JobState.COMPLETED]
    assert seen == [*ids[:4], *ids[2:]]


def test_what_a_page_enqueues_is_published_by_its_commit(session, run, broker):
    queued = []

    def act(session: Session, ticket_id: int) -> None:
        for page in current_job().steps(range(3), size=1):
            queued.append(broker.llen("rq:queue:default"))
            enqueue("test.echo", value=page[0])

    behaviour["act"] = act
    id = asked(session)
    broker.flushall()
    assert run(id) == [JobState.COMPLETED]
    assert queued == [0, 1, 2]


def test_a_lost_claim_commits_no_page(app, session, run):
    def lose() -> None:
        with app.app_context():
            (item,) = claim.claims_of(db.session(), JobRecord.name == "test.act")
            attempts.interrupt(db.session(), item, "thought dead")
            db.session.commit()

    def act(session: Session, ticket_id: int) -> None:
        for page in current_job().steps(range(4), size=2):
            if page[0] == 2:
                thread = threading.Thread(target=lose)
                thread.start()
                thread.join()
            mark(session, page)

    behaviour["act"] = act
    id = asked(session)
    assert run(id) == []
    record = read(session, id)
    assert (record.state, record.cursor["steps"]["done"]) == (JobState.PENDING, 2)
    assert done(session) == [0, 1]


def test_a_job_whose_process_ends_stops_between_two_pages_and_uses_no_attempt(session, run):
    def act(session: Session, ticket_id: int) -> None:
        try:
            for page in current_job().steps(range(4), size=2):
                mark(session, page)
        except BaseException:
            session.add(Ticket(title="not to stay"))  # that it catches the error completes nothing

    behaviour["act"] = act
    id = asked(session)
    assert run(id, lambda: bool(done_elsewhere())) == [JobState.PENDING]
    record = read(session, id)
    assert (record.attempt, record.claims, record.cursor["steps"]["done"]) == (0, 1, 2)
    assert attempts_of(session, id) == []
    assert run(id, lambda: len(done_elsewhere()) == 4) == [JobState.COMPLETED]  # no page is left to wait for
    assert (done(session), count(session, Ticket)) == ([0, 1, 2, 3], 4)
    assert read(session, id).attempt == 1


def done_elsewhere() -> list[str]:
    """Return what other transactions see of the work."""
    with db.engine.connect() as connection:
        return list(connection.scalars(sa.select(TICKETS.c.title)))


def test_a_cancelled_job_stops_between_two_pages_and_keeps_what_is_committed(app, session, run):
    def cancel_it() -> None:
        with app.app_context():
            cancel([id])
            db.session.commit()

    def act(session: Session, ticket_id: int) -> None:
        for page in current_job().steps(range(4), size=2):
            thread = threading.Thread(target=cancel_it)
            thread.start()
            thread.join()
            mark(session, page)

    behaviour["act"] = act
    id = asked(session)
    assert run(id) == [JobState.CANCELLED]
    assert done(session) == [0, 1]
    assert [attempt.outcome for attempt in attempts_of(session, id)] == [AttemptOutcome.CANCELLED]


def test_loops_follow_each_other_each_with_its_name_and_one_that_is_left_continues_after_its_page(session, run):
    seen = []

    def act(session: Session, ticket_id: int) -> None:
        job = current_job()
        for page in job.steps(range(9), size=1, name="left"):
            seen.append(f"left {page[0]}")
            mark(session, page)
            break
        for page in job.steps(range(10, 12), size=1, name="second", total=99):
            seen.append(f"second {page[0]}")
            mark(session, page)
            if seen.count("second 11") == 1:
                raise RuntimeError("once")

    behaviour["act"] = act
    id = asked(session)
    assert run(id) == [JobState.RETRYABLE]
    assert (read(session, id).progress_done, read(session, id).progress_total) == (1, 99)
    assert run(id) == [JobState.COMPLETED]
    assert seen == ["left 0", "second 10", "second 11", "left 1", "second 11"]
    assert done(session) == [0, 10, 1, 11]
    assert {name: at["after"] for name, at in read(session, id).cursor.items()} == {"left": [2], "second": [2]}


def nested(session: Session) -> None:
    for _ in current_job().steps(range(2), name="outer"):
        for _ in current_job().steps(range(2), name="inner"):
            pass


def within_savepoint(session: Session) -> None:
    with session.begin_nested():
        for _ in current_job().steps(range(2)):
            pass


def twice(session: Session) -> None:
    for _ in range(2):
        for _ in current_job().steps(range(2)):
            pass


def of_another_key(session: Session) -> None:
    key = None if current_job().claim.attempt == 1 else Ticket.touched
    for page in current_job().steps(sa.select(Ticket), size=1, key=key):
        if page[0].id > 1:
            raise RuntimeError("the next attempt reads the cursor")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (nested, "steps cannot be nested: the commit of the inner page would commit half of the outer one"),
        (within_savepoint, "a savepoint is open at the end of the page"),
        (twice, "the steps 'steps' were begun before: give each loop of the job its own name"),
        (of_another_key, "the cursor of steps 'steps' has the key ['id'], not ['touched', 'id']: use a new name"),
        (lambda _: current_job().steps(range(2), size=0), "size must be an integer from 1 on, not 0"),
        (lambda _: current_job().steps(range(2), name=""), "the name of steps must be text of 1 to 80 characters"),
        (lambda _: current_job().steps("text"), "steps go through a select, or a sequence without a key, not str"),
        (lambda _: current_job().steps(sa.select(sa.func.count())), "the query must select an entity"),
        (lambda _: current_job().steps(sa.select(Ticket).limit(5)), "the query must not have a limit or an offset"),
        (lambda _: current_job().steps(sa.select(Ticket.title)), "the query must select its key: id is missing"),
        (
            lambda _: current_job().steps(sa.select(JobRecord), key=JobRecord.batch_id),
            "the key must not be NULL: batch_id can be",
        ),
        (
            lambda _: list(current_job().steps(sa.select(Ticket.id, JobRecord.id).join(JobRecord, sa.true()))),
            "the key must be unique: several rows have ['id'] = (",
        ),
    ],
)
def test_steps_that_would_not_be_right_are_refused(session, run, act, message):
    add_tickets(session, 3)
    behaviour["act"] = lambda session, ticket_id: act(session) and None
    id = asked(session)
    enqueue("test.echo")
    session.commit()
    for _ in range(3):
        run(id)
    record = read(session, id)
    assert (record.state, record.error_type) == (JobState.FAILED, JobStepsError.__name__), record.error_message
    assert record.error_message.startswith(message)


def test_a_chunk_has_no_steps(app, session):
    def chunk(chunk) -> None:
        current_job().steps(range(3))

    behaviour["chunk"] = chunk
    id = asked(session, "test.act_in_chunks", ticket_id=1)
    executor.run(app, claim.claim(session, [id], "w"), no_limit)
    assert read(session, id).error_message == "a chunk has no steps: each of its records is a job of its own"


def test_a_commit_that_the_function_makes_itself_is_refused_and_no_page_commits_after_it(session, run):
    def act(session: Session, ticket_id: int) -> None:
        for page in current_job().steps(range(4), size=2):
            mark(session, page)
            if page[0] == 2:
                try:
                    session.commit()
                except Exception:
                    session.rollback()

    behaviour["act"] = act
    id = asked(session)
    run(id)
    assert read(session, id).error_type == "CommitInJobError"
    assert done(session) == [0, 1]


def test_a_committed_page_ends_a_row_of_interruptions(app, session):
    states = []

    def interrupt() -> None:
        with app.app_context():
            states.append(attempts.interrupt(db.session(), item, "SIGKILL"))  # of a claim from before the page
            db.session.commit()

    def act(session: Session, ticket_id: int) -> None:
        for page in current_job().steps(range(4), size=2):
            if page[0] == 2:
                thread = threading.Thread(target=interrupt)
                thread.start()
                thread.join()

    behaviour["act"] = act
    id = asked(session)
    session.execute(sa.update(JobRecord).values(interruptions=2, suspicion=1))
    session.commit()
    (item,) = claim.claim(session, [id], "w")
    executor.run(app, [item], no_limit)
    assert states == [JobState.PENDING]
    assert (read(session, id).interruptions, read(session, id).suspicion) == (1, 0)


def test_the_progress_that_a_job_reports_itself_is_left_alone(app, session, run):
    def act(session: Session, ticket_id: int) -> None:
        for page in current_job().steps(range(4), size=2):
            current_job().progress(page[0] * 100, 400, "of its own")

    behaviour["act"] = act
    id = asked(session)
    assert run(id) == [JobState.COMPLETED]
    journal(app).flush()
    record = read(session, id)
    assert (record.progress_done, record.progress_total, record.progress_text) == (200, 400, "of its own")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_every_page_is_read_and_written_in_the_scope_and_in_the_name_of_the_user(session, run):
    from app.reservations import Reservation

    ours = [make_reservation() for _ in range(3)]
    theirs = make_reservation(make_user(school_id=make_school().id))
    ids, actors = [each.id for each in ours], set()

    def act(session: Session, ticket_id: int) -> None:
        for page in current_job().steps(sa.select(Reservation), size=2):
            actors.add(current_actor().user_id)
            for reservation in page:
                reservation.note = "stepped"
                enqueue("test.echo", value=reservation.id)

    behaviour["act"] = act
    with use_actor(Actor(ours[0].customer_id, school_id=ours[0].school_id)):
        id = asked(session)
    customer_id, school_id, other_id = ours[0].customer_id, ours[0].school_id, theirs.id
    assert run(id) == [JobState.COMPLETED]
    assert actors == {customer_id}
    session.rollback()
    assert set(session.scalars(sa.select(Reservation.id).where(Reservation.note == "stepped"))) == {*ids} - {other_id}
    echoes = sa.select(JobRecord.school_id, JobRecord.user_id).where(JobRecord.name == "test.echo")
    assert set(map(tuple, session.execute(echoes))) == {(school_id, customer_id)}
    assert read(session, id).progress_total == 3  # what is counted is of the school too


def test_a_job_without_steps_costs_no_statement_for_them(session, run, statements):
    behaviour["act"] = lambda session, ticket_id: session.execute(sa.select(1)).scalar()
    id = asked(session)
    statements.clear()
    assert run(id) == [JobState.COMPLETED]
    assert [statement.split()[0] for statement in statements] == ["UPDATE", "SELECT", "UPDATE"]


def test_steps_that_changed_nothing_complete_later_like_any_job(app, session, work):
    behaviour["act"] = lambda session, ticket_id: [list(page) for page in current_job().steps(range(3), size=2)]
    id = asked(session)
    work()
    record = read(session, id)
    assert (record.state, record.result) == (JobState.COMPLETED, [[0, 1], [2]])
    assert record.cursor["steps"]["done"] == 3

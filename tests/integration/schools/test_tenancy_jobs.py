"""Jobs and mails keep to their school; and what passes the scope by is listed, with the reason why it may."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

import app as application
from app.audit import AuditEntry
from app.reservations import Reservation
from flask_belfry.changes import Actor, Subject, current_actor, for_school, use_actor
from flask_belfry.db.tenancy import Scope, use_scope
from flask_belfry.execution import claim, executor
from flask_belfry.execution.time_limits import no_limit
from flask_belfry.mail import EmailMessage, send_mail
from flask_belfry.outbox import JobRecord, JobState, enqueue
from tests.domain import behaviour
from tests.reservation_factories import make_reservation, make_school, make_user, tomorrow

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def ours(app):
    return make_reservation()


@pytest.fixture
def theirs(app):
    return make_reservation(make_user(school_id=make_school().id))


@pytest.fixture
def run(app, session):
    """Runs jobs as a worker does, all of one name at once; returns their states."""

    def run(*ids: str) -> list[JobState]:
        session.commit()
        items = claim.claim(session, ids, "test")
        return [state for _, state in executor.run(app, items, no_limit)]

    return run


def test_a_job_sees_its_schools_rows_and_what_it_writes_and_asks_for_is_its_schools(session, run, ours, theirs):
    seen = {}

    def act(session, ticket_id):
        seen[ticket_id] = set(session.scalars(sa.select(Reservation.id)))
        if ticket_id:
            actor = current_actor()
            enqueue("test.greet", ticket_id=ticket_id)
            session.add(
                Reservation(customer_id=actor.user_id, school_id=actor.school_id, start_time=tomorrow(), note="by job")
            )

    behaviour["act"] = act
    with use_actor(Actor(theirs.customer_id, school_id=theirs.school_id)):
        of_school = enqueue("test.act", ticket_id=1)
    of_system = enqueue("test.act", ticket_id=0)
    assert run(of_school) == run(of_system) == [JobState.COMPLETED]
    made = session.scalars(sa.select(Reservation).where(Reservation.note == "by job")).one()
    assert seen == {1: {theirs.id}, 0: {ours.id, theirs.id, made.id}}
    asked = sa.select(JobRecord.school_id).where(JobRecord.name.in_(["test.greet", "mail.deliver"]))
    asked = asked.where(JobRecord.subject_id.is_(None) | (JobRecord.subject_id == str(made.id)))
    assert set(session.scalars(asked)) == {theirs.school_id}


def test_a_job_that_writes_into_another_school_fails(session, run, ours, theirs):
    customer_id, school_id = ours.customer_id, ours.school_id

    def act(session, ticket_id):
        session.add(Reservation(customer_id=customer_id, school_id=school_id, start_time=tomorrow()))

    behaviour["act"] = act
    with for_school(theirs.school_id):
        id = enqueue("test.act")
    run(id)
    assert session.get(JobRecord, id, populate_existing=True).error_type == "TenancyError"


def test_jobs_for_a_chunk_of_several_schools_belong_to_no_school(session, run, ours, theirs):
    origins = []
    behaviour["chunk"] = lambda chunk: [(origins.append(current_actor()), chunk.answer(item)) for item in chunk]
    schools = [ours.school_id, theirs.school_id]

    def asked(school_id):
        with for_school(school_id):
            return enqueue("test.act_in_chunks", ticket_id=1)

    run(*[asked(school_id) for school_id in schools])
    run(asked(schools[0]), asked(schools[0]))
    run(asked(schools[1]))
    assert [actor.school_id for actor in origins] == [None, None, schools[0], schools[0], schools[1]]


def test_a_mail_of_a_school_shows_no_data_of_another(session, run, ours, theirs):
    about = Subject("reservation", str(theirs.id))
    context = {"old": "pending", "new": "confirmed", "at": tomorrow().isoformat(), "by": None}

    def send(school_id, subject):
        with for_school(school_id):
            mail_id = send_mail("reservation-status", "a@example.org", str(subject), context=context, subject=subject)
        return session.get(EmailMessage, mail_id)

    forged = send(ours.school_id, about)
    other = send(theirs.school_id, Subject("reservation", "0"))  # so that the chunk is of several schools
    run(forged.job_id, other.job_id)
    session.refresh(forged)
    assert (forged.state, forged.last_error) == ("skipped", "its subject no longer exists")


def test_deletions_in_bulk_are_recorded_for_the_scopes_rows_only(session, ours, theirs):
    ours_id = str(ours.id)
    with use_scope(Scope(ours.school_id)):
        session.execute(sa.delete(Reservation))
        session.commit()
    deleted = sa.select(AuditEntry.subject_id).where(AuditEntry.action == "reservation.delete")
    assert session.scalars(deleted).all() == [ours_id]


# The packages whose statements a scope narrows. Workers and the scheduler see all schools.
SCOPED = ("app", *(f"flask_belfry/{package}" for package in ("changes", "db", "mail", "operations", "outbox")))
# Statements on a connection, which the scope does not reach, by module: how many, and why each may.
ON_A_CONNECTION = {
    "app/audit/recording.py": (2, "inserts, and the rows of a bulk deletion, narrowed by hand"),
    "app/demo/commands.py": (4, "commands only"),
    "app/demo/directory.py": (3, "commands only"),
    "app/demo/work_items.py": (4, "commands only"),
    "app/notifications/audiences.py": (3, "the people of one school, which is a condition of each part"),
    "app/notifications/channels.py": (1, "by the ids of the recipients of one notification"),
    "app/notifications/delivering.py": (5, "by the ids of the recipients and deliveries of one notification"),
    "app/notifications/emails.py": (1, "by the ids of deliveries that the ledger has for mails"),
    "flask_belfry/mail/domain_holds.py": (5, "domains of email addresses, which belong to no school"),
    "flask_belfry/mail/ledger.py": (
        8,
        "by the ids of jobs that a worker holds or that have ended; counts without content, for all schools",
    ),
    "flask_belfry/operations/problems.py": (1, "a command, of the migrations' table"),
    "flask_belfry/operations/webhooks.py": (1, "by the ids of jobs that have failed, for receivers of all schools"),
    "flask_belfry/changes/bulk.py": (2, "narrowed by hand; updates by key are refused in a scope"),
    "flask_belfry/outbox/deployment.py": (1, "the deployment's own id"),
    "flask_belfry/db/inserts.py": (1, "inserts"),
    "flask_belfry/outbox/registry.py": (2, "inserts, the id of the job that holds a key which its caller knows"),
    "flask_belfry/outbox/requests.py": (1, "runs nothing"),
    "flask_belfry/outbox/backlog.py": (
        1,
        "the ids of pending jobs, for workers and the scheduler, which serve all schools",
    ),
    "flask_belfry/outbox/batches.py": (4, "an insert; by the ids of batches whose jobs were finalized; the scheduler"),
    "flask_belfry/outbox/joining.py": (
        1,
        "the state of a batch that a scoped statement has found, or a job belongs to",
    ),
    "flask_belfry/outbox/pauses.py": (7, "pauses, which belong to no school; jobs that the scheduler releases"),
    "flask_belfry/outbox/successors.py": (
        5,
        "narrowed by hand; by the ids of jobs and batches that were finalized; whether jobs wait for each other",
    ),
    "flask_belfry/outbox/unique_periods.py": (3, "by the keys that the caller knows, without content"),
    "flask_belfry/changes/recording.py": (2, "inserts; the one that selects is narrowed by hand"),
    "app/notifications/push_delivery.py": (
        3,
        "by the ids of jobs that a worker holds or that have ended, and of notifications that a scoped statement found",
    ),
    "app/notifications/digest_emails.py": (1, "by the ids of deliveries of the mails that the job was given"),
    "app/notifications/digests.py": (3, "by the ids of deliveries that a scoped statement has found"),
    "app/reservations/hooks.py": (1, "by the ids of rows that a scoped statement has changed"),
    "app/work_items/digests.py": (2, "by the ids of items that a scoped statement has changed"),
    "app/work_items/ordering.py": (1, "by the ids of cards of one school's column"),
    "app/work_items/recipients.py": (1, "by the ids of items that were changed or read within the scope"),
}


def test_what_runs_on_a_connection_is_listed_with_a_reason(app):
    root = Path(application.__file__).parent.parent
    found = {
        path.relative_to(root).as_posix(): len(re.findall(r"\.connection\(\)", path.read_text()))
        for package in SCOPED
        for path in (root / package).rglob("*.py")
    }
    found = {path: count for path, count in found.items() if count}
    listed = {path: count for path, (count, _) in ON_A_CONNECTION.items()}
    assert found.items() - listed.items() == set(), "each needs its number and a reason in ON_A_CONNECTION"
    assert listed.keys() - found.keys() == set(), "these lines of ON_A_CONNECTION are of files without such a statement"

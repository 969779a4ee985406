"""A reservation's change becomes a job and a mail in the same transaction, one by one and in bulk."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
import sqlalchemy as sa

from app import reservations
from app.accounts import Role, User
from app.reservations import Reservation, ReservationStatus, history_of
from app.reservations.emails import MAX_NEW_PER_HOUR
from app.reservations.history import history_for
from flask_belfry.changes import Actor, StatusChange, use_actor
from flask_belfry.core.clock import utc_now
from flask_belfry.db import db
from flask_belfry.mail import EmailMessage, MailState
from flask_belfry.mail.registry import kind_of
from flask_belfry.mail.rendering import render
from flask_belfry.outbox import JobRecord, JobState, enqueue
from tests.job_records import count
from tests.ledger import contexts, mails
from tests.reservation_factories import insert_reservations, make_reservation, make_user, tomorrow


@pytest.fixture
def settings(settings, request):
    """With a mail server where a test requests one."""
    if "smtp" not in request.fixturenames:
        return settings
    return settings | {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(request.getfixturevalue("smtp").port)}


def test_a_new_reservation_mails_the_desk(app):
    row = make_reservation()
    (mail,) = mails()
    assert (mail.kind, mail.recipients, mail.unique_key) == (
        "reservation-new",
        ["admin@example.org"],
        f"reservation-new/{row.id}",
    )
    job = db.session.get(JobRecord, mail.job_id)
    assert (job.name, job.subject_type, job.subject_id) == ("mail.deliver", "reservation", str(row.id))


def test_without_an_address_of_the_desk_nothing_is_sent(app):
    app.config["ADMIN_EMAIL"] = None
    make_reservation()
    assert mails() == []


def test_one_user_mails_the_desk_so_many_reservations_in_an_hour_and_others_still_do(session, smtp, work):
    member, other = make_user(), make_user()

    def reserve(by: User, number: int) -> Counter[str]:
        with use_actor(Actor(by.id)):
            start = tomorrow()
            session.add_all([Reservation(customer=by, school_id=by.school_id, start_time=start) for _ in range(number)])
            session.commit()
        work()
        query = sa.select(EmailMessage.state).where(EmailMessage.kind == "reservation-new")
        return Counter(session.scalars(query))

    assert reserve(member, MAX_NEW_PER_HOUR - 1) == {MailState.SENT: MAX_NEW_PER_HOUR - 1}
    assert reserve(member, 3) == {MailState.SENT: MAX_NEW_PER_HOUR, MailState.SKIPPED: 2}
    assert reserve(other, 1) == {MailState.SENT: MAX_NEW_PER_HOUR + 1, MailState.SKIPPED: 2}


@pytest.mark.parametrize("status", ["confirmed", "cancelled"])
def test_confirming_and_cancelling_mail_the_customer(session, status):
    row = make_reservation()
    row.status = status
    session.commit()
    (mail,) = mails("reservation-status")
    change = session.scalars(sa.select(StatusChange)).one()
    assert mail.recipients == [row.customer.email]
    assert mail.change_id == change.id
    assert mail.unique_key == f"reservation-status/{row.id}/{status}/{change.id}"
    assert (mail.context["old"], mail.context["new"]) == ("pending", status)


def test_completing_sends_no_mail(session):
    row = make_reservation(status=ReservationStatus.CONFIRMED)
    row.status = ReservationStatus.COMPLETED
    session.commit()
    assert mails("reservation-status") == []
    assert count(session, StatusChange) == 1


def test_a_rollback_sends_nothing(session):
    row = make_reservation()
    row.status = ReservationStatus.CONFIRMED
    session.flush()
    session.rollback()
    assert mails("reservation-status") == []


@pytest.mark.slow
def test_a_bulk_update_of_a_thousand_makes_a_thousand_mails_and_jobs(app, session, broker, statements):
    insert_reservations(make_user(), 1_000, ReservationStatus.PENDING, tomorrow())
    statements.clear()
    session.execute(sa.update(Reservation).values(status=ReservationStatus.CONFIRMED))
    session.commit()
    sent = mails("reservation-status")
    assert len(sent) == 1_000
    assert len({mail.unique_key for mail in sent}) == 1_000
    assert {mail.state for mail in sent} == {MailState.QUEUED}
    jobs = set(session.scalars(sa.select(JobRecord.id).where(JobRecord.name == "mail.deliver")))
    assert {mail.job_id for mail in sent} == jobs
    assert broker.llen("rq:queue:mail") == app.config["WORKER_BATCH"]  # the others wait in SQL
    assert len(statements) < 40, "set-based: not a statement per row"


def test_the_contexts_of_many_mails_are_read_with_one_query(session, statements):
    rows = [make_reservation() for _ in range(3)]
    for row in rows:
        row.status = ReservationStatus.CONFIRMED
    session.commit()
    sent, before = mails("reservation-status"), len(statements)
    given = contexts("reservation-status", sent)
    assert len(given) == 3
    assert len(statements) - before == 1
    new = contexts("reservation-new", mails("reservation-new"))
    assert {context["id"] for context in new.values()} == {row.id for row in rows}


def test_the_status_mail_says_what_changed_on_the_customers_clock(session):
    customer = make_user(name="Ada Lovelace", time_zone="America/New_York")
    row = make_reservation(customer, start_time=tomorrow(15).replace(month=1, day=15) + timedelta(days=365))
    row.status = ReservationStatus.CONFIRMED
    session.commit()
    row.status = ReservationStatus.CANCELLED
    session.commit()
    confirmed, cancelled = mails("reservation-status")
    given = contexts("reservation-status", [confirmed, cancelled])
    mail = render("reservation-status", given[confirmed.id], customer.email)
    assert mail.subject == f"Reservation #{row.id} confirmed"
    for text in (mail.text, mail.html):
        assert "10:00 to 11:00 (America/New_York)" in text
        assert "is confirmed" in text
        assert f"/reservations/{row.id}" in text
        assert "Ada Lovelace" in text
    assert (
        "The school cancelled your reservation."
        in render("reservation-status", given[cancelled.id], customer.email).text
    )


def test_the_mail_to_a_customer_who_cancels_does_not_name_the_school(session):
    row = make_reservation()
    with use_actor(Actor(row.customer_id, None)):
        row.status = ReservationStatus.CANCELLED
        session.commit()
    (mail,) = mails("reservation-status")
    text = render("reservation-status", contexts(mail.kind, [mail])[mail.id], "a@example.org").text
    assert "You cancelled your reservation." in text


def test_the_mail_to_the_desk_asks_for_action(app):
    customer = make_user(name="Ada <Lovelace>")
    row = make_reservation(customer, note="<b>loud</b> cello", party_size=3)
    (mail,) = mails("reservation-new")
    rendered = render(mail.kind, contexts(mail.kind, [mail])[mail.id], "admin@example.org")
    assert rendered.subject == f"New reservation #{row.id} – action required"
    assert "Ada <Lovelace>" in rendered.text
    assert "&lt;b&gt;loud" in rendered.html
    assert customer.email in rendered.html


@pytest.mark.parametrize("kind", ["reservation-new", "reservation-status"])
def test_every_mail_renders_with_its_sample(app, kind):
    rendered = render(kind, kind_of(kind).sample(), "a@example.org")
    assert "42" in rendered.subject
    assert "42" in rendered.text
    assert "42" in rendered.html


def test_a_mail_about_a_deleted_reservation_has_no_context(session):
    row = make_reservation()
    (mail,) = mails()
    session.delete(row)
    session.commit()
    assert contexts(mail.kind, [mail]) == {mail.id: None}


def test_an_id_is_never_used_twice(session):
    row = make_reservation()
    before = row.id
    session.delete(row)
    session.commit()
    assert make_reservation().id > before


def test_the_sweep_completes_what_began_long_enough_ago(app, session):
    customer, now = make_user(), utc_now()
    minutes = app.config["RESERVATION_OVERDUE_MINUTES"]
    insert_reservations(customer, 3, ReservationStatus.CONFIRMED, now - timedelta(minutes=minutes, seconds=1))
    insert_reservations(customer, 1, ReservationStatus.CONFIRMED, now - timedelta(minutes=minutes - 1))
    insert_reservations(customer, 1, ReservationStatus.PENDING, now - timedelta(days=1))
    assert reservations.sweep_overdue(session) == 3
    session.commit()
    found = session.scalars(sa.select(Reservation.status).order_by(Reservation.id)).all()
    assert [status.value for status in found] == ["completed"] * 3 + ["confirmed", "pending"]
    assert count(session, StatusChange) == 3
    assert mails() == []
    assert reservations.sweep_overdue(session) == 0


def test_the_sweep_runs_as_a_job(session, work):
    insert_reservations(make_user(), 2, ReservationStatus.CONFIRMED, utc_now() - timedelta(days=1))
    job_id = enqueue("reservations.sweep_overdue")
    session.commit()
    work()
    job = session.get(JobRecord, job_id)
    assert (job.state, job.result) == (JobState.COMPLETED, {"completed": 2})
    assert {row.user_id for row in session.scalars(sa.select(StatusChange))} == {None}


def test_the_history_shows_changes_with_their_actors_and_mails(session, statements):
    customer, staff = make_user(name="Ada"), make_user(Role.STAFF, name="Stefan")
    with use_actor(Actor(customer.id, None)):
        row = reservations.create(customer, start_time=tomorrow())
        session.commit()
    with use_actor(Actor(staff.id, None)):
        reservations.set_status(staff, row, "confirmed")
        session.commit()
    (status_mail,) = mails("reservation-status")
    status_mail.state, status_mail.last_error = MailState.FAILED, "550 no such user"
    db.session.get(JobRecord, status_mail.job_id).state = JobState.FAILED
    row.status = ReservationStatus.COMPLETED
    session.commit()
    session.refresh(row)

    statements.clear()
    completed, confirmed, created = history_of(row)
    assert len(statements) == 4
    assert (created.who, created.from_status, created.to_status) == ("Ada", None, "pending")
    assert [(mail.kind, mail.state, mail.job.state) for mail in created.mails] == [
        ("reservation-new", MailState.QUEUED, JobState.PENDING)
    ]
    assert (confirmed.who, confirmed.from_status, confirmed.to_status) == ("Stefan", "pending", "confirmed")
    assert [(mail.kind, mail.state, mail.job.state, mail.last_error) for mail in confirmed.mails] == [
        ("reservation-status", MailState.FAILED, JobState.FAILED, "550 no such user")
    ]
    assert (completed.who, completed.to_status, completed.mails) == ("The sweep", "completed", [])
    told = history_for(customer, row)
    assert [[mail.kind for mail in entry.mails] for entry in told] == [[], ["reservation-status"], []]
    assert [mail.last_error for mail in told[1].mails] == [None]
    assert history_for(staff, row) == [completed, confirmed, created]
    assert all(entry.jobs == [] for entry in (completed, confirmed, created))
